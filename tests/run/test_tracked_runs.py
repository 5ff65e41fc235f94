"""Trackers of a run: what it learns is sent to them, and they change neither its identity nor a number."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusionbench.config import Recipe
from fusionbench.errors import MissingExtra
from fusionbench.run import run
from fusionbench.training import Tracking, read_curve

Make = Callable[..., Recipe]
ADAPTS = ("adamerging", "method.steps=3", "method.batch=4", "method.batches=1")


def test_the_curve_of_an_adaptation_is_sent_and_the_report_stays_the_same(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, int, dict[str, float]]] = []

    class Recorder:
        """Stands for Accelerate's trackers."""

        def __init__(self, tracking: Tracking, name: str) -> None:
            assert tracking.folder == tmp_path / "tracked" / "trackers"
            self.name = name

        def __enter__(self) -> Callable[[int, dict[str, float]], None]:
            return lambda step, values: sent.append((self.name, step, dict(values)))

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr("fusionbench.training.tracking.find_spec", lambda name: True)
    monkeypatch.setattr(Tracking, "settings", lambda tracking, name: {})
    monkeypatch.setattr(Tracking, "sending", lambda tracking, accelerator, name, about: Recorder(tracking, name))

    run(recipe(*ADAPTS, "runtime.trackers=[tensorboard]"), out=tmp_path / "tracked")
    run(recipe(*ADAPTS), out=tmp_path / "plain")

    curve = read_curve(tmp_path / "tracked" / "training" / "adamerging")
    assert sent == [("adamerging", point.step, point.metrics) for point in curve]
    assert len(sent) > 0
    reports: list[Any] = [(tmp_path / name / "report.json").read_bytes() for name in ("tracked", "plain")]
    assert reports[0] == reports[1]


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_learnt(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusionbench.training.tracking.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="The tracker wandb needs a package"):
        run(recipe(*ADAPTS, "runtime.trackers=[wandb]"), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
