"""Tiny image encoders and heads as the task_vectors release pickles them, made of torch's own layers."""

import pickle
import sys
import types
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

VANISHED = "code_of_the_release"
"""A module that is there while files are written, and never afterwards."""


class QuickGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class ResidualBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        parts = [("c_fc", nn.Linear(width, 2 * width)), ("gelu", QuickGelu()), ("c_proj", nn.Linear(2 * width, width))]
        self.mlp = nn.Sequential(OrderedDict(parts))

    def forward(self, x: Tensor) -> Tensor:
        read = self.ln_1(x)
        x = x + self.attn(read, read, read, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Stack(nn.Module):
    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(ResidualBlock(width, heads) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        return self.resblocks(x)


class VisualTransformer(nn.Module):
    def __init__(self, width: int, heads: int, side: int, patch: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty((side // patch) ** 2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Stack(width, heads, 2)
        self.proj = nn.Parameter(torch.empty(width, out))

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv1(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1) + self.positional_embedding
        # Tokens first, as OpenCLIP had it then.
        x = self.transformer(self.ln_pre(x).transpose(0, 1)).transpose(0, 1)
        return self.ln_post(x[:, 0]) @ self.proj


class Clip(nn.Module):
    def __init__(self, width: int, heads: int, side: int, patch: int, out: int) -> None:
        super().__init__()
        self.visual = VisualTransformer(width, heads, side, patch, out)
        self.token_embedding = nn.Embedding(12, out)
        self.positional_embedding = nn.Parameter(torch.empty(7, out))
        self.ln_final = nn.LayerNorm(out)
        self.text_projection = nn.Parameter(torch.empty(out, out))
        self.logit_scale = nn.Parameter(torch.empty(()))
        self.register_buffer("attn_mask", torch.zeros(7, 7), persistent=False)


class ImageEncoder(nn.Module):
    def __init__(self, width: int = 16, heads: int = 4, side: int = 32, patch: int = 8, out: int = 8) -> None:
        super().__init__()
        self.model = Clip(width, heads, side, patch, out)
        self.train_preprocess = self.val_preprocess = Preprocess()
        self.cache_dir = None

    def forward(self, image: Tensor) -> Tensor:
        return self.model.visual(image)


class Preprocess:
    """Stands for torchvision's transforms, which the release's files hold too."""

    def __init__(self) -> None:
        self.transforms = ["resize", 224]


class ClassificationHead(nn.Linear):
    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight.shape[1], weight.shape[0])
        self.normalize = True
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(torch.zeros(len(weight)))


CLASSES = (
    QuickGelu, ResidualBlock, Stack, VisualTransformer, Clip, ImageEncoder, Preprocess, ClassificationHead,
)  # fmt: skip


@contextmanager
def release_code(*more: type) -> Iterator[None]:
    """Let these classes belong to a module that is gone when the block ends."""
    module = types.ModuleType(VANISHED)
    held = {cls: cls.__module__ for cls in (*CLASSES, *more)}
    for cls in held:
        setattr(module, cls.__qualname__, cls)
        cls.__module__ = VANISHED
    sys.modules[VANISHED] = module
    try:
        yield
    finally:
        del sys.modules[VANISHED]
        for cls, home in held.items():
            cls.__module__ = home


def make_encoder(seed: int, around: nn.Module | None = None) -> ImageEncoder:
    """A random encoder; with `around`, one that lies near another."""
    drawn = torch.Generator().manual_seed(seed)
    encoder = ImageEncoder()
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            noise = torch.randn(parameter.shape, generator=drawn)
            parameter.copy_(0.3 * noise if around is None else around.state_dict()[name] + 0.02 * noise)
    return encoder.eval()


def write_module(item: Any, path: Path, form: str = "pickle") -> None:
    """Write an object as the release does (a plain pickle), or as `torch.save` does now or did before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with release_code():
        if form == "pickle":
            path.write_bytes(pickle.dumps(item))
        else:
            # The older form warns that it cannot save the source code of classes beside them.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                torch.save(item, path, _use_new_zipfile_serialization=form == "zip")
