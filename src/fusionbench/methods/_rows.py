"""Tensors of any shape as rows: whole, along one axis, or one row an output; and back."""

import math
from collections.abc import Sequence

from torch import Tensor

from fusionbench.weights.plan import Site


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor as one row, `(1, entries)`."""
    return tensor.reshape(1, tensor.numel())


def along(tensor: Tensor, axis: int) -> Tensor:
    """Return the lines of a tensor of two or more dimensions along `axis`, as `(lines, length)`."""
    moved = tensor.movedim(axis, -1)
    return moved.reshape(math.prod(moved.shape[:-1]), moved.shape[-1])


def back_along(rows: Tensor, shape: Sequence[int], axis: int) -> Tensor:
    """Return what `along` made of a tensor of `shape` as that tensor."""
    others = list(shape)
    length = others.pop(axis)
    return rows.reshape(*others, length).movedim(-1, axis)


def per_output(tensor: Tensor, site: Site | None) -> Tensor:
    """Return the weights of each output as a row, `(outputs, inputs)`; one row where there are no two axes."""
    if tensor.dim() < 2:
        return whole(tensor)
    if _inputs_first(tensor.shape, site):
        return tensor.transpose(0, 1)
    return tensor.reshape(tensor.shape[0], math.prod(tensor.shape[1:]))


def back_per_output(rows: Tensor, shape: Sequence[int], site: Site | None) -> Tensor:
    """Return what `per_output` made of a tensor of `shape` as that tensor."""
    return rows.transpose(0, 1) if _inputs_first(shape, site) else rows.reshape(tuple(shape))


def input_axis(tensor: Tensor, site: Site | None) -> int:
    """Return the axis that runs over a matrix's inputs: the last one, or the first of GPT-2's Conv1D."""
    return 0 if _inputs_first(tensor.shape, site) else tensor.dim() - 1


def _inputs_first(shape: Sequence[int], site: Site | None) -> bool:
    return site is not None and not site.inputs_last and len(shape) == 2
