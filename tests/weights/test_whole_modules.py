"""The files of the task_vectors release in small: whole modules, read without the code of their classes."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from fusionbench.errors import CheckpointError
from fusionbench.weights.headers import TensorSpec
from fusionbench.weights.open_clip import describe
from fusionbench.weights.roles import places
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights
from tiny_open_clip import VANISHED, Preprocess, make_encoder, write_module


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("form", ["pickle", "zip", "stream"])
def test_a_whole_module_is_its_state_dict_and_its_class_is_never_imported(form, tmp_path):
    encoder = make_encoder(0)
    write_module(encoder, tmp_path / "zeroshot.pt", form)
    found = LazyWeights(open_source(tmp_path / "zeroshot.pt"))
    assert VANISHED not in sys.modules
    expected = encoder.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_it_is_converted_once_and_again_when_the_file_is_another(own_cache, tmp_path):
    path = tmp_path / "zeroshot.pt"
    write_module(make_encoder(0), path)
    first = open_source(path)
    (made,) = (own_cache / "modules").glob("*/model.safetensors")
    stamp = made.stat().st_mtime_ns
    assert open_source(path).fingerprint() == first.fingerprint()
    assert made.stat().st_mtime_ns == stamp
    write_module(make_encoder(1), path)
    assert open_source(path).fingerprint() != first.fingerprint()
    assert first.label == str(path)


def test_the_configuration_is_told_from_the_tensors(tmp_path):
    write_module(make_encoder(0), tmp_path / "zeroshot.pt")
    config = open_source(tmp_path / "zeroshot.pt").config
    assert {key: config[key] for key in ("model_type", "prefix", "image_size", "patch_size", "width", "layers")} == {
        "model_type": "open_clip", "prefix": "model.", "image_size": 32, "patch_size": 8, "width": 16, "layers": 2,
    }  # fmt: skip
    assert (config["heads"], config["mlp_width"], config["projection_dim"]) == (4, 32, 8)
    assert config["others"]["token_embedding.weight"] == [12, 8]


# The published models' own numbers (arXiv:2103.00020, table 20).
@pytest.mark.parametrize(
    ("width", "patch", "layers", "out", "heads"),
    [(768, 32, 12, 512, 12), (768, 16, 12, 512, 12), (1024, 14, 24, 768, 16)],
)
def test_heads_that_no_module_names_are_of_64_entries(width, patch, layers, out, heads):
    shapes = {"conv1.weight": (width, 3, patch, patch), "proj": (width, out)}
    shapes["positional_embedding"] = ((224 // patch) ** 2 + 1, width)
    shapes |= {f"transformer.resblocks.{layer}.mlp.c_fc.weight": (4 * width, width) for layer in range(layers)}
    specs = {f"model.visual.{name}": TensorSpec(name, "F32", shape) for name, shape in shapes.items()}
    found = describe(specs)
    assert found is not None
    assert (found["heads"], found["layers"], found["image_size"], found["projection_dim"]) == (heads, layers, 224, out)


@pytest.mark.parametrize("lacking", ["conv1.weight", "proj", "positional_embedding", "transformer"])
def test_other_tensors_are_no_open_clip(lacking):
    shapes = {"conv1.weight": (8, 3, 4, 4), "proj": (8, 2), "positional_embedding": (5, 8)}
    shapes["transformer.resblocks.0.mlp.c_fc.weight"] = (16, 8)
    specs = {f"visual.{n}": TensorSpec(n, "F32", shape) for n, shape in shapes.items() if not n.startswith(lacking)}
    assert describe(specs) is None


def test_buffers_that_are_not_saved_stay_out_and_others_do_not(tmp_path):
    module = nn.BatchNorm1d(2)
    module.register_buffer("passing", torch.ones(1), persistent=False)
    write_module(module, tmp_path / "model.pt")
    assert set(open_source(tmp_path / "model.pt").specs) == set(module.state_dict())


def test_a_module_in_two_places_is_read_in_both_as_one_tensor(tmp_path):
    part = nn.Linear(2, 2)
    write_module(nn.Sequential(part, part), tmp_path / "model.pt")
    assert set(open_source(tmp_path / "model.pt").specs) == {"0.weight", "0.bias", "1.weight", "1.bias"}


@pytest.mark.parametrize(("where", "kind"), [("_parameters", "tensor"), ("_buffers", "tensor"), ("_modules", "module")])
def test_another_object_in_the_place_of_a_tensor_is_refused_by_name(where, kind, tmp_path):
    module = nn.Sequential(nn.Linear(2, 2))
    module[0].__dict__[where]["odd"] = Preprocess()
    write_module(module, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=rf"{VANISHED}.Preprocess in the place of the {kind} 0\.odd"):
        open_source(tmp_path / "model.pt")


def test_a_module_that_is_a_part_of_itself_is_refused(tmp_path):
    module = nn.Sequential(nn.Linear(2, 2))
    module._modules["again"] = module
    write_module(module, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="a part of itself"):
        open_source(tmp_path / "model.pt")


def test_a_small_file_that_names_a_million_tensors_is_refused(tmp_path):
    module: nn.Module = nn.Linear(1, 1, bias=False)
    for _ in range(20):
        module = nn.Sequential(module, module)
    write_module(module, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="more than 100,000 tensors"):
        open_source(tmp_path / "model.pt")


def test_a_module_without_tensors_is_refused(tmp_path):
    write_module(nn.ReLU(), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="of no tensors"):
        open_source(tmp_path / "model.pt")


def test_an_object_that_is_no_module_is_refused_as_before(tmp_path):
    write_module(Preprocess(), tmp_path / "model.pt", "zip")
    with pytest.raises(CheckpointError, match="cannot be read as tensors only"):
        open_source(tmp_path / "model.pt")


def test_what_was_pickled_says_so_in_the_converted_file(own_cache, tmp_path):
    write_module(make_encoder(0), tmp_path / "zeroshot.pt")
    metadata = open_source(tmp_path / "zeroshot.pt").metadata
    assert metadata["converted_from"] == "zeroshot.pt"
    assert metadata["class"] == f"{VANISHED}.ImageEncoder"
    (config,) = (own_cache / "modules").glob("*/config.json")
    assert json.loads(config.read_text())["model_type"] == "open_clip"


def test_its_blocks_are_counted_as_those_of_other_transformers(tmp_path):
    write_module(make_encoder(0), tmp_path / "zeroshot.pt")
    found = places(open_source(tmp_path / "zeroshot.pt").specs)
    block = found["model.visual.transformer.resblocks.1.mlp.c_fc.weight"]
    assert (block.depth, block.depths) == (1, 2)
    assert found["model.visual.proj"].depth is None
