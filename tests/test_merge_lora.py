"""A merge written as a LoRA: PEFT loads it, and on the base it gives what the merge gives."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file

from adapted import ALL, adapt, llama
from checkpoints import read_model
from fusionbench.config import Recipe
from fusionbench.errors import ConfigError, OutputError
from fusionbench.merge import merge

OUTPUT = ("output.format=lora", "runtime.threads=1")


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A base and two LoRAs of rank 2."""
    for seed in (1, 2):
        adapt(tmp_path, llama(), LoraConfig(r=2, target_modules=ALL), seed)
    return tmp_path


def recipe(folder: Path, *overrides: str, method: str = "task_arithmetic") -> Recipe:
    named = [f"base={folder / 'base'}", *(f"experts.e{n}={folder / f'adapter{n}'}" for n in (1, 2))]
    return Recipe.load(None, [*named, f"method={method}", *overrides])


def test_a_merge_of_loras_is_a_lora_of_their_ranks_together(two: Path) -> None:
    merge(recipe(two, "method.scale=0.5"), two / "dense")
    merged = merge(recipe(two, "method.scale=0.5", "output.rank=4", *OUTPUT), two / "lora")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        by_peft = PeftModel.from_pretrained(llama(), two / "lora").merge_and_unload().state_dict()
    for name, expected in read_model(two / "dense").items():
        torch.testing.assert_close(by_peft[name], expected, atol=1e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
    assert json.loads((two / "lora" / "adapter_config.json").read_text())["r"] == 4
    assert merged.notes[-1] == "a LoRA of rank 4 holds 100.0% or more of each matrix's change"
    held = load_file(two / "lora" / "adapter_model.safetensors")
    assert merged.parameters == sum(tensor.numel() for tensor in held.values())
    assert merged.bytes == 4 * merged.parameters


def test_the_folder_is_an_adapter_with_a_card_and_nothing_else_is_left(two: Path) -> None:
    before = {path.name for path in two.iterdir()}
    merge(recipe(two, *OUTPUT, method="ties"), two / "lora")
    assert {path.name for path in two.iterdir()} - before == {"lora"}
    made = {path.name for path in (two / "lora").iterdir()}
    assert made == {"adapter_config.json", "adapter_model.safetensors", "README.md", "fusion.lock.json"}
    card = (two / "lora" / "README.md").read_text()
    assert "library_name: peft" in card
    assert "format: lora" in card
    # Sixteen where nothing else is asked for, or the smaller side of a matrix.
    assert json.loads((two / "lora" / "adapter_config.json").read_text())["r"] == 16


def test_a_lora_that_was_made_is_an_expert_of_the_next_merge(two: Path) -> None:
    merge(recipe(two, "output.rank=4", *OUTPUT), two / "lora")
    named = [f"base={two / 'base'}", f"experts.x={two / 'lora'}", "method=simple_average"]
    merge(Recipe.load(None, named), two / "again")
    merge(recipe(two), two / "dense")
    for name, tensor in read_model(two / "dense").items():
        torch.testing.assert_close(read_model(two / "again")[name], tensor, atol=1e-5, rtol=0)


def test_what_cannot_be_a_lora_is_refused_and_nothing_is_left(two: Path) -> None:
    before = {path.name for path in two.iterdir()}
    merged = [f"experts.e{n}={two / 'base'}" for n in (1, 2)]
    with pytest.raises(ConfigError, match="base=REF"):
        merge(Recipe.load(None, [*merged, "method=simple_average", *OUTPUT]), two / "lora")
    with pytest.raises(ConfigError, match=r"No matrix of .* differs"):
        merge(Recipe.load(None, [f"base={two / 'base'}", *merged, "method=ties", *OUTPUT]), two / "lora")
    assert {path.name for path in two.iterdir()} == before
    (two / "lora").mkdir()
    with pytest.raises(OutputError, match="exists"):
        merge(recipe(two, *OUTPUT), two / "lora")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("output.rank=4",), r"output\.rank is the rank of a LoRA\. Add output\.format=lora"),
        (("suite=mini/clip", "output.format=lora"), r"output\.format: a suite's models are run as they are"),
        (("suite=mini/clip", "vocabulary=base"), r"vocabulary: a suite's models are run as they are"),
    ],
    ids=str,
)
def test_recipes_that_contradict_themselves_are_refused(overrides: tuple[str, ...], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        recipe(tmp_path, *overrides)
