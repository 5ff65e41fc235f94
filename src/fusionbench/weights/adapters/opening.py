"""Open what a recipe calls an expert, where that may be an adapter."""

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

from fusionbench.config import ExpertConfig
from fusionbench.errors import CheckpointError, ConfigError, IncompatibleModels
from fusionbench.weights.adapters.configuration import CONFIG_NAME, AdapterConfig, read_adapter_config
from fusionbench.weights.adapters.dense import AdaptedSource
from fusionbench.weights.adapters.linearised import FILE as LINEARISED
from fusionbench.weights.adapters.linearised import LinearisedSource
from fusionbench.weights.adapters.own_space import AdapterBase
from fusionbench.weights.headers import Source, TensorSpec
from fusionbench.weights.hub import resolve
from fusionbench.weights.safetensors import INDEX_NAME, open_safetensors
from fusionbench.weights.sources import PICKLES, open_source

Space = Literal["dense", "adapter"]
FILES = ("adapter_model.safetensors", "adapter_model.bin")
_COPY = re.compile(r"\.(original_module|modules_to_save)(?=\.)")
RECORD = "fusionbench.json"
"""What fine-tuning here leaves beside an adapter; its "base" is the fingerprint of the model it was trained on."""


def is_adapter(reference: str | Path) -> bool:
    """Tell whether a reference is a folder of PEFT's that holds an adapter and no whole model.

    Raises:
        CheckpointError: where there is no such folder, file or repository.
    """
    folder = resolve(reference)
    whole = ("model.safetensors", INDEX_NAME, *PICKLES)
    return (folder / CONFIG_NAME).is_file() and not any((folder / name).is_file() for name in whole)


def open_adapter(reference: str | Path, base: Source | None = None, space: Space | None = None) -> Source:
    """Open a LoRA, linearised LoRA or (IA)³ adapter as the model that it makes of a base, or as its own tensors.

    Args:
        reference: a folder that PEFT saved, or a hub id.
        base: the model it is on; None for the one that its configuration names.
        space: "dense" for base + ΔW; "adapter" for the adapter's own tensors; None for dense where that is what the
            papers do, which is for LoRA.

    Raises:
        CheckpointError: where it is damaged, or of a kind that is not base + ΔW.
        ConfigError: for (IA)³ where `space` is None, and for LoRA where it is "adapter".
        IncompatibleModels: naming everything of the adapter that does not fit the base, or where its record says that
            it was trained on another model.
    """
    label = str(reference)
    config = read_adapter_config(resolve(reference))
    tensors = _tensors(label, config.folder)
    if config.kind == "LORA" and space == "adapter":
        raise ConfigError(
            f"space=adapter: {label} is a LoRA adapter, and the mean of B times the mean of A is not the mean of B·A. "
            "LoRA adapters are merged as models: space=dense."
        )
    if config.kind == "IA3" and space is None:
        raise ConfigError(
            f"{label} is an (IA)³ adapter. Say which space it is merged in: space=adapter merges the vectors l "
            "themselves, with ones as the base, as the TIES papers do; space=dense merges the weights W ⊙ l."
        )
    if space == "adapter":
        return tensors
    model = base if base is not None else _own_base(label, config)
    adapted = AdaptedSource(label, model, tensors, config)
    _check_origin(label, config, model)
    return adapted


def _check_origin(label: str, config: AdapterConfig, base: Source) -> None:
    """Refuse an adapter on a base that it fits in shape alone, where the record of its training says so.

    Raises:
        IncompatibleModels: where it was trained on another model.
    """
    try:
        trained_on = json.loads((config.folder / RECORD).read_text()).get("base")
    except (OSError, ValueError, AttributeError):
        return
    if isinstance(trained_on, str) and trained_on != base.fingerprint():
        raise IncompatibleModels(
            f"The adapter {label} was trained on another model than {base.label}: by its record on {trained_on}, this "
            f"is {base.fingerprint()}. Name the model that it was trained on ({config.trained_on or 'unknown'}); to "
            f"try it on this one all the same, remove {RECORD} from its folder."
        )


def open_adapter_tensors(reference: str | Path) -> Source:
    """Open an adapter's own tensors, under the names that PEFT gives them in files.

    Raises:
        CheckpointError: where it is damaged, or of a kind that is not base + ΔW.
    """
    return _tensors(str(reference), read_adapter_config(resolve(reference)).folder)


def _tensors(label: str, folder: Path) -> Source:
    for name in FILES:
        path = folder / name
        if path.is_file() and path.suffix == ".bin":
            from fusionbench.weights.pickled import open_pickled

            return open_pickled(label, path, folder)
        source = open_safetensors(label, path) if path.is_file() else None
        if source is not None:
            # Messages name the reference; other files of the folder belong to the adapter.
            source.specs = _once(source.specs)
            return source
    linearised = open_safetensors(label, folder / LINEARISED) if (folder / LINEARISED).is_file() else None
    if linearised is not None:
        return LinearisedSource(linearised)
    raise CheckpointError(f"{label} has {CONFIG_NAME} but no {FILES[0]}. Save or download the adapter again.")


def _once(specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """Leave out second names: with bias="all" PEFT saves biases of modules to save as they were, too, and by place."""
    plain = {name: _COPY.sub("", name) for name in specs}
    return {name: spec for name, spec in specs.items() if plain[name] == name or plain[name] not in specs}


def _own_base(label: str, config: AdapterConfig) -> Source:
    if config.trained_on is None:
        raise ConfigError(f"{label} is an adapter that does not name its model. Name it with base=REF.")
    return open_source(config.trained_on)


def open_experts(
    base: str | None, experts: Mapping[str, ExpertConfig], space: Space | None = None, *, headers: bool = False
) -> tuple[Source | None, dict[str, Source]]:
    """Open a base and its experts, of which some may be adapters.

    An expert is an adapter where it names one, or where its model is a folder of PEFT's. Where no base is named, the
    model of the first adapter is the base. In adapter space the base is the identity: ones.

    Args:
        base: reference of the base.
        experts: by name.
        space: see `open_adapter`; None where the user did not choose.
        headers: fetch only the headers of models that are on the hub alone.

    Raises:
        FusionBenchError: see `open_adapter` and `open_source`.
    """
    from fusionbench.weights.remote import is_remote, open_headers

    opened = cache(open_headers if headers else open_source)
    root = opened(base) if base is not None else None
    if space == "adapter":
        return _open_own_space(root, experts)
    sources: dict[str, Source] = {}
    for name, expert in experts.items():
        if expert.adapter is not None:
            source = open_adapter(expert.adapter, opened(expert.model), space)
        elif not (headers and is_remote(expert.model)) and is_adapter(expert.model):
            source = open_adapter(expert.model, root, space)
        else:
            source = opened(expert.model)
        if root is None and isinstance(source, AdaptedSource):
            root = source.base
        sources[name] = source
    return root, sources


def _open_own_space(root: Source | None, experts: Mapping[str, ExpertConfig]) -> tuple[Source, dict[str, Source]]:
    places = {name: expert.adapter or expert.model for name, expert in experts.items()}
    models = [name for name, place in places.items() if not (resolve(place) / CONFIG_NAME).is_file()]
    if models:
        raise ConfigError(
            f"space=adapter: no adapters are {', '.join(models)}. Name folders with {CONFIG_NAME}, or use space=dense."
        )
    sources = {name: open_adapter(place, space="adapter") for name, place in places.items()}
    first = next(iter(places))
    return AdapterBase(resolve(places[first]), sources[first], root), sources
