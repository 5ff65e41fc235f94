"""What stands beside a model's tensors goes with them; what its training left does not."""

import json
from pathlib import Path

import pytest
import torch

from checkpoints import save_model
from fusionbench.weights.companions import copy_companions
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import TensorSource

CONFIG = {"model_type": "toy", "torch_dtype": "float32", "width": 2}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", {"w": torch.zeros(2)}, CONFIG)
    (tmp_path / "out").mkdir()
    return tmp_path / "model"


def test_tokenizers_and_templates_go_along_and_records_of_training_stay(model: Path, tmp_path: Path) -> None:
    kept = ("tokenizer.json", "merges.txt", "spiece.model", "chat_template.jinja", "o200k.tiktoken")
    left = ("training_args.json", "trainer_state.json", "adapter_config.json", "fusionbench.json", "optimizer.pt",
            "model.safetensors.index.json")  # fmt: skip
    source = open_source(model)
    for name in (*kept, *left):
        (model / name).write_text(name)
    (model / "folder.json").mkdir()
    copy_companions(source, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*kept, "config.json"}
    assert (tmp_path / "out" / "config.json").read_bytes() == (model / "config.json").read_bytes()


def test_beside_a_file_that_is_named_by_itself_only_a_models_own_files_are_taken(model: Path, tmp_path: Path) -> None:
    kept = ("generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "merges.txt",
            "preprocessor_config.json", "chat_template.jinja", "spiece.model")  # fmt: skip
    others = ("notes.txt", "results.json", "requirements.txt", "other-model.json", "model.safetensors.index.json")
    source = open_source(model / "model.safetensors")
    for name in (*kept, *others):
        (model / name).write_text(name)
    copy_companions(source, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*kept, "config.json"}
    (tmp_path / "whole").mkdir()
    copy_companions(open_source(model), tmp_path / "whole")
    assert {"notes.txt", "results.json"} < {path.name for path in (tmp_path / "whole").iterdir()}


def test_the_configuration_names_the_outputs_kind_and_its_changes(model: Path, tmp_path: Path) -> None:
    copy_companions(open_source(model), tmp_path / "out", dtype="bfloat16", changes={"width": 4})
    found = json.loads((tmp_path / "out" / "config.json").read_text())
    assert found == {"model_type": "toy", "width": 4, "dtype": "bfloat16"}


def test_a_model_in_memory_leaves_its_configuration(tmp_path: Path) -> None:
    copy_companions(TensorSource("mine", {"w": torch.zeros(2)}, CONFIG), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == CONFIG


def test_a_model_without_a_configuration_is_given_none(tmp_path: Path) -> None:
    copy_companions(TensorSource("mine", {"w": torch.zeros(2)}), tmp_path, dtype="float16", changes={"depth": 1})
    assert list(tmp_path.iterdir()) == []
