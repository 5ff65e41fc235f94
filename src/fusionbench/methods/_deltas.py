"""A module whose weights are θ₀ + Σ λᵢ·τᵢ, and the gradient of the λ without a graph through the merge.

∂L/∂λᵢ = ⟨∂L/∂θ, τᵢ⟩ for each group of tensors, so one backward pass to the merged weights is enough; the deltas may lie
in memory, in bfloat16, or in a file that is mapped.
"""

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from fusionbench.families import Family, load_module
from fusionbench.merge import Pool
from fusionbench.weights.checks import fit
from fusionbench.weights.roles import is_statistic
from fusionbench.weights.tensors import LazyWeights, Weights

Storage = Literal["memory", "bfloat16", "disk"]


class MergedModule:
    """The working module and the deltas that its weights are made of.

    Attributes:
        module: in eval mode; its fused parameters are overwritten in place by `put`.
        names: canonical names of the fused float parameters, in order: the columns of layer-wise coefficients.
        experts: names of the experts: the rows.
        reference: the base, whose names are canonical.
    """

    def __init__(
        self,
        pool: Pool,
        family: Family,
        *,
        storage: Storage = "memory",
        device: torch.device | None = None,
    ) -> None:
        """Load the base as a module and the experts as deltas, one expert's tensor at a time.

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
        sources = [LazyWeights(source) for source in pool.experts.values()]
        self.deltas: dict[str, Tensor] = {}
        for name in fused:
            experts = [w[own[name]].to(self.device, torch.float32) for w, own in zip(sources, found.names, strict=True)]
            deltas = [expert - self.base[name] for expert in experts]
            self.deltas[name] = self._kept(torch.stack([delta.reshape(-1) for delta in deltas]), storage)

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
    def put(self, coefficients: Tensor, masks: Mapping[str, Tensor] | None = None) -> None:
        """Overwrite the module's fused weights with θ₀ + Σ λᵢ·τᵢ (⊙ mask).

        Args:
            coefficients: `(experts, 1)`, or `(experts, names)`.
            masks: by name, `(entries,)`: what the sum of deltas is multiplied by.
        """
        for column, name in enumerate(self.names):
            factors = coefficients[:, column if coefficients.shape[1] > 1 else 0]
            total = self._sum(name, factors)
            if masks is not None:
                total = total * masks[name]
            self.parameters[name].copy_(self.base[name] + total.view(self.base[name].shape))

    def _sum(self, name: str, factors: Tensor) -> Tensor:
        deltas = self.deltas[name]
        total = deltas[0].float() * factors[0]
        for delta, factor in zip(deltas[1:], factors[1:], strict=True):
            total = total + delta.float() * factor
        return total

    @torch.no_grad()
    def gradient(self, groups: int) -> Tensor:
        """Return ∂L/∂λ from the gradients in the module, `(experts, groups)`, in float32; groups is 1 or all names."""
        found = torch.zeros(len(self.experts), len(self.names), device=self.device)
        for column, name in enumerate(self.names):
            gradient = self.parameters[name].grad
            if gradient is not None:
                flat = gradient.reshape(-1)
                for row, delta in enumerate(self.deltas[name]):
                    found[row, column] = torch.dot(delta.float(), flat)
        return found if groups > 1 else found.sum(dim=1, keepdim=True)

    def clear(self) -> None:
        """Drop the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def weights(self) -> Weights:
        """Return the present fused weights by canonical name, on memory of their own."""
        return {name: parameter.detach().cpu().clone() for name, parameter in self.parameters.items()}
