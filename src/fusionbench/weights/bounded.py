"""Sources of a merge whose memory is bounded: what was read of a mapped file is given back at the next read. No torch.

The system takes such memory back by itself when it needs it; a budget, or a batch system that counts it, wants it back
before.
"""

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fusionbench.weights.headers import ITEM_BYTES, TensorSpec
from fusionbench.weights.plan import Plan
from fusionbench.weights.safetensors import SafetensorsSource


AROUND_BYTES = 1 << 21
"""The system maps some pages before the one that is asked for, which may have been given back already."""


def bounded(plan: Plan, memory: int | None) -> Plan:
    """Return a plan whose mapped sources give back what was read; the same plan where there is no budget."""
    if memory is None:
        return plan
    sources = (BoundedSource(s) if isinstance(s, SafetensorsSource) else s for s in plan.sources)
    return replace(plan, sources=tuple(sources))


class _Last(threading.local):
    """What one thread read last, and has used when it reads again."""

    part: tuple[str, int, int | None] | None = None


class BoundedSource:
    """A mapped checkpoint of which every thread holds the part that it read last, and no more."""

    def __init__(self, source: SafetensorsSource) -> None:
        """See a source so."""
        self._source = source
        self._last = _Last()

    @property
    def label(self) -> str:
        """What messages call it."""
        return self._source.label

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Every tensor by name."""
        return self._source.specs

    @property
    def config(self) -> Mapping[str, Any]:
        """The model's `config.json`."""
        return self._source.config

    @property
    def folder(self) -> Path | None:
        """Where its other files lie."""
        return self._source.folder

    def read(self, name: str, start: int = 0, stop: int | None = None) -> memoryview:
        """Return the bytes of flat entries `start` to `stop` of a tensor, and let go of what was read before.

        That stays readable where it is still held: it comes from the file again.
        """
        if self._last.part is not None:
            name_before, start_before, stop_before = self._last.part
            around = AROUND_BYTES // ITEM_BYTES[self.specs[name_before].dtype]
            self._source.let_go(name_before, max(0, start_before - around), stop_before)
        self._last.part = (name, start, stop)
        return self._source.read(name, start, stop)

    def fingerprint(self) -> str:
        """Return the digest of the source."""
        return self._source.fingerprint()
