"""A module whose weights are θ₀ + Σ λᵢ·τᵢ, and the gradient of the λ without a graph through the merge.

∂L/∂λᵢ = ⟨∂L/∂θ, τᵢ⟩ for each group of tensors, so one backward pass to the merged weights is enough; the deltas may lie
in memory, in bfloat16, or in a file that is mapped.
"""

import mmap
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fusionbench.families import Family, load_module
from fusionbench.merge import Pool
from fusionbench.weights.checks import fit
from fusionbench.weights.headers import Source
from fusionbench.weights.roles import is_statistic
from fusionbench.weights.safetensors import SafetensorsSource
from fusionbench.weights.tensors import LazyWeights, Weights

Storage = Literal["memory", "bfloat16", "disk"]
BLOCK = 1 << 20
"""Entries of deltas in bfloat16 that are widened at a time."""


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
        statistics: of BatchNorm layers, by canonical name: the module's, over all experts.
    """

    def __init__(
        self,
        pool: Pool,
        family: Family,
        *,
        storage: Storage = "memory",
        device: torch.device | None = None,
        reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Load the base as a module and the experts as deltas, one expert's tensor at a time.

        Args:
            pool: base and experts.
            family: how the module runs.
            storage: where the deltas lie.
            device: of the module.
            reduce: makes fewer rows of a tensor's deltas `(experts, entries)` before they are kept, for methods that
                never look at one expert alone.

        Raises:
            IncompatibleModels: with every difference between the models.
        """
        self.reference = reference = pool.reference
        found = fit(reference, pool.experts, tower=pool.tower)
        self.device = device or torch.device("cpu")
        self.experts = tuple(pool.experts)
        self.module = load_module(family, reference).float().to(self.device).eval()
        inside = family.names(reference.specs)
        fused = [n for n in found.scope if reference.specs[n].is_float and not is_statistic(n) and n in inside]
        self.names = tuple(fused)
        release(reference)
        held = dict(self.module.named_parameters())
        self.parameters = {name: held[inside[name]] for name in fused}
        for parameter in self.module.parameters():
            parameter.requires_grad_(False)
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
        self.base = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self._scratch = Path(tempfile.mkdtemp(prefix="deltas-")) if storage == "disk" else None
        if self._scratch is not None:
            weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)
        self._sources = [(LazyWeights(e), own) for e, own in zip(pool.experts.values(), found.names, strict=True)]
        self.statistics = self._mixed_statistics(found.scope, inside)
        self.deltas: dict[str, Tensor] = {}
        for name in fused:
            deltas = self._read(name)
            self.deltas[name] = self._kept(deltas if reduce is None else reduce(deltas), storage)

    def _read(self, name: str) -> Tensor:
        """Return a tensor's deltas from the files, `(experts, entries)`, float32."""
        return torch.stack([(expert - self.base[name]).reshape(-1) for expert in self._held(name)])

    def _held(self, name: str) -> list[Tensor]:
        """Return a tensor of each expert from the files, float32."""
        held = []
        for weights, own in self._sources:
            # Cloned where it would be a view of the file, whose memory is let go.
            held.append(weights[own[name]].to(self.device, torch.float32, copy=True))
            release(weights.source)
        return held

    @torch.no_grad()
    def _mixed_statistics(self, scope: Sequence[str], inside: Mapping[str, str]) -> dict[str, Tensor]:
        """Give the module the BatchNorm statistics of all experts' inputs together; return them by canonical name.

        μ = Σ μᵢ / N and σ² = Σ (σᵢ² + (μᵢ − μ)²) / N, as a streamed merge has them.
        """
        found: dict[str, Tensor] = {}
        for name in scope:
            if is_statistic(name) and name.endswith("mean") and name in inside:
                variance = name.removesuffix("mean") + "var"
                means, variances = (torch.stack(self._held(part)).double() for part in (name, variance))
                mean = means.mean(dim=0)
                found |= {name: mean.float(), variance: (variances + (means - mean) ** 2).mean(dim=0).float()}
        state = self.module.state_dict()
        for name, tensor in found.items():
            state[inside[name]].copy_(tensor)
        return found

    def _kept(self, deltas: Tensor, storage: Storage) -> Tensor:
        """Return deltas `(experts, entries)` where they are to lie."""
        if storage == "bfloat16":
            return deltas.bfloat16()
        if self._scratch is None:
            return deltas
        file = self._scratch / str(len(self.deltas))
        mapped = torch.from_file(str(file), shared=True, size=deltas.numel(), dtype=torch.float32)
        mapped.copy_(deltas.reshape(-1))
        return mapped.view(deltas.shape)

    @torch.no_grad()
    def put(self, coefficients: Tensor, mask: Mask | None = None, *, exact: bool = False) -> None:
        """Overwrite the module's fused weights with θ₀ + Σ λᵢ·τᵢ, or θ₀ + m/mean(m) ⊙ Σ λᵢ·τᵢ.

        Args:
            coefficients: `(experts, 1)`, or `(experts, names)`.
            mask: what the sum of deltas is multiplied by.
            exact: read the deltas from the files, whatever of them is kept here.
        """
        for column, name in enumerate(self.names):
            total = self.total(name, coefficients, column, exact=exact)
            parameter, base = self.parameters[name], self.base[name]
            part = mask.get(name) if mask is not None else None
            if part is None:
                torch.add(base, total.view(base.shape), out=parameter)
            else:
                values = part.values.view(base.shape)
                torch.addcmul(base, total.view(base.shape), values, value=1 / part.mean, out=parameter)

    @torch.no_grad()
    def total(self, name: str, coefficients: Tensor, column: int, *, exact: bool = False) -> Tensor:
        """Return Σ λᵢ·τᵢ of one tensor, `(entries,)`; `column` is the tensor's place among the names."""
        factors = coefficients[:, column if coefficients.shape[1] > 1 else 0].detach()
        deltas = self._read(name) if exact else self.deltas[name]
        if deltas.dtype == torch.float32:
            return factors @ deltas
        return torch.cat([factors @ block.float() for block in torch.split(deltas, BLOCK, dim=1)])

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
            if deltas.dtype == torch.float32:
                found[:, column] = deltas @ flat
            else:
                for block, piece in zip(torch.split(deltas, BLOCK, dim=1), torch.split(flat, BLOCK), strict=True):
                    found[:, column] += block.float() @ piece
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
        return {name: tensor.detach().cpu().clone() for name, tensor in held.items()}


def release(source: Source) -> None:
    """Let go of the memory that holds what was read of a mapped checkpoint; it comes from the file again when asked."""
    for file in source.files if isinstance(source, SafetensorsSource) else ():
        mapped = file.read(next(iter(file.specs))).obj
        if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)
