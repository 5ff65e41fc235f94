"""A mixture of experts has tens of thousands of tensors: what each costs must not grow with their number."""

import sys
from pathlib import Path

import pytest
import torch

from checkpoints import save_model
from fusionbench.config import Recipe
from fusionbench.merge import merge
from fusionbench.weights import safetensors


def recipe_of(folder: Path, count: int, method: str) -> Recipe:
    """Write three models of so many tensors; return the recipe that merges two of them."""
    for number, name in enumerate(("base", "a", "b")):
        tensors = {f"model.layers.{i // 50}.mlp.experts.{i % 50}.weight": torch.ones(2, 2) * number + i
                   for i in range(count)}  # fmt: skip
        save_model(folder / str(count) / name, tensors, {"model_type": "toy"})
    home = folder / str(count)
    experts = [f"experts.{name}={home / name}" for name in "ab"]
    return Recipe.load(None, [f"base={home / 'base'}", *experts, f"method={method}", "runtime.threads=1"])


def calls(folder: Path, count: int, method: str) -> int:
    """How many functions a merge of so many tensors calls, ours and the interpreter's."""
    recipe = recipe_of(folder, count, method)
    counted = 0

    def count_call(frame: object, event: str, argument: object) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    sys.setprofile(count_call)
    try:
        merge(recipe, folder / str(count) / "out")
    finally:
        sys.setprofile(None)
    return counted


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_four_times_the_tensors_cost_at_most_four_times_the_calls(method, tmp_path) -> None:
    calls(tmp_path, 10, method)
    few, many = calls(tmp_path, 500, method), calls(tmp_path, 2000, method)
    assert few > 500
    assert many <= 4.2 * few


def test_a_header_is_parsed_once_whatever_asks_for_it(tmp_path, monkeypatch) -> None:
    parsed = []
    parse = safetensors.parse_header

    def noted(path: Path, *others: object) -> object:
        parsed.append(path.parent.name)
        return parse(path, *others)

    monkeypatch.setattr(safetensors, "parse_header", noted)
    merge(recipe_of(tmp_path, 3, "task_arithmetic"), tmp_path / "3" / "out")
    assert sorted(parsed) == ["a", "b", "base", "out.partial"]
