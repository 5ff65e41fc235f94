"""Read golden files as cases ready for a test: inputs, the peer's parameters, the peer's result."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from golden_inputs import GOLDEN, read_inputs
from safetensors import safe_open
from torch import Tensor


class GoldenCase(NamedTuple):
    """One call of a peer.

    ``base`` is None where the peer was given none; ``expected`` has only the tensors the peer returned, in its words.
    """

    peer: str
    method: str
    name: str
    parameters: dict[str, Any]
    base: dict[str, Tensor] | None
    experts: dict[str, dict[str, Tensor]]
    expected: dict[str, Tensor]
    refused: Any


def golden_cases(peer: str, method: str) -> list[GoldenCase]:
    """Return every case of ``golden/<peer>/<method>.safetensors``, in the order of their names."""
    with safe_open(GOLDEN / peer / f"{method}.safetensors", framework="pt") as file:
        notes = json.loads(file.metadata()["cases"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    cases = []
    for name, note in sorted(notes.items()):
        models = read_inputs(note["inputs"])
        cases.append(
            GoldenCase(
                peer,
                method,
                name,
                note["parameters"],
                models["base"] if note["base"] else None,
                {expert: models[expert] for expert in note["experts"]},
                {key[len(name) + 1 :]: tensor for key, tensor in tensors.items() if key.startswith(name + "/")},
                note.get("refused"),
            )
        )
    return cases
