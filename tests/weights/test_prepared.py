"""What first passes found goes to other processes as plain data and comes back as it was."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from fusionbench.errors import CheckpointError, FusionBenchError
from fusionbench.kernels.passes import Cut, Thresholds
from fusionbench.registry import methods
from fusionbench.weights.engine import Prepared
from fusionbench.weights.prepared import load_prepared, save_prepared


@dataclass(frozen=True, slots=True)
class Ours:
    """A class of this file, as a method of another package has its own."""

    value: object


class Pair(NamedTuple):
    """Two values."""

    left: object
    right: object


def back(found: object, folder: Path) -> object:
    save_prepared(folder / "p", Prepared(found, 3))
    loaded = load_prepared(folder / "p")
    assert loaded.passes == 3
    return loaded.found


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        7,
        0.1,
        float("inf"),
        "größe",
        (1, "a"),
        [1, [2.5]],
        {"a": (1,), ("b", 4): None},
        Counter({"b": 2, "a": 1}),
        {"b", "a"},
        set(),
        Pair(1, (2,)),
        {},
        (),
    ],
)
def test_plain_values_keep_their_kinds(value: object, tmp_path: Path) -> None:
    found = back(Ours(value), tmp_path)
    assert found == Ours(value)
    assert type(found.value) is type(value)  # type: ignore[attr-defined]


def test_arrays_and_numbers_of_numpy_keep_shapes_kinds_and_bits(tmp_path: Path) -> None:
    given = [
        np.arange(6, dtype=np.int64).reshape(2, 3),
        np.array([], np.uint32),
        np.float64(0.1),
        np.array(5, np.int64),
    ]
    found = back([*given, np.full(2, 0.3, np.float32), np.arange(3)], tmp_path)
    assert isinstance(found, list)
    for one, other in zip(given, found, strict=False):
        assert (type(one), one.dtype, one.shape, one.tobytes()) == (
            type(other),
            other.dtype,
            other.shape,
            other.tobytes(),
        )
    assert found[-1].tolist() == [0, 1, 2]
    # What is read may be written, as what was found here may be.
    found[0][0, 0] = 9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool])
def test_tensors_keep_shapes_kinds_and_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    given = torch.tensor([[1.5, 0.0], [-2.0, 3.0]]).to(dtype)
    found = back({"t": given, "scalar": given[0, 0]}, tmp_path)
    assert isinstance(found, dict)
    assert torch.equal(found["t"], given)
    assert found["t"].dtype == dtype
    assert found["scalar"].shape == ()


def test_cuts_and_methods_with_their_functions_come_back(tmp_path: Path) -> None:
    cut = Cut(np.array([5], np.uint32), np.array([2], np.int64))
    found = back(Thresholds({"": cut}, {("a", 65536): np.array([1])}), tmp_path)
    assert isinstance(found, Thresholds)
    bits, quota = found.at(("a", 65536))
    assert (bits.tolist(), quota.tolist()) == ([5], [1])
    ties = methods["ties"]
    assert back((ties, ties.load()), tmp_path) == (ties, ties.load())


def test_what_is_no_plain_data_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FusionBenchError, match="holds a frozenset, which cannot be handed to other processes"):
        save_prepared(tmp_path / "p", Prepared({"a": frozenset({1})}, 1))
    with pytest.raises(FusionBenchError, match="holds a function"):
        save_prepared(tmp_path / "p", Prepared(lambda: 1, 1))
    assert [*tmp_path.iterdir()] == []


def test_a_file_that_is_damaged_or_names_something_else_than_a_class_of_fields_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p"
    save_prepared(path, Prepared(Ours(np.arange(100)), 1))
    whole = path.read_bytes()
    for damaged in (b"", whole[:50], b"x" * len(whole), whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="is damaged"):
            load_prepared(path)
    for module, name in (("os", "system"), ("fusionbench.registry", "load_attribute"), ("builtins", "list")):
        text = f'{{"found": {{"made": ["{module}", "{name}", ["true"]]}}, "passes": 1}}'
        with path.open("wb") as file:
            np.savez(file, tree=np.frombuffer(text.encode(), np.uint8))
        with pytest.raises(CheckpointError, match="no class of plain fields"):
            load_prepared(path)
