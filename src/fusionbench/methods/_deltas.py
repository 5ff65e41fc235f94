"""A module whose weights are θ₀ + Σ λᵢ·τᵢ, and the gradient of the λ without a graph through the merge.

∂L/∂λᵢ = ⟨∂L/∂θ, τᵢ⟩ for each group of tensors, so one backward pass to the merged weights is enough; the deltas may lie
in memory, in bfloat16, or in a file that is mapped.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from fusionbench.families import Family, load_module
from fusionbench.merge import Pool
from fusionbench.methods._mapped import MappedTensors, ScratchFiles, release
from fusionbench.weights.checks import fit
from fusionbench.weights.roles import is_statistic
from fusionbench.weights.safetensors import SafetensorsSource
from fusionbench.weights.tensors import LazyWeights, Weights

Storage = Literal["memory", "bfloat16", "disk"]
BLOCK = 1 << 17
"""Entries of a tensor that are merged or reduced at a time, so that what comes between stays in the cache."""


class Part(NamedTuple):
    """What a tensor's sum of deltas is multiplied by: values `(entries,)` in [0, 1], divided by their mean."""

    values: Tensor
    mean: float


Mask = Mapping[str, Part]
"""By canonical name; tensors that are not in it are left whole."""


class MergedModule:
    """The working module and the deltas that its weights are made of.

    Attributes:
        module: in eval mode; its fused parameters are overwritten in place by `put`.
        names: canonical names of the fused float parameters, in order: the columns of layer-wise coefficients.
        experts: names of the experts: the rows.
        reference: the base, whose names are canonical.
        base: its fused tensors by canonical name; on the CPU views of its files, in the kind of number they have there.
        deltas: `(experts, entries)` by canonical name.
        statistics: of BatchNorm layers, by canonical name: the module's, over all experts.
    """

    def __init__(
        self,
        pool: Pool,
        family: Family,
        *,
        storage: Storage = "memory",
        device: torch.device | None = None,
        summed: bool = False,
    ) -> None:
        """Load the base as a module and the experts as deltas, one expert's tensor at a time.

        Args:
            pool: base and experts.
            family: how the module runs.
            storage: where the deltas lie.
            device: of the module.
            summed: keep only the sum of the deltas, `(1, entries)`, for methods that never look at one expert alone.

        Raises:
            IncompatibleModels: with every difference between the models.
        """
        self.reference = reference = pool.reference
        found = fit(reference, pool.experts, tower=pool.tower)
        self.device = device or torch.device("cpu")
        self.experts = tuple(pool.experts)
        self.module = load_module(family, reference).float().to(self.device).eval()
        inside = family.names(reference.specs)
        held = dict(self.module.named_parameters())
        # A tied tensor that the files store twice is one parameter of the module.
        self._again = {n: kept for n, kept in found.aliases.items() if n not in inside or inside[n] not in held}
        scope = [name for name in found.scope if name in inside and name not in self._again]
        fused = [n for n in scope if reference.specs[n].is_float and not is_statistic(n)]
        self.names = tuple(fused)
        release(reference)
        self.parameters = {name: held[inside[name]] for name in fused}
        for parameter in self.module.parameters():
            parameter.requires_grad_(False)
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
        self._mapped = self._map()
        self.base: Mapping[str, Tensor] = (
            {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
            if self._mapped is None
            else self._mapped
        )
        self._lend_the_rest(held, inside)
        self._sources = [(LazyWeights(e), own) for e, own in zip(pool.experts.values(), found.names, strict=True)]
        means = [n for n in found.scope if is_statistic(n) and n.endswith("mean") and n in inside]
        self._statistics = {name: name.removesuffix("mean") + "var" for name in means}
        self.statistics = self.mixed_statistics(range(len(self.experts)))
        state = self.module.state_dict()
        for name, tensor in self.statistics.items():
            state[inside[name]].copy_(tensor)
        self._scratch = ScratchFiles() if storage == "disk" else None
        self.deltas = {name: self._kept(name, storage, summed=summed) for name in fused}

    def _map(self) -> MappedTensors | None:
        """Return the base as views of its files, where it lies in files and the module on the CPU."""
        if self.device.type != "cpu" or not isinstance(self.reference, SafetensorsSource):
            return None
        return MappedTensors(self.reference)

    def _lend_the_rest(self, held: Mapping[str, nn.Parameter], inside: Mapping[str, str]) -> None:
        """Let what is not fused, such as a tower that is never run, lie in the base's files."""
        for name, own in inside.items():
            if self._mapped is not None and own in held and name not in self.parameters:
                stored = self._mapped.get(name)
                if stored is not None and stored.dtype == held[own].dtype:
                    held[own].data = stored

    def _expert(self, number: int, name: str) -> Tensor:
        """Return a tensor of an expert from its files, float32, on memory of its own."""
        weights, own = self._sources[number]
        tensor = weights[own[name]].to(self.device, torch.float32)
        release(weights.source)
        return tensor

    def _delta(self, number: int, name: str) -> Tensor:
        """Return an expert's delta of a tensor from the files, `(entries,)`, float32."""
        delta = self._expert(number, name).sub_(self.base[name]).reshape(-1)
        self._let_go(name)
        return delta

    def _kept(self, name: str, storage: Storage, *, summed: bool) -> Tensor:
        """Return a tensor's deltas `(experts, entries)`, or their sum `(1, entries)`, where they are to lie."""
        entries, kind = self.parameters[name].numel(), torch.bfloat16 if storage == "bfloat16" else torch.float32
        if summed:
            total = torch.zeros(1, entries, device=self.device)
            for number in range(len(self.experts)):
                total[0] += self._delta(number, name)
            return total
        shape = (len(self.experts), entries)
        kept = self._scratch.empty(name, shape) if self._scratch else torch.empty(shape, dtype=kind, device=self.device)
        for number, row in enumerate(kept):
            row.copy_(self._delta(number, name))
            self._let_go(name)
        return kept

    def _let_go(self, name: str) -> None:
        """Give back what memory holds of a tensor's files."""
        if self._mapped is not None:
            self._mapped.let_go(name)
        if self._scratch is not None:
            self._scratch.let_go(name)

    @torch.no_grad()
    def mixed_statistics(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Return the BatchNorm statistics of the inputs of some experts together, by canonical name.

        μ = Σ μᵢ / N and σ² = Σ (σᵢ² + (μᵢ − μ)²) / N, as a streamed merge has them.
        """
        found: dict[str, Tensor] = {}
        for name, variance in self._statistics.items():
            means, variances = (
                torch.stack([self._expert(row, part) for row in rows]).double() for part in (name, variance)
            )
            mean = means.mean(dim=0)
            found |= {name: mean.float(), variance: (variances + (means - mean) ** 2).mean(dim=0).float()}
        return found

    @torch.no_grad()
    def put(self, coefficients: Tensor, mask: Mask | None = None, *, exact: bool = False) -> None:
        """Overwrite the module's fused weights with θ₀ + Σ λᵢ·τᵢ, or θ₀ + m/mean(m) ⊙ Σ λᵢ·τᵢ.

        Args:
            coefficients: `(experts, 1)`, or `(experts, names)`.
            mask: what the sum of deltas is multiplied by.
            exact: read the deltas from the files, whatever of them is kept here.
        """
        for column, name in enumerate(self.names):
            base, parameter = self.base[name].reshape(-1), self.parameters[name].view(-1)
            part = mask.get(name) if mask is not None else None
            for block, total in self.totals(name, coefficients, column, exact=exact):
                if part is not None:
                    total.mul_(part.values[block]).div_(part.mean)
                torch.add(base[block], total, out=parameter[block])
            self._let_go(name)

    def totals(
        self, name: str, coefficients: Tensor, column: int, *, exact: bool = False
    ) -> Iterator[tuple[slice, Tensor]]:
        """Yield Σ λᵢ·τᵢ of one tensor, block by block; `column` is the tensor's place among the names."""
        factors = coefficients[:, column if coefficients.shape[1] > 1 else 0].detach()
        if exact:
            deltas = torch.stack([self._delta(number, name) for number in range(len(self.experts))])
        else:
            deltas = self.deltas[name]
        for block in blocks_of(deltas.shape[1]):
            yield block, factors @ deltas[:, block].float()
            if self._scratch is not None:
                self._scratch.let_go(name)

    @torch.no_grad()
    def gradient(self, groups: int, mask: Mask | None = None) -> Tensor:
        """Return ∂L/∂λ from the gradients in the module, `(experts, groups)`, in float32; groups is 1 or all names.

        Args:
            groups: columns of the coefficients.
            mask: with which the weights were put; the module's gradients are overwritten with their masked form.
        """
        rows = len(next(iter(self.deltas.values())))
        found = torch.zeros(rows, len(self.names), device=self.device)
        for column, name in enumerate(self.names):
            gradient = self.parameters[name].grad
            if gradient is None:
                continue
            flat = gradient.reshape(-1)
            part = mask.get(name) if mask is not None else None
            if part is not None:
                flat = flat.mul_(part.values).div_(part.mean)
            deltas = self.deltas[name]
            for block in blocks_of(len(flat)):
                found[:, column] += deltas[:, block].float() @ flat[block]
                if self._scratch is not None:
                    self._scratch.let_go(name)
        return found if groups > 1 else found.sum(dim=1, keepdim=True)

    def take(self, name: str) -> Tensor | None:
        """Return one tensor's gradient, `(entries,)`, which is the caller's from then on; None where there is none."""
        gradient = self.parameters[name].grad
        self.parameters[name].grad = None
        return None if gradient is None else gradient.reshape(-1)

    def clear(self) -> None:
        """Drop the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def weights(self) -> Weights:
        """Return the present fused weights and statistics by canonical name, on memory of their own."""
        held = {**self.parameters, **self.statistics}
        return self.under_all_names({name: tensor.detach().cpu().clone() for name, tensor in held.items()})

    def under_all_names(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return fused tensors with the second names of those that the reference's files store twice."""
        return {**tensors, **{other: tensors[kept] for other, kept in self._again.items()}}


def blocks_of(entries: int) -> Iterator[slice]:
    """Yield the blocks of a tensor's flat entries."""
    for first in range(0, entries, BLOCK):
        yield slice(first, min(first + BLOCK, entries))
