"""OpenCLIP's image tower: a ViT with a class token and a projection. The names inside are OpenCLIP's own.

One difference: what OpenCLIP holds as `attn.in_proj_weight` is a linear map here, `attn.in_proj`, for methods to find.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedConfig, PreTrainedModel

QUICK = 1.702
"""Factor in the approximate GELU of OpenAI's models: x · σ(1.702 · x)."""


class OpenClipConfig(PreTrainedConfig):  # type: ignore[misc]
    """The form of an image tower; the defaults are those of ViT-B-32.

    Attributes:
        prefix: what stands before the names of all tensors in files, such as `model.`.
        image_size: height and width of an image in pixels.
        patch_size: of a patch.
        width: of the residual stream.
        layers: blocks.
        heads: of each attention.
        mlp_width: inside each MLP.
        projection_dim: of the features.
        others: shapes of tensors that no image goes through, by name: the text tower's remains.
    """

    model_type = "open_clip"

    def __init__(
        self,
        *,
        prefix: str = "model.",
        image_size: int = 224,
        patch_size: int = 32,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        mlp_width: int = 3072,
        projection_dim: int = 512,
        others: Mapping[str, Sequence[int]] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the values; what Hugging Face adds to a configuration goes to its own class."""
        self.prefix, self.image_size, self.patch_size = prefix, image_size, patch_size
        self.width, self.layers, self.heads, self.mlp_width = width, layers, heads, mlp_width
        self.projection_dim = projection_dim
        self.others = {name: list(shape) for name, shape in (others or {}).items()}
        super().__init__(**kwargs)


class Attention(nn.Module):
    """Attention of every token to every token; one map makes queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return `(images, tokens, width)` of the same."""
        parts = self.in_proj(tokens).unflatten(-1, (3, self.heads, -1)).movedim(2, 0).transpose(2, 3)
        mixed: Tensor = scaled_dot_product_attention(parts[0], parts[1], parts[2])
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    """Two linear maps with an approximate GELU between."""

    def __init__(self, width: int, inside: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, inside)
        self.c_proj = nn.Linear(inside, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return `(images, tokens, width)` of the same."""
        inside = self.c_fc(tokens)
        out: Tensor = self.c_proj(inside * torch.sigmoid(QUICK * inside))
        return out


class Block(nn.Module):
    """Attention and MLP, each after a normalisation and beside a shortcut."""

    def __init__(self, config: OpenClipConfig) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.attn = Attention(config.width, config.heads)
        self.mlp = Mlp(config.width, config.mlp_width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return `(images, tokens, width)` of the same."""
        tokens = tokens + self.attn(self.ln_1(tokens))
        out: Tensor = tokens + self.mlp(self.ln_2(tokens))
        return out


class Transformer(nn.Module):
    """The blocks, one after another."""

    def __init__(self, config: OpenClipConfig) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(Block(config) for _ in range(config.layers)))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return `(images, tokens, width)` of the same."""
        out: Tensor = self.resblocks(tokens)
        return out


class Visual(nn.Module):
    """From pixels to features."""

    def __init__(self, config: OpenClipConfig) -> None:
        super().__init__()
        width, tokens = config.width, (config.image_size // config.patch_size) ** 2 + 1
        self.conv1 = nn.Conv2d(3, width, config.patch_size, config.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(tokens, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Transformer(config)
        self.proj = nn.Parameter(torch.zeros(width, config.projection_dim))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return `(images, projection_dim)`, not normalised."""
        patches = self.conv1(pixel_values).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(patches), 1, -1)
        tokens = self.ln_pre(torch.cat([first, patches], dim=1) + self.positional_embedding)
        out: Tensor = self.ln_post(self.transformer(tokens)[:, 0]) @ self.proj
        return out


class OpenClipEncoder(PreTrainedModel):  # type: ignore[misc]
    """An image tower, with the tensors of its file that no image goes through."""

    config_class = OpenClipConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"

    def __init__(self, config: OpenClipConfig) -> None:
        super().__init__(config)
        self.visual = Visual(config)
        shapes = {own_name(name): tuple(shape) for name, shape in config.others.items()}
        self.others = nn.ParameterDict({name: nn.Parameter(torch.zeros(shape)) for name, shape in shapes.items()})
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Leave new weights as they are: this tower is always loaded."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return `(images, projection_dim)`, not normalised."""
        features: Tensor = self.visual(pixel_values)
        return features


def own_name(name: str) -> str:
    """Return the key under which a tensor that no image goes through is held."""
    return name.replace(".", "_")
