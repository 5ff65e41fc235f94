"""What a merge would cost, against what it does."""

from pathlib import Path

import pytest
import torch

from checkpoints import save_model
from fusionbench import forecast as module
from fusionbench.config import Recipe
from fusionbench.errors import ConfigError, IncompatibleModels
from fusionbench.forecast import Forecast, forecast
from fusionbench.merge import merge

SHAPES = {"layers.0.weight": (40, 30), "layers.1.weight": (40, 30), "embed.weight": (500, 30), "norm.weight": (30,)}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for number, name in enumerate(("base", "math", "code")):
        generator = torch.Generator().manual_seed(number)
        tensors = {key: torch.randn(shape, generator=generator).bfloat16() for key, shape in SHAPES.items()}
        save_model(tmp_path / name, tensors, {"model_type": "toy"})
    return tmp_path


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(module, "LONG_ENOUGH", 0.0)
    monkeypatch.setattr(module, "ENTRIES", 1000)


def recipe(models: Path, method: str = "ties", *overrides: str) -> Recipe:
    named = [f"base={models / 'base'}", f"experts.math={models / 'math'}", f"experts.code={models / 'code'}"]
    return Recipe.load(None, [*named, f"method={method}", "runtime.threads=1", *overrides])


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "slerp", "tsv_m"])
def test_counts_are_those_of_the_merge_itself(models, method):
    overrides = ("base=null",) if method == "slerp" else ()
    asked = recipe(models, method, *overrides)
    expected = forecast(asked, models / "out")
    before = sorted(path.name for path in models.iterdir())
    assert "out" not in before
    made = merge(asked, models / "out")
    assert (expected.parameters, expected.tensors) == (made.parameters, 4)
    # How often TIES must look for its cut depends on the numbers.
    assert abs(expected.devices["cpu"].passes - made.passes) <= (method == "ties")
    assert expected.written == made.parameters * 2
    assert expected.read == (2 if method == "slerp" else 3) * made.parameters * 2


def test_the_kind_of_the_output_decides_what_is_written(models):
    assert forecast(recipe(models, "ties", "output.dtype=float32"), models / "out").written == 4 * 17430


def test_a_part_of_the_model_is_rehearsed_and_scaled(models, monkeypatch):
    part = forecast(recipe(models), models / "out")
    assert 0 < part.devices["cpu"].rehearsed < 1
    assert part.devices["cpu"].seconds > module.START_SECONDS
    monkeypatch.setattr(module, "ENTRIES", 10**6)
    whole = forecast(recipe(models), models / "out")
    assert whole.devices["cpu"].rehearsed == 1


def test_matrices_are_rehearsed_whole_and_long_tables_in_part(models):
    from fusionbench.merge import open_pool, plan_of_recipe

    asked = recipe(models)
    plan = plan_of_recipe(asked, open_pool(asked))
    cut = {step.output.name: module._cut(step, 600).output.shape for step in plan}
    assert cut["layers.0.weight"] == (40, 30)
    assert cut["embed.weight"] == (20, 30)


def test_methods_on_whole_tensors_are_said_to_hold_the_largest_in_every_thread(models):
    asked = recipe(models, "tsv_m", "runtime.threads=2")
    # two threads, two experts and four more of 500 × 30 entries in float32
    assert forecast(asked, models / "out").devices["cpu"].memory >= 2 * 6 * 500 * 30 * 4


def test_nothing_is_left_behind(models):
    before = sorted(path.name for path in models.iterdir())
    forecast(recipe(models), models / "deep" / "out")
    assert sorted(path.name for path in models.iterdir()) == before


def test_what_cannot_be_merged_has_no_cost(models):
    save_model(models / "code", {"other": torch.zeros(3)}, {"model_type": "toy"})
    with pytest.raises(IncompatibleModels):
        forecast(recipe(models), models / "out")
    with pytest.raises(ConfigError, match="not known beforehand"):
        forecast(Recipe.load(None, ["experts.a=x", "base=y", "method=greedy_soup"]), models / "out", pool=object())


def seconds_where(models, monkeypatch, *, memory: int | None, speed: float | None) -> Forecast:
    """A forecast of a machine with so much memory and so fast a disk; a rehearsal takes 3 s in two passes."""
    rehearsal = module._Rehearsal(entries=17430, working=3.0, syncing=0.0, passes=2, memory=1)
    monkeypatch.setattr(module, "_rehearse", lambda *_: rehearsal)
    monkeypatch.setattr(module, "available_memory", lambda: memory)
    monkeypatch.setattr(module, "cold_speed", lambda *_: speed)
    return forecast(recipe(models), models / "out")


def test_inputs_that_memory_cannot_hold_come_from_the_disk_in_every_pass(models, monkeypatch):
    read = 3 * 2 * 17430
    found = seconds_where(models, monkeypatch, memory=read - 1, speed=read / 5)
    assert (found.held, found.reading) == (False, pytest.approx(5))
    assert found.devices["cpu"].seconds == pytest.approx(module.START_SECONDS + 3 + 2 * 5)


def test_inputs_that_memory_holds_do_not_and_what_reading_them_once_would_add_is_said(models, monkeypatch):
    read = 3 * 2 * 17430
    found = seconds_where(models, monkeypatch, memory=read, speed=read / 5)
    assert (found.held, found.reading) == (True, pytest.approx(5))
    assert found.devices["cpu"].seconds == pytest.approx(module.START_SECONDS + 3)


def test_a_disk_that_cannot_be_measured_is_not_counted(models, monkeypatch):
    found = seconds_where(models, monkeypatch, memory=1, speed=None)
    assert (found.held, found.reading) == (False, None)
    assert found.devices["cpu"].seconds == pytest.approx(module.START_SECONDS + 3)
    assert seconds_where(models, monkeypatch, memory=None, speed=None).held
