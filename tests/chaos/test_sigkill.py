"""Five real SIGKILLs a command, at moments that a seeded chance chooses."""

from pathlib import Path

import pytest
from dying import OF_THE_MOMENT, WITH_TIMES, Line, Trial, lasting, run_until

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")]
STEPS = ("method.steps=20", "method.batch=4", "method.batches=1", "method.checkpoint_every=2")
COMMANDS = {
    "merge": ("base=SUITE/base", "experts.cats=SUITE/cats", "experts.dogs=SUITE/dogs", "method=ties", "--verify"),
    "run": ("suite=SUITE/suite.yaml", "method=adamerging", *STEPS),
    "run -m": ("suite=SUITE/suite.yaml", "method=task_arithmetic,ties,simple_average", "-m"),
    "search": (
        "suite=SUITE/suite.yaml", "method=task_arithmetic", "method.scale=interval(0,1)", "--trials", 3,
    ),
    "reproduce": ("SUITE/table.yaml", "--suite", "mini"),
    "report": ("SUITE/runs", "--format", "md,csv,latex,html,png,pdf,parquet"),
    "finetune": ("suite=SUITE/suite.yaml", "recipe.steps=10", "recipe.batch=4", "checkpoint_every=2"),
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_killed_five_times_ends_as_if_it_had_not_been(
    name: str, line: Line, suite: Path, tmp_path: Path
) -> None:
    if name == "search":
        pytest.importorskip("optuna")
    if name == "report" and not (suite.parent / "runs").exists():
        runs = line("run", f"suite={suite}", "method=task_arithmetic,ties", "-m", "--out", suite.parent / "runs")
        assert run_until(0, lambda: runs(tmp_path / "before")) == 0
    words = [str(word).replace("SUITE", str(suite.parent)) for word in COMMANDS[name]]
    plain = line(name.split()[0], *words, "--out", "OUT")

    def command(place: Path) -> None:
        # A folder that is there is never merged over.
        if name != "merge" or not (place / "out").exists():
            plain(place)

    moment = WITH_TIMES if name == "run -m" else OF_THE_MOMENT
    # The best trial's report is written once more, with what selected it.
    ended = (lambda place: lasting(place / "out")) if name == "search" else None
    Trial(command, tmp_path / "trial", ended=ended, moment=moment).kills()
