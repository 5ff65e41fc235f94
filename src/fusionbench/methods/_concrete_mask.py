"""A mask over the entries of a model whose relaxed draws can be differentiated: the binary Concrete distribution.

One logit x an entry; a draw is m = σ((log u − log(1 − u) + x) / T) with u uniform (arXiv:2312.06173, eq. 6).
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from fusionbench.errors import ConfigError
from fusionbench.kernels.streams import stream_key
from fusionbench.methods._context import Context
from fusionbench.methods._deltas import Mask, MergedModule, Part, blocks_of
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights

Rescale = Literal["tensor", "global"]
Settled = Literal["mean", "sample", "binary"]
ARTEFACT = "mask"
EDGE = 1e-6
"""How near to 0 and 1 a uniform number may be."""
SMALL = 16
"""Tensors of fewer entries are left whole: the mean of so few mask values says nothing, and of one it is the mask."""
EMPTY = 1e-3
"""Mean of a mask below which what it masks is left whole, since dividing by it would blow it up."""


class ConcreteMask:
    """The logits, and the draws made from them.

    Attributes:
        logits: by canonical name, `(entries,)` float32; zero at first, so that each entry is kept with chance ½.
    """

    def __init__(
        self, sizes: Mapping[str, int], *, temperature: float, rescale: Rescale, seed: int, device: torch.device
    ) -> None:
        """Make logits for every tensor of `SMALL` entries or more.

        Args:
            sizes: entries by canonical name.
            temperature: T; towards 0 draws become 0 or 1.
            rescale: whether masked entries are divided by the mean of their tensor's mask, or of all masks.
            seed: of the draws.
            device: of the logits.

        Raises:
            ConfigError: where no tensor is large enough.
        """
        self.logits = {name: torch.zeros(size, device=device) for name, size in sizes.items() if size >= SMALL}
        if not self.logits:
            raise ConfigError(f"There is nothing to mask: no fused tensor has {SMALL} entries or more.")
        self._values = {name: torch.empty_like(logits) for name, logits in self.logits.items()}
        self._temperature, self._rescale, self._seed = temperature, rescale, seed

    @torch.no_grad()
    def draw(self, number: int) -> Mask:
        """Return the relaxed draw of that number, the same whenever it is asked for; the one before is overwritten."""

        def shuffled(name: str) -> None:
            generator = torch.Generator(self.logits[name].device)
            generator.manual_seed(stream_key(self._seed, name, f"concrete {number}"))
            torch.rand(self.logits[name].shape, generator=generator, out=self._values[name])

        # Torch draws a tensor by one thread, so the threads take tensors.
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            list(threads.map(shuffled, self.logits))
        for name, logits in self.logits.items():
            for block in blocks_of(len(logits)):
                part = self._values[name][block].clamp_(EDGE, 1 - EDGE).logit_()
                part.add_(logits[block]).div_(self._temperature).sigmoid_()
        return self._parts()

    @torch.no_grad()
    def settled(self, kind: Settled, number: int) -> Mask:
        """Return the mask that a model is merged with: σ(x), a draw, or where x > 0."""
        if kind == "sample":
            return self.draw(number)
        for name, logits in self.logits.items():
            self._values[name].copy_(logits.sigmoid() if kind == "mean" else (logits > 0).float())
        return self._parts()

    def _parts(self) -> Mask:
        means = {name: float(values.mean()) for name, values in self._values.items()}
        if self._rescale == "global":
            means = dict.fromkeys(means, self.kept(means))
        return {name: Part(self._values[name], mean) for name, mean in means.items() if mean >= EMPTY}

    def kept(self, means: Mapping[str, float]) -> float:
        """Return the mean over all entries, from those of the tensors."""
        sizes = {name: self.logits[name].numel() for name in means}
        return sum(sizes[name] * mean for name, mean in means.items()) / max(sum(sizes.values()), 1)

    @torch.no_grad()
    def backward(self, mask: Mask, products: Callable[[str], Tensor | None]) -> None:
        """Leave ∂L/∂x in the logits, from the last draw.

        With p = ∂L/∂(m/μ), μ the mean that divides and n its entries, ∂L/∂x = (p − Σ p·m / (n·μ)) · m·(1 − m) / (T·μ).

        Args:
            mask: what `draw` returned.
            products: returns p of a tensor, `(entries,)`, the module's gradient times the sum of deltas, to be
                overwritten; None where the module has no gradient.
        """
        given = {name: product for name in mask if (product := products(name)) is not None}
        dots = {name: float(torch.dot(product, mask[name].values)) for name, product in given.items()}
        total, count = sum(dots.values()), sum(len(part.values) for part in mask.values())
        for name, product in given.items():
            values, mean = mask[name]
            dot, entries = (total, count) if self._rescale == "global" else (dots[name], len(values))
            for block in blocks_of(len(values)):
                part, kept = product[block], values[block]
                part.sub_(dot / (entries * mean)).mul_(kept).addcmul_(part, kept, value=-1).div_(
                    self._temperature * mean
                )
            self.logits[name].grad = product

    def save(self, context: Context, merged: MergedModule) -> None:
        """Keep the logits, from which every kind of mask is made again."""
        shaped = {name: x.detach().view(merged.base[name].shape).cpu() for name, x in self.logits.items()}
        context.save(ARTEFACT, shaped, {"experts": "\n".join(merged.experts), "temperature": str(self._temperature)})

    def load(self, path: Path, merged: MergedModule) -> None:
        """Read logits that an earlier run saved.

        Raises:
            ConfigError: where they belong to other tensors or experts, with what differs.
        """
        source = open_source(path)
        found = LazyWeights(source)
        problems = list(_differences(found, {name: tuple(merged.base[name].shape) for name in self.logits}))
        experts = tuple(getattr(source, "metadata", {}).get("experts", "").split("\n"))
        if experts != merged.experts:
            problems.append(f"it is for the experts {', '.join(experts)}, here they are {', '.join(merged.experts)}")
        if problems:
            raise ConfigError(
                f"method.logits={path} is no mask of these models: {'; '.join(problems[:5])}. "
                "Leave method.logits out to learn one."
            )
        for name, logits in self.logits.items():
            logits.copy_(found[name].reshape(-1))


def _differences(found: LazyWeights, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    for name in [*shapes, *(name for name in found if name not in shapes)]:
        here = shapes.get(name, "no such tensor")
        there = tuple(found[name].shape) if name in found else "missing"
        if here != there:
            yield f"{name} is {there}, here {here}"
