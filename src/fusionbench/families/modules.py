"""Weights into modules: a new module from a checkpoint, or other weights in a module for a while."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fusionbench.errors import CheckpointError, IncompatibleModels
from fusionbench.families.base import Family
from fusionbench.families.registration import family_for
from fusionbench.weights.headers import Source, TensorSpec
from fusionbench.weights.safetensors import SafetensorsSource
from fusionbench.weights.tensors import SAFETENSORS, TORCH, LazyWeights, TensorSource, Weights

SHOWN = 10
"""Differences that one message spells out."""


def specs_of(weights: Weights) -> Mapping[str, TensorSpec]:
    """Return name, kind and shape of each tensor; nothing is read."""
    if isinstance(weights, LazyWeights):
        return weights.source.specs
    return {name: TensorSpec(name, SAFETENSORS[tensor.dtype], tuple(tensor.shape)) for name, tensor in weights.items()}


def as_source(base: Source | nn.Module) -> Source:
    """Return a live module as a source, with the folder that Hugging Face loaded it from where there is one."""
    if not isinstance(base, nn.Module):
        return base
    name = str(getattr(base, "name_or_path", ""))
    source = TensorSource(name or type(base).__name__, base)
    source.folder = Path(name) if name and Path(name).is_dir() else None
    return source


def load_module(
    family: Family,
    weights: Source | Weights,
    config: Mapping[str, Any] | None = None,
    *,
    rest: Source | Weights | None = None,
) -> nn.Module:
    """Return the family's module of `config` in eval mode, filled with `weights`.

    Every tensor is copied once, straight into the module, which shares no memory with what it was filled from. Numbers
    keep the kind they are stored in; where floats of several kinds would meet, as an adapter's float32 and its base's
    bfloat16, each is rounded to the kind that it has in `rest`. Tensors that the architecture shares are tied.

    Args:
        family: whose module it is.
        weights: a checkpoint, or tensors by canonical name.
        config: the model's `config.json`; None takes the checkpoint's.
        rest: where tensors come from that `weights` lacks.

    Raises:
        CheckpointError: where there is no configuration.
        IncompatibleModels: with every missing, extra or misshapen tensor.
    """
    layers = [_as_weights(given) for given in (weights, rest) if given is not None]
    config = config if config is not None else _config_of(layers[0])
    if not config:
        raise CheckpointError("The model has no config.json, so its module cannot be built. Give its configuration.")
    module = family.skeleton(config)
    places: dict[str, tuple[Weights, str]] = {}
    for layer in reversed(layers):
        places |= {own: (layer, name) for name, own in family.names(specs_of(layer)).items()}
    specs = {own: specs_of(layer)[name] for own, (layer, name) in places.items()}
    problems = _differences(module, specs)
    kinds = {} if rest is None else _kinds(family, specs, specs_of(layers[-1]))
    fitting = {own: _owned(layer, name, kinds.get(own)) for own, (layer, name) in places.items() if own not in problems}
    missing = _fill(module, fitting)
    problems |= {own: f"{own} is missing" for own in missing if own not in problems}
    if problems:
        raise IncompatibleModels(_message(family, list(problems.values())))
    return module


def _as_weights(given: Source | Weights) -> Weights:
    return given if isinstance(given, Mapping) else LazyWeights(given)


def _config_of(weights: Weights) -> Mapping[str, Any]:
    return weights.source.config if isinstance(weights, LazyWeights) else {}


def _owned(weights: Weights, name: str, kind: torch.dtype | None) -> Tensor:
    """Return a tensor on memory of its own; a lazy one is so already, and its file's pages are not kept beside it.

    With `kind` it is rounded to that.
    """
    tensor = weights[name].detach()
    tensor = tensor if kind is None else tensor.to(kind)
    if not isinstance(weights, LazyWeights):
        return tensor.clone()
    if isinstance(weights.source, SafetensorsSource):
        weights.source.let_go(name)
    return tensor


def _kinds(family: Family, held: Mapping[str, TensorSpec], rest: Mapping[str, TensorSpec]) -> dict[str, torch.dtype]:
    """Return the kind that each tensor is rounded to: where floats of several kinds would meet, that of the rest."""
    if len({spec.dtype for spec in held.values() if spec.is_float}) < 2:
        return {}
    return {own: TORCH[rest[name].dtype] for name, own in family.names(rest).items()}


def _differences(module: nn.Module, specs: Mapping[str, TensorSpec]) -> dict[str, str]:
    """Return what is wrong with each tensor that has no place in the module, or another form there."""
    state = module.state_dict(keep_vars=True)
    problems = {}
    for own, spec in specs.items():
        if own not in state:
            problems[own] = f"{spec.name} has no place in the module"
        elif tuple(state[own].shape) != spec.shape:
            problems[own] = f"{spec.name} is {list(spec.shape)}, the module's is {list(state[own].shape)}"
        elif state[own].is_floating_point() != spec.is_float:
            problems[own] = f"{spec.name} holds {spec.dtype}, the module's holds {state[own].dtype}"
    return problems


def _fill(module: nn.Module, tensors: Weights) -> set[str]:
    """Put tensors in place of the module's, tie what is shared, and return the names of those still missing."""
    missing = set(module.load_state_dict(dict(tensors), strict=False, assign=True).missing_keys)
    tie = getattr(module, "tie_weights", None)
    if tie is not None:
        tie(missing_keys=missing, recompute_mapping=False)
    return missing


def _message(family: Family, problems: Sequence[str]) -> str:
    shown = [f"  {problem}" for problem in problems[:SHOWN]]
    more = [f"  … and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    head = f"The weights do not fit the module of the family {family.name!r} ({len(problems)} differences):"
    tail = "Use the configuration that belongs to these weights."
    return "\n".join([head, *shown, *more, tail])


@contextmanager
def weights_in(module: nn.Module, weights: Weights, *, family: Family | None = None) -> Iterator[nn.Module]:
    """Overwrite a module's tensors in place for a `with` block, then put the old values back bit for bit.

    Args:
        module: what `load_module` returned; its parameters stay the same objects, so optimisers and hooks keep theirs.
        weights: tensors by canonical name, all of the model's or only some; rounded to the module's kind of number.
        family: whose names they are; None finds it by the module's configuration.

    Yields:
        The module.

    Raises:
        IncompatibleModels: where a tensor has no place in the module, or another shape; the module is not touched.
    """
    family = family or family_for(module.config.to_dict())  # type: ignore[operator, union-attr]
    specs = specs_of(weights)
    names = family.names(specs)
    problems = _differences(module, {own: specs[name] for name, own in names.items()})
    if problems:
        raise IncompatibleModels(_message(family, list(problems.values())))
    state = module.state_dict()
    before = {own: state[own].clone() for own in names.values()}
    try:
        _overwrite(state, {own: (weights, name) for name, own in names.items()})
        yield module
    finally:
        _overwrite(state, {own: (before, own) for own in before})


@torch.no_grad()
def _overwrite(state: Weights, places: Mapping[str, tuple[Weights, str]]) -> None:
    for own, (weights, name) in places.items():
        state[own].copy_(weights[name])
