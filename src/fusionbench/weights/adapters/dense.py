"""Base + adapter as one checkpoint whose changed rows are computed as they are read."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fusionbench.kernels.tiles import TILE
from fusionbench.weights.adapters.configuration import AdapterConfig
from fusionbench.weights.adapters.edits import Array, Edit, widened
from fusionbench.weights.adapters.matching import match
from fusionbench.weights.headers import Source, TensorSpec, as_buffer

NOT_CONTENT = ("base_model_name_or_path", "revision", "peft_version", "inference_mode", "auto_mapping", "task_type")
"""Keys of the configuration that change no number."""


class _Last(threading.local):
    """What one thread read last: the numbers of one tensor's edit, and one panel of its rows."""

    name: str | None = None
    edit: Edit
    index: int | None = None
    panel: Array


class AdaptedSource:
    """A base and a LoRA or (IA)³ adapter, as the model that they make together.

    A tensor that the adapter changes is of kind F32 (F64 where the base is), so that nothing is rounded before the
    merge; others are the base's bytes, or the adapter's where it holds them whole. Values do not depend on how a tensor
    is cut: rows are computed in fixed panels of about 2¹⁷ entries, of which a thread keeps the last.
    """

    def __init__(self, label: str, base: Source, adapter: Source, config: AdapterConfig) -> None:
        """Match the adapter to the base; nothing is computed yet.

        Raises:
            IncompatibleModels: naming everything of the adapter that does not fit the base.
            CheckpointError: where the adapter holds tensors that nobody knows.
        """
        self.label = label
        self.base = base
        self.adapter = adapter
        self.adapter_config = config
        found = match(label, base, adapter, config)
        self._changes, self._replaced = found.changes, found.replaced
        self.specs: Mapping[str, TensorSpec] = {
            name: self._spec(name) for name in dict.fromkeys((*base.specs, *found.replaced))
        }
        self._last = _Last()

    @property
    def config(self) -> Mapping[str, Any]:
        """The base's `config.json`."""
        return self.base.config

    @property
    def folder(self) -> Path | None:
        """The base's folder, where the configuration and the tokenizer are."""
        return self.base.folder

    def _spec(self, name: str) -> TensorSpec:
        spec = self._original(name)[1]._replace(name=name)
        return spec._replace(dtype="F64" if spec.dtype == "F64" else "F32") if name in self._changes else spec

    def _original(self, name: str) -> tuple[Source, TensorSpec]:
        """Return where a tensor is before it is changed: in the adapter where it is saved whole, else in the base."""
        if name in self._replaced:
            return self.adapter, self.adapter.specs[self._replaced[name]]
        return self.base, self.base.specs[name]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> memoryview:
        """Return the bytes of flat entries `start` to `stop` of a tensor."""
        spec = self.specs[name]
        stop = spec.size if stop is None else min(stop, spec.size)
        if name not in self._changes or start >= stop:
            source, original = self._original(name)
            return source.read(original.name, start, stop)
        step = _panel_rows(spec) * (spec.size // spec.shape[0])
        parts = [
            self._panel(name, place // step)[max(start - place, 0) : stop - place]
            for place in range(start // step * step, stop, step)
        ]
        if len(parts) == 1:
            return as_buffer(parts[0])
        return as_buffer(np.concatenate(parts))

    def _panel(self, name: str, index: int) -> Array:
        """Return one panel's entries, flat and read only."""
        last = self._last
        if last.name != name:
            # Until the edit is there, nothing may be taken for it.
            last.name = last.index = None
            kind = self.specs[name].dtype
            last.edit = self._changes[name].load(self.adapter, kind, lambda: self._panels(name))
            last.name = name
        if last.index != index:
            rows = index * _panel_rows(self.specs[name])
            values = self._rows(name, rows)
            # What overflows or is divided by zero is found by whoever reads it, and refused in words.
            with np.errstate(all="ignore"):
                last.edit(values, rows)
            last.panel = values.reshape(-1)
            last.panel.flags.writeable = False
            last.index = index
        return last.panel

    def _rows(self, name: str, first: int) -> Array:
        """Return the panel of rows of the unchanged tensor that begins at row `first`, wide."""
        spec = self.specs[name]
        width = spec.size // spec.shape[0]
        last = min(spec.shape[0], first + _panel_rows(spec))
        source, original = self._original(name)
        return widened(source, original, spec.dtype, first * width, last * width).reshape(last - first, width)

    def _panels(self, name: str) -> Iterator[tuple[int, Array]]:
        spec = self.specs[name]
        for first in range(0, spec.shape[0], _panel_rows(spec)):
            yield first, self._rows(name, first)

    def fingerprint(self) -> str:
        """Return a digest of the base, the adapter, and what its configuration says of its numbers."""
        kept = {key: value for key, value in self.adapter_config.document.items() if key not in NOT_CONTENT}
        text = json.dumps([self.base.fingerprint(), self.adapter.fingerprint(), kept], sort_keys=True)
        return f"fp:{hashlib.sha256(text.encode()).hexdigest()}"


def _panel_rows(spec: TensorSpec) -> int:
    return max(1, TILE * spec.shape[0] // spec.size)
