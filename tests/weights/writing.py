"""A small checkpoint, and its writing."""

import struct
from pathlib import Path

import torch

from fusionbench.weights.headers import TensorSpec
from fusionbench.weights.writer import CheckpointWriter

SPECS = [TensorSpec("a", "F32", (2, 3)), TensorSpec("b", "BF16", (4,)), TensorSpec("c", "I64", ())]
CONTENT = {
    "a": struct.pack("<6f", *range(6)),
    "b": struct.pack("<4H", 0x3F80, 0, 0x4000, 0xC000),
    "c": b"\7" + bytes(7),
}
VALUES = {
    "a": torch.arange(6.0).view(2, 3),
    "b": torch.tensor([1.0, 0.0, 2.0, -2.0], dtype=torch.bfloat16),
    "c": torch.tensor(7),
}


def write(folder: Path, **options) -> None:
    with CheckpointWriter(folder, SPECS, metadata={"recipe": "ties"}, **options) as writer:
        for name, content in CONTENT.items():
            writer.write(name, content)


def same(found, expected) -> bool:
    return found.keys() == expected.keys() and all(
        found[n].dtype == expected[n].dtype and torch.equal(found[n], expected[n]) for n in expected
    )


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
