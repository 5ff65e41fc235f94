"""A model's numbered layers: their tensors' names, and what config.json says of them. No torch here."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fusionbench.weights.headers import Source, TensorSpec

_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|blocks|block|h)\.(?=(\d+)\.)")
Config = Mapping[str, Any]
COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""Keys for the number of layers, by architecture."""
PER_LAYER = ("layer_types", "mlp_layer_types", "layers_block_type", "attention_layers", "no_rope_layers")
"""Keys for lists with an entry a layer."""
NUMBERED = ("mlp_only_layers", "cross_attention_layers", "full_attn_idxs", "attn_layer_indices")
"""Keys for lists of layers' numbers, which nobody but the user can choose anew."""


class Shortened:
    """A model without its layers from some number on, so that models of different depth can be held to one another."""

    def __init__(self, source: Source, layers: int) -> None:
        self.label = source.label
        self.config = source.config
        self.folder: Path | None = source.folder
        self.specs: Mapping[str, TensorSpec] = {
            name: spec for name, spec in source.specs.items() if (layer_of(name) or ("", -1))[1] < layers
        }
        self._source = source

    def read(self, name: str, start: int = 0, stop: int | None = None) -> memoryview:
        """Return the bytes of flat entries `start` to `stop` of a tensor."""
        return self._source.read(name, start, stop)

    def fingerprint(self) -> str:
        """Return the digest of the whole model."""
        return self._source.fingerprint()


def layer_of(name: str) -> tuple[str, int] | None:
    """Return the stack that a tensor is in (`model.layers.`) and the number of its layer; None outside all layers."""
    found = _LAYER.search(name)
    return None if found is None else (name[: found.end()], int(found[1]))


def stacked_config(
    reference: Config, layers: int, slices: Sequence[tuple[Config, int, int]]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what changes in a configuration when the layers become those of `slices`, and notes for the user.

    Args:
        reference: the configuration that the output takes.
        layers: how many its model has.
        slices: for each slice the configuration of the model that its layers come from, the first, and how many.

    Returns:
        The changed keys with their values (a nested text configuration whole), and a note a list that is left as it is.
    """
    changes, notes = _changes(reference, layers, slices)
    text = reference.get("text_config")
    if isinstance(text, Mapping):
        inner = [(part[0].get("text_config") or {}, *part[1:]) for part in slices]
        nested, more = _changes(text, layers, inner)
        changes |= {"text_config": {**text, **nested}} if nested else {}
        notes += more
    return changes, tuple(notes)


def _changes(
    reference: Config, layers: int, slices: Sequence[tuple[Config, int, int]]
) -> tuple[dict[str, Any], list[str]]:
    total = sum(length for _, _, length in slices)
    changes: dict[str, Any] = {key: total for key in COUNTS if reference.get(key) == layers}
    for key in PER_LAYER:
        if isinstance(reference.get(key), list) and len(reference[key]) == layers:
            entries = [config.get(key, reference[key])[start : start + length] for config, start, length in slices]
            changes[key] = [entry for part in entries for entry in part]
    notes = [
        f"config.json: {key} names layers by number and was left as it is; check it"
        for key in NUMBERED
        if reference.get(key)
    ]
    return changes, notes
