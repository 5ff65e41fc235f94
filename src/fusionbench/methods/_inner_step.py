"""The inner level of a bi-level problem: one step on the coefficients, always from the same start."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fusionbench.methods._adaptation import clamped, inside
from fusionbench.training import State

Inner = Literal["sgd", "adam"]
MergePoint = Literal["fresh", "stale"]
FIRST, SECOND, TINY = 0.9, 0.999, 1e-8
"""Adam's decay rates and what keeps its quotient finite."""


@dataclass(frozen=True, slots=True)
class InnerStep:
    """How λ' comes from λ (arXiv:2312.06173, Algorithm 1, line 11).

    Attributes:
        start: λ before each step, `(experts, groups)`.
        kind: plain descent, or Adam, whose moments last from step to step while λ does not.
        rate: α.
        point: whether the gradient is taken at the start, or at the λ' of the step before.
        clamp: use λ clamped to [0, 1].
    """

    start: Tensor
    kind: Inner
    rate: float
    point: MergePoint
    clamp: bool

    def __call__(self, state: State, slope: Callable[[Tensor], Tensor]) -> Tensor:
        """Return λ', as it is used.

        Args:
            state: of the loop; what lasts from step to step is kept there, so that checkpoints have it.
            slope: returns ∂L/∂λ at given coefficients.
        """
        before = self._kept(state, "inner", self.start) if self.point == "stale" else self.start
        gradient = slope(clamped(before, self.clamp)) * inside(before, self.clamp)
        moved = self.start - self.rate * (gradient if self.kind == "sgd" else self._adam(state, gradient))
        if self.point == "stale":
            state.extra["inner"] = moved
        return clamped(moved, self.clamp)

    def _adam(self, state: State, gradient: Tensor) -> Tensor:
        """Return the direction of Adam's step, and keep its moments."""
        nothing = torch.zeros_like(gradient)
        first = FIRST * self._kept(state, "inner_first", nothing) + (1 - FIRST) * gradient
        second = SECOND * self._kept(state, "inner_second", nothing) + (1 - SECOND) * gradient.square()
        state.extra["inner_first"], state.extra["inner_second"] = first, second
        count = state.done + 1
        return (first / (1 - FIRST**count)) / ((second / (1 - SECOND**count)).sqrt() + TINY)

    def _kept(self, state: State, name: str, first: Tensor) -> Tensor:
        """Return what lasts from the step before, on the device of the start; checkpoints are read on the CPU."""
        return state.extra.get(name, first).to(self.start.device)
