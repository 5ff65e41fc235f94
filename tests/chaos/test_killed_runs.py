"""Runs with tasks, adaptation, mixtures and fine-tuning, killed at touches of the disk, end as if they had not been."""

from pathlib import Path

import pytest
from dying import Line, Trial

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
STEPS = ("method.steps=4", "method.batch=4", "method.checkpoint_every=1")
RUNS = {
    "tasks": ("method=task_arithmetic",),
    "adapting": ("method=adamerging", *STEPS, "method.batches=1"),
    "a mixture that learns": ("method=wemoe", *STEPS),
    "a mixture": ("method=smile", "method.gate_k=2", "method.k=4"),
    "an ensemble": ("method=simple_ensemble",),
    "statistics": ("method=fisher", "method.examples=4"),
}
FINETUNE = ("tasks=[cats]", "recipe.steps=4", "recipe.batch=4", "checkpoint_every=1")


# Of some hundred touches each; a prime, so that each kind of touch has its turn.
EVERY = {"tasks": 7, "adapting": 5, "a mixture that learns": 5, "a mixture": 3, "an ensemble": 13, "statistics": 13}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_killed_at_any_touch_of_the_disk_ends_as_if_it_had_not_been(
    name: str, line: Line, suite: Path, tmp_path: Path
) -> None:
    command = line("run", f"suite={suite}", *RUNS[name], "runtime.threads=1", "--out", "OUT")
    assert Trial(command, tmp_path).deaths(EVERY[name]) > 15


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_prepares_data_and_heads_ends_as_if_it_had_not_been(
    line: Line, suite: Path, tmp_path: Path
) -> None:
    asked = ("method=task_arithmetic", "output.model=false", "runtime.threads=1")
    trial = Trial(line("run", f"suite={suite}", *asked, "--out", "OUT", cold=True), tmp_path)
    assert any(name.endswith(".npy") for name in trial.expected)
    assert trial.deaths(every=5) > 15


def test_an_adaptation_that_is_killed_now_and_then_ends_with_the_same_coefficients(
    line: Line, suite: Path, tmp_path: Path
) -> None:
    command = line("run", f"suite={suite}", *RUNS["adapting"], "runtime.threads=1", "--out", "OUT")
    trial = Trial(command, tmp_path)
    assert "out/artefacts/coefficients/model.safetensors" in trial.expected
    assert trial.deaths(every=107) > 1


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_fine_tuning_that_is_killed_at_any_touch_of_the_disk_ends_as_if_it_had_not_been(
    tuning: str, line: Line, suite: Path, tmp_path: Path
) -> None:
    command = line("finetune", f"suite={suite}", *FINETUNE, f"tuning={tuning}", "--out", "OUT")
    trial = Trial(command, tmp_path)
    assert "out/cats/fusionbench.json" in trial.expected
    assert trial.deaths(every=7) > 10
