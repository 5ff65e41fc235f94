"""What a training is made of: the step function that its author writes, and what the loop gives it."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from fusionbench.training.processes import ALONE, Processes

Metrics = Mapping[str, Tensor | float]


@dataclass(slots=True)
class State:
    """What a step function may use and change.

    Attributes:
        done: optimizer steps so far.
        accelerator: Accelerate's object: device, precision, gradients.
        extra: tensors of the step function's own that checkpoints keep.
        processes: those that take each step together.
    """

    done: int
    accelerator: Any
    extra: dict[str, Tensor] = field(default_factory=dict)
    processes: Processes = ALONE

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context of the loop's precision, for the forward pass."""
        return self.accelerator.autocast()  # type: ignore[no-any-return]

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients, divided by the number of batches a step."""
        self.accelerator.backward(loss)


Step = Callable[[State, Any], Metrics]
"""Leaves gradients in the trained tensors' `.grad`, by `state.backward` or by hand; returns numbers for the curve.

Where several processes take a step together, each leaves its part of the gradients, which the loop adds up, and all
return the same numbers.
"""


def step_of(loss: Callable[[Any], Tensor]) -> Step:
    """Return the step that descends a loss of a batch and reports it as "loss", summed over the processes."""

    def step(state: State, batch: Any) -> Metrics:
        with state.autocast():
            value = loss(batch)
        state.backward(value)
        return {"loss": state.processes.sum(value.detach())}

    return step


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return what training a module changes: its parameters that require gradients, and its buffers."""
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    return {**trained, **dict(module.named_buffers())}
