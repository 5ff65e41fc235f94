"""Linearised LoRA as FusionBench's authors publish it: `linearized_adapter_model.safetensors`, read as ordinary LoRA.

Each LoRA layer was trained as its first-order Taylor expansion at its start (A₀, B₀) (arXiv:2310.04742, eq. 6):
W·x + s·(B₀·A₀ + (B − B₀)·A₀ + B₀·(A − A₀))·x with s = α/r. LoRA starts at B₀ = 0, and then this is W·x + s·B·A₀·x: the
LoRA layer of the start's A and the trained B. Files hold both pairs; A after training has no influence. No torch here.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusionbench.errors import CheckpointError
from fusionbench.weights.headers import Source, TensorSpec, entries

FILE = "linearized_adapter_model.safetensors"
_TRAINED = re.compile(r"^(?P<module>.+)\.model\.lora_(?P<part>[AB])\.[^.]+\.weight$")
_START = re.compile(r"^(?P<module>.+)\.params0_values\.(?P<place>\d+)$")


class LinearisedSource:
    """A published linearised adapter under the names that PEFT gives LoRA: A₀ and B of each layer.

    Attributes:
        label: the reference that the user gave.
        specs: `<module>.lora_A.weight` and `<module>.lora_B.weight` of every adapted module.
        folder: the adapter's.
    """

    config: Mapping[str, Any] = {}

    def __init__(self, stored: Source) -> None:
        """Pair what a file holds; the starts of B are read and seen to be 0.

        Raises:
            CheckpointError: where a layer's tensors are not all there, others are, or a B did not start at 0.
        """
        self.label: str = stored.label
        self.folder: Path | None = stored.folder
        self._stored = stored
        self._places = _pairs(stored)
        self.specs: Mapping[str, TensorSpec] = {
            name: stored.specs[place]._replace(name=name) for name, place in self._places.items()
        }

    def read(self, name: str, start: int = 0, stop: int | None = None) -> memoryview:
        """Return the bytes of flat entries `start` to `stop` of A₀ or B."""
        return self._stored.read(self._places[name], start, stop)

    def fingerprint(self) -> str:
        """Return a digest of the content, which is no ordinary adapter's."""
        return f"fp:{hashlib.sha256(f'linearised {self._stored.fingerprint()}'.encode()).hexdigest()}"


def _pairs(stored: Source) -> dict[str, str]:
    """Return, by PEFT's name of each A and B, the stored name of what stands for it."""
    trained: dict[str, dict[str, str]] = {}
    starts: dict[str, list[tuple[int, str]]] = {}
    strange = []
    for name in stored.specs:
        if match := _TRAINED.match(name):
            trained.setdefault(match["module"], {})[match["part"]] = name
        elif match := _START.match(name):
            starts.setdefault(match["module"], []).append((int(match["place"]), name))
        else:
            strange.append(name)
    if strange:
        raise CheckpointError(f"{stored.label}: {FILE} holds tensors of no linearised LoRA layer: {strange[0]} …")
    found = {}
    for module in dict.fromkeys((*trained, *starts)):
        # Places are those of the layer's parameters, in which A comes before B.
        begun = [name for _, name in sorted(starts.get(module, ()))]
        if set(trained.get(module, ())) != {"A", "B"} or len(begun) != 2:
            raise CheckpointError(
                f"{stored.label}: {module} lacks A, B or their values at the start (params0_values): {FILE} is "
                "incomplete. Download it again."
            )
        _check_start(stored, stored.specs[begun[1]])
        found[f"{module}.lora_A.weight"], found[f"{module}.lora_B.weight"] = begun[0], trained[module]["B"]
    return found


def _check_start(stored: Source, b: TensorSpec) -> None:
    """Refuse a layer whose B did not start at 0: its expansion is of twice the rank, and no LoRA layer.

    Raises:
        CheckpointError: naming the tensor.
    """
    values = entries(stored, b)
    # What NumPy holds as bits counts −0 as a number that is not 0; no start of LoRA is −0.
    if values.any():
        raise CheckpointError(
            f"{stored.label}: {b.name}, the start of a B, is not 0, so that the linearised layer is no LoRA layer. "
            "Merge the adapter into its model with the code that made it, and name that folder."
        )
