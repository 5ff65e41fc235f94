"""Sources of a merge whose memory is bounded: what was read of a mapped file is given back at the next read. No torch.

The system takes such memory back by itself when it needs it; a budget, or a batch system that counts it, wants it back
before.
"""

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fusionbench.weights.headers import ITEM_BYTES
from fusionbench.weights.plan import Plan
from fusionbench.weights.safetensors import SafetensorsSource

REGION_BYTES = 1 << 21
"""Given back at a time; it is also as much as Linux maps around a page that is asked for, before it as after it."""


def bounded(plan: Plan, memory: int | None) -> Plan:
    """Return a plan whose mapped sources give back what was read; the same plan where there is no budget."""
    if memory is None:
        return plan
    sources = (BoundedSource(s) if isinstance(s, SafetensorsSource) else s for s in plan.sources)
    return replace(plan, sources=tuple(sources))


class _Last(threading.local):
    """What one thread has read since it last gave something back: a run of entries of one tensor."""

    name: str | None = None
    start: int = 0
    stop: int = 0


class BoundedSource:
    """A mapped checkpoint of which every thread holds some megabytes, or the tensor that it read last, and no more."""

    def __init__(self, source: SafetensorsSource) -> None:
        """See a source so."""
        self.label, self.specs = source.label, source.specs
        self.config: Mapping[str, Any] = source.config
        self.folder: Path | None = source.folder
        self._source = source
        self._last = _Last()

    def read(self, name: str, start: int = 0, stop: int | None = None) -> memoryview:
        """Return the bytes of flat entries `start` to `stop` of a tensor, and let go of what was read before.

        That stays readable where it is still held: it comes from the file again.
        """
        last, spec = self._last, self.specs[name]
        region = REGION_BYTES // ITEM_BYTES[spec.dtype]
        end = spec.size if stop is None else stop
        if last.name != name or last.stop != start or last.stop - last.start >= region:
            if last.name is not None:
                around = REGION_BYTES // ITEM_BYTES[self.specs[last.name].dtype]
                self._source.let_go(last.name, max(0, last.start - around), last.stop)
            last.name, last.start = name, start
        last.stop = end
        return self._source.read(name, start, stop)

    def fingerprint(self) -> str:
        """Return the digest of the source."""
        return self._source.fingerprint()
