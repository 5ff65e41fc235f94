"""Models as numpy arrays: what the independent references share.

A model is one array, or a mapping name -> array. Everything is computed in float64, whatever comes in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Model = Mapping[str, Array] | Array


def named(model: Model) -> dict[str, Array]:
    """Return the model as a float64 mapping; a bare array gets the empty name."""
    items = model if isinstance(model, Mapping) else {"": model}
    return {name: np.asarray(array, dtype=np.float64) for name, array in items.items()}


def like(result: Mapping[str, Array], model: Model) -> Model:
    """Return ``result`` as a bare array if ``model`` was one."""
    return dict(result) if isinstance(model, Mapping) else result[""]


def deltas(base: Model, experts: Sequence[Model]) -> list[dict[str, Array]]:
    """Return expert - base for each expert, tensor by tensor."""
    origin = named(base)
    return [{name: array - origin[name] for name, array in named(expert).items()} for expert in experts]


def flatten(model: Mapping[str, Array]) -> Array:
    """Return all entries as one vector, tensors in the order of their sorted names."""
    return np.concatenate([model[name].reshape(-1) for name in sorted(model)])


def unflatten(vector: Array, model: Mapping[str, Array]) -> dict[str, Array]:
    """Cut a vector made by :func:`flatten` into tensors of the shapes of ``model``."""
    result, start = {}, 0
    for name in sorted(model):
        size = model[name].size
        result[name] = vector[start : start + size].reshape(model[name].shape)
        start += size
    return result


def add(base: Model, delta: Mapping[str, Array], scale: float = 1.0) -> Model:
    """Return base + scale * delta."""
    return like({name: array + scale * delta[name] for name, array in named(base).items()}, base)


def spread(value: float | Sequence[float], count: int) -> Array:
    """Return one factor an expert from a number or a list."""
    return np.broadcast_to(np.asarray(value, dtype=np.float64), (count,))


def per_tensor(
    method: Callable[..., Array],
    base: Mapping[str, Array] | None,
    experts: Sequence[Mapping[str, Array]],
    **params: object,
) -> dict[str, Array]:
    """Apply a function of single tensors to every tensor of whole models."""
    return {
        name: method(None if base is None else base[name], [expert[name] for expert in experts], **params)
        for name in experts[0]
    }
