"""Shards and the index that says what is in which: true ones, and those that lie."""

import pytest
import torch

from checkpoints import save_model, write_index
from fusionbench.errors import CheckpointError
from fusionbench.weights.headers import entries
from fusionbench.weights.safetensors import open_safetensors


def test_shards_are_read_as_one_model(tmp_path):
    tensors = {f"t{i}": torch.full((2,), float(i)) for i in range(5)}
    source = open_safetensors("m", save_model(tmp_path, tensors, shards=3))
    assert set(source.specs) == set(tensors)
    assert {name: entries(source, spec)[0] for name, spec in source.specs.items()} == {f"t{i}": i for i in range(5)}


def test_an_index_may_be_named_instead_of_its_folder(tmp_path):
    save_model(tmp_path, {"a": torch.ones(1), "b": torch.ones(1)}, config={"model_type": "x"}, shards=2)
    source = open_safetensors("m", tmp_path / "model.safetensors.index.json")
    assert set(source.specs) == {"a", "b"}
    assert source.config == {"model_type": "x"}


A, B = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
LIES = {
    "a tensor is in the other file": ({"a": B, "b": B}, "a (the index says model-00002"),
    "a tensor is in no file": ({"a": A, "b": B, "ghost": A}, "ghost"),
    "a tensor is not in the index": ({"b": B}, "does not tell the truth"),
    "a file is not there": ({"a": A, "b": "model-00003-of-00002.safetensors"}, "cannot be read"),
    "a file lies above the folder": ({"a": A, "b": "../" + B}, "outside its folder"),
    "a file lies below the folder": ({"a": A, "b": "sub/" + B}, "outside its folder"),
    "a file has a path from the root": ({"a": A, "b": "/etc/passwd"}, "outside its folder"),
    "a file is the folder above": ({"a": A, "b": ".."}, "outside its folder"),
    "a file is the folder": ({"a": A, "b": "."}, "outside its folder"),
    "a file has no name": ({"a": A, "b": ""}, "outside its folder"),
    "a file has a name that no system takes": ({"a": A, "b": "b\0"}, "cannot be read"),
    "the map is a list": (["a", "b"], "no index of shards"),
    "the map is null": (None, "no index of shards"),
    "the map is empty": ({}, "no index of shards"),
}


@pytest.mark.parametrize("case", LIES)
def test_an_index_that_lies_is_refused(case, tmp_path):
    weight_map, words = LIES[case]
    save_model(tmp_path, {"a": torch.ones(1), "b": torch.ones(2)}, shards=2)
    if case == "a tensor is not in the index":
        save_model(tmp_path, {"a": torch.ones(1), "b": torch.ones(2), "c": torch.ones(1)}, shards=2)
        weight_map = {"a": A, "b": B}
    index = write_index(tmp_path, weight_map)
    with pytest.raises(CheckpointError) as error:
        open_safetensors("m", tmp_path)
    assert words in str(error.value)
    assert str(index.parent) in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "{}", "[" * 200_000], ids=range(6))
def test_an_index_that_is_no_index_is_refused(text, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match="no index of shards"):
        open_safetensors("m", tmp_path)


def test_a_name_in_two_shards_is_refused(tmp_path):
    save_model(tmp_path, {"a": torch.ones(1), "b": torch.ones(2)}, shards=2)
    (tmp_path / B).write_bytes((tmp_path / A).read_bytes())
    write_index(tmp_path, {"a": A, "b": B})
    with pytest.raises(CheckpointError, match="same name"):
        open_safetensors("m", tmp_path)


def test_a_folder_in_the_place_of_a_shard_is_refused(tmp_path):
    save_model(tmp_path, {"a": torch.ones(1), "b": torch.ones(2)}, shards=2)
    (tmp_path / B).unlink()
    (tmp_path / B).mkdir()
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_safetensors("m", tmp_path)
