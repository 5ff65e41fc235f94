"""Files that were made again are told apart from the stored ones where, and only where, they say something else."""

import json
from pathlib import Path

import pytest
import remake
import torch
from safetensors.torch import save_file


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("stored", "made"):
        (tmp_path / name).mkdir()
    return tmp_path / "stored", tmp_path / "made"


def told(pair: tuple[Path, Path], name: str, stored: dict[str, torch.Tensor], made: dict[str, torch.Tensor]) -> object:
    for folder, tensors in zip(pair, (stored, made), strict=True):
        save_file(tensors, folder / name)
    return remake.difference(pair[0] / name, pair[1] / name)


def test_rounding_is_no_difference_and_more_than_that_is(pair):
    stored = {"a": torch.tensor([1.0, torch.nan]), "b": torch.zeros(2, dtype=torch.bfloat16)}
    assert told(pair, "x.safetensors", stored, {**stored, "a": torch.tensor([1.000005, torch.nan])}) is None
    assert told(pair, "x.safetensors", stored, {**stored, "a": torch.tensor([1.25, torch.nan])}) == "a is off by 0.25"
    assert "is torch.float32 (2,)" in told(pair, "x.safetensors", stored, {**stored, "b": torch.zeros(2)})
    assert told(pair, "x.safetensors", stored, {"a": stored["a"]}) == "has other tensors: ['b']"


def test_rows_in_the_order_of_a_hash_map_are_compared_in_one_order(pair):
    stored, made = {"a": torch.tensor([[1.0, 2.0], [0.0, 9.0]])}, {"a": torch.tensor([[0.0, 9.0], [1.0, 2.0]])}
    assert told(pair, remake.UNORDERED, stored, made) is None
    assert told(pair, "x.safetensors", stored, made) is not None
    assert told(pair, remake.UNORDERED, stored, {"a": torch.tensor([[0.0, 2.0], [1.0, 9.0]])}) is not None


def test_documents_name_the_key_that_differs_and_files_that_lack_are_told(pair):
    stored, made = pair[0] / "x.json", pair[1] / "x.json"
    stored.write_text(json.dumps({"a": 1, "b": 2}))
    assert remake.difference(stored, made) == "was not made"
    made.write_text(json.dumps({"b": 2, "a": 1}))
    assert remake.difference(stored, made) is None
    made.write_text(json.dumps({"a": 1, "b": 3}))
    assert remake.difference(stored, made) == "has another value of ['b']"


def test_an_environment_that_is_not_there_is_told_for_each_of_its_scripts(tmp_path):
    (tmp_path / "copy").mkdir()
    failed = remake.made_again(tmp_path / "copy", tmp_path / "nowhere")
    assert len(failed) == sum(len(scripts) for name, scripts in remake.SCRIPTS.items() if name != remake.OPTIONAL)
    assert all("there is no" in why for why in failed)
    assert not (tmp_path / "copy/tests/reference/golden/mergekit_names.json").exists()


def test_every_script_is_run():
    made = {path.stem for path in Path(remake.__file__).parent.glob("make_*.py")}
    assert made == {script for scripts in remake.SCRIPTS.values() for script in scripts}
