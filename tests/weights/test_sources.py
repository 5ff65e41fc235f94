import pytest
import torch
from safetensors.torch import save_file

from checkpoints import save_model
from fusionbench.errors import CheckpointError
from fusionbench.weights.headers import entries
from fusionbench.weights.sources import open_source

WEIGHTS = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3], dtype=torch.int64)}


def content(source) -> dict[str, list[float]]:
    return {name: entries(source, spec).tolist() for name, spec in source.specs.items()}


def layouts(root):
    """Every layout in which the same model may lie."""
    one = save_model(root / "one", WEIGHTS)
    shards = save_model(root / "shards", WEIGHTS, shards=2)
    pickle = root / "pickle"
    pickle.mkdir()
    torch.save(WEIGHTS, pickle / "pytorch_model.bin")
    diffusion = root / "diffusion"
    diffusion.mkdir()
    save_file(WEIGHTS, diffusion / "diffusion_pytorch_model.safetensors")
    return {
        "folder": one,
        "file": one / "model.safetensors",
        "shards": shards,
        "index": shards / "model.safetensors.index.json",
        "pickle": pickle,
        "pickled file": pickle / "pytorch_model.bin",
        "diffusion": diffusion,
    }


def test_every_layout_gives_the_same_model(tmp_path):
    for layout, reference in layouts(tmp_path).items():
        assert content(open_source(reference)) == {"a": [1.0, 2.0], "b": [3]}, layout


def test_a_single_file_beside_an_index_of_others_is_the_model_as_it_is_for_transformers(tmp_path):
    folder = save_model(tmp_path / "both", WEIGHTS, shards=2)
    save_file({"a": torch.tensor([7.0])}, folder / "model.safetensors")
    assert content(open_source(folder)) == {"a": [7.0]}
    assert content(open_source(folder / "model.safetensors.index.json")) == {"a": [1.0, 2.0], "b": [3]}


def test_a_single_file_that_its_index_names_is_read_by_the_index(tmp_path):
    folder = save_model(tmp_path / "one", WEIGHTS)
    index = folder / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model.safetensors", "c": "model.safetensors"}}')
    with pytest.raises(CheckpointError, match=r"does not tell the truth about: b .*; c "):
        open_source(folder)
    index.write_text("no index at all")
    assert content(open_source(folder)) == {"a": [1.0, 2.0], "b": [3]}


def test_a_source_is_called_by_the_reference_that_the_user_gave(tmp_path, monkeypatch):
    save_model(tmp_path / "mine", WEIGHTS)
    monkeypatch.chdir(tmp_path)
    assert open_source("./mine").label == "./mine"


def test_a_folder_without_a_model_is_refused_with_what_it_holds(tmp_path):
    (tmp_path / "notes.md").write_text("")
    with pytest.raises(CheckpointError, match=r"notes\.md"):
        open_source(tmp_path)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="It holds: nothing"):
        open_source(tmp_path)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "notes.md").write_text("# Not a model\n")
    with pytest.raises(CheckpointError, match="no safetensors file"):
        open_source(tmp_path / "notes.md")
