import json
import pickle

import pytest
import torch

from fusionbench.errors import CheckpointError
from fusionbench.weights.headers import entries
from fusionbench.weights.sources import open_source

STATE = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[3.0]])}


class Trap:
    """Would write a file if it were ever unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def content(source) -> dict[str, list[float]]:
    return {name: entries(source, spec).tolist() for name, spec in source.specs.items()}


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_weights_are_found_beside_what_training_code_keeps(key, tmp_path):
    torch.save({key: STATE, "epoch": 3}, tmp_path / "model.pt")
    assert content(open_source(tmp_path)) == {"a": [1.0, 2.0], "b": [3.0]}


def test_a_view_is_read_as_it_is_seen(tmp_path):
    torch.save({"t": torch.arange(6.0).view(2, 3).T, "s": torch.arange(6.0)[2:4]}, tmp_path / "model.pt")
    assert content(open_source(tmp_path / "model.pt")) == {"t": [0, 3, 1, 4, 2, 5], "s": [2, 3]}


def test_code_in_a_file_is_refused_and_never_runs(tmp_path):
    ran = tmp_path / "ran"
    for name, write in (("zip.pt", torch.save), ("raw.pt", lambda item, path: path.write_bytes(pickle.dumps(item)))):
        write({"a": Trap(ran)}, tmp_path / name)
        with pytest.raises(CheckpointError, match=name):
            open_source(tmp_path / name)
    assert not ran.exists()


@pytest.mark.parametrize("saved", [[torch.ones(1)], {"a": 1}, {"a": torch.ones(1), 2: torch.ones(1)}, torch.ones(2), 5])
def test_anything_but_tensors_by_name_is_refused(saved, tmp_path):
    torch.save(saved, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="by name"):
        open_source(tmp_path)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "stream"])
def test_a_file_truncated_anywhere_is_refused(legacy, tmp_path):
    torch.save(STATE, tmp_path / "model.pt", _use_new_zipfile_serialization=not legacy)
    raw = (tmp_path / "model.pt").read_bytes()
    for cut in range(0, len(raw), 29):
        (tmp_path / "model.pt").write_bytes(raw[:cut])
        with pytest.raises(CheckpointError, match=r"model\.pt"):
            open_source(tmp_path)


def test_shards_are_read_as_one_model(tmp_path):
    for name, file in (("a", "one.bin"), ("b", "two.bin")):
        torch.save({name: STATE[name]}, tmp_path / file)
    index = {"weight_map": {"a": "one.bin", "b": "two.bin"}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert content(open_source(tmp_path)) == {"a": [1.0, 2.0], "b": [3.0]}


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({"weight_map": {"a": "../one.bin"}}, "outside its folder"),
        ({"weight_map": {"a": "absent.bin"}}, "absent.bin is missing"),
        ({"weight_map": {"a": "one.bin", "b": "one.bin"}}, "b"),
        ({"weight_map": ["a"]}, "no index"),
        (["a"], "no index"),
        ({}, "no index"),
    ],
    ids=range(6),
)
def test_an_index_that_lies_is_refused(index, words, tmp_path):
    torch.save({"a": STATE["a"]}, tmp_path / "one.bin")
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=words):
        open_source(tmp_path)
