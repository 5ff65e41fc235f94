"""Frozen heads: what turns a backbone's features into one task's logits."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from fusionbench.cache import cache_folder
from fusionbench.errors import MissingPart
from fusionbench.families import Batch, Family, HasText, as_source, load_module
from fusionbench.weights.headers import Source
from fusionbench.weights.partial import settle

FORMAT = 1
"""Raised when a head of the same inputs comes out otherwise, so that cached ones are not used again."""
PROMPTS = 512
"""Texts that go through the text tower at a time."""


@dataclass(frozen=True, slots=True)
class ZeroShotHead:
    """CLIP's: logits = scale · cosine similarity of an image with each class (arXiv:2103.00020, §3.1.2).

    Attributes:
        text: `(classes, width)`, float32, unit rows.
        scale: `exp(logit_scale)`, about 100 in the released models.
    """

    text: Tensor
    scale: float

    def __call__(self, features: Tensor) -> Tensor:
        """Map features `(images, width)`, of any length, to logits `(images, classes)` in float32."""
        unit = normalize(features.to(torch.float32), dim=-1)
        return self.scale * unit @ self.text.to(features.device).T


def zero_shot_head(
    family: Family, base: Source | nn.Module, class_names: Sequence[str], templates: Sequence[str]
) -> ZeroShotHead:
    """Return the head that a model's own text tower makes of class names.

    A class's row is the mean over the templates of the normalised text embeddings, normalised again. It is kept under
    the cache folder, by the text tower's content and the prompts' tokens.

    Args:
        family: one that embeds texts.
        base: the pretrained checkpoint, with its tokenizer, or its module as Hugging Face loaded it from a folder.
        class_names: in the order of the labels.
        templates: each with `{}` where the class name goes.

    Raises:
        MissingPart: where the family has no text tower.
        CheckpointError: where the checkpoint has no tokenizer.
    """
    if not isinstance(family, HasText):
        raise MissingPart(family.name, "text tower, which makes heads of class names")
    source = as_source(base)
    prompts = [template.replace("{}", name) for name in class_names for template in templates]
    tokens = family.tokenize(source, prompts)
    place = cache_folder("heads") / f"{_key(family, source, tokens, len(templates))}.safetensors"
    if not place.is_file():
        module = base if isinstance(base, nn.Module) else load_module(family, base)
        _save(_embed(family, module, tokens, len(templates)), place)
    # Read back even when just made: training cannot save tensors of inference mode for its backward pass.
    stored = load_file(place)
    return ZeroShotHead(stored["text"], float(stored["scale"]))


@torch.inference_mode()
def _embed(family: HasText, module: nn.Module, tokens: Batch, templates: int) -> dict[str, Tensor]:
    count = len(tokens["input_ids"])
    parts = [
        family.text_features(module, {name: ids[first : first + PROMPTS] for name, ids in tokens.items()})
        for first in range(0, count, PROMPTS)
    ]
    unit = normalize(torch.cat(parts).to(torch.float32), dim=-1).view(count // templates, templates, -1)
    scale = torch.tensor(family.logit_scale(module), dtype=torch.float64)
    return {"text": normalize(unit.mean(dim=1), dim=-1), "scale": scale}


def _key(family: Family, source: Source, tokens: Batch, templates: int) -> str:
    """Return a digest of everything that decides the head: all tensors that are not fused, and the tokens."""
    hasher = hashlib.sha256(repr((FORMAT, family.name, family.version, templates)).encode())
    for name in sorted(source.specs):
        if not (family.tower and name.startswith(family.tower)):
            hasher.update(repr(source.specs[name]).encode())
            hasher.update(source.read(name))
    for name, ids in sorted(tokens.items()):
        hasher.update(f"{name} {tuple(ids.shape)}".encode())
        hasher.update(ids.numpy().tobytes())
    return hasher.hexdigest()


def _save(tensors: dict[str, Tensor], place: Path) -> None:
    """Write a file that is never seen half written, whoever else writes it at the same time."""
    partial = place.with_suffix(f".{os.getpid()}.partial")
    save_file(tensors, partial)
    settle(partial, place)
