"""Trackers get the points of the curve through Accelerate; a stand-in records what any tracker is told."""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.tracking import GeneralTracker
from torch import Tensor

from fusionbench.errors import ConfigError, MissingExtra
from fusionbench.training import Loop, Point, Steps, Tracking, read_curve, step_of, tracking_of


@dataclass
class Told:
    """What a tracker was told."""

    settings: dict[str, Any] = field(default_factory=dict)
    points: list[tuple[int | None, dict[str, float]]] = field(default_factory=list)
    finished: int = 0


class Recording(GeneralTracker):
    """A tracker that remembers."""

    name = "recording"
    requires_logging_directory = False

    def __init__(self) -> None:
        self.told = Told()
        super().__init__()

    @property
    def tracker(self) -> Told:
        return self.told

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.told.settings = values

    def log(self, values: dict[str, float], step: int | None = None, **kwargs: Any) -> None:
        self.told.points.append((step, values))

    def finish(self) -> None:
        self.told.finished += 1


def ones(start: int) -> Iterator[Tensor]:
    while True:
        yield torch.ones(1)


def descend(loop: Loop, steps: Steps) -> tuple[Tensor, list[Point]]:
    """From 10 down by the rate: the loss is what the weight was."""
    weight = torch.tensor([10.0], requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    step = step_of(lambda batch: (weight * batch).sum())
    outcome = loop.run("w", steps, step, ones, {"w": weight}, optimizer, validate=lambda: {"score": 0.5})
    return weight.detach(), outcome.curve


def test_a_tracker_is_told_the_settings_and_every_point_of_the_curve(tmp_path: Path) -> None:
    recording = Recording()
    loop = Loop(log_every=2, tracking=Tracking((recording,), tmp_path))

    weight, curve = descend(loop, Steps(4, "step", decay=(3, 0.5), validate_every=4))

    # Losses of the second and fourth step: 10 − 1, and 10 − 3; the fourth goes down by half.
    assert recording.told.points == [(2, {"loss": 9.0}), (4, {"loss": 7.0, "score": 0.5})]
    assert recording.told.points == [(point.step, point.metrics) for point in curve]
    assert weight.item() == 6.5
    settings = recording.told.settings
    assert (settings["count"], settings["schedule"], settings["decay"]) == (4, "step", "(3, 0.5)")
    assert recording.told.finished == 1


def test_tracking_changes_no_number_and_nothing_is_tracked_unasked(tmp_path: Path) -> None:
    plain, curve = descend(Loop(log_every=1), Steps(3))
    tracked, other = descend(Loop(log_every=1, tracking=Tracking((Recording(),), tmp_path)), Steps(3))

    assert torch.equal(plain, tracked)
    assert curve == other
    assert tracking_of((), tmp_path) is None


def test_a_training_that_fails_still_finishes_its_trackers(tmp_path: Path) -> None:
    recording = Recording()

    def broken(start: int) -> Iterator[Tensor]:
        yield torch.ones(1)
        raise RuntimeError("no more data")

    weight = torch.tensor([1.0], requires_grad=True)
    loop = Loop(log_every=1, tracking=Tracking((recording,), tmp_path))
    with pytest.raises(RuntimeError, match="no more data"):
        loop.run(
            "w", Steps(3), step_of(lambda batch: (weight * batch).sum()), broken, {"w": weight},
            torch.optim.SGD([weight], lr=0.1),
        )  # fmt: skip

    assert recording.told.finished == 1
    assert [step for step, _ in recording.told.points] == [1]


def test_a_resumed_training_goes_on_under_the_same_steps(tmp_path: Path) -> None:
    first, second = Recording(), Recording()
    steps = Steps(4)
    stopping = Loop(tmp_path / "kept", checkpoint_every=2, log_every=1, tracking=Tracking((first,), tmp_path))

    def interrupted(start: int) -> Iterator[Tensor]:
        for _ in range(3):
            yield torch.ones(1)
        raise RuntimeError("killed")

    def run(loop: Loop, batches: Any) -> None:
        weight = torch.tensor([10.0], requires_grad=True)
        step = step_of(lambda batch: (weight * batch).sum())
        loop.run("w", steps, step, batches, {"w": weight}, torch.optim.SGD([weight], lr=1.0))

    with pytest.raises(RuntimeError, match="killed"):
        run(stopping, interrupted)
    run(Loop(tmp_path / "kept", checkpoint_every=2, log_every=1, tracking=Tracking((second,), tmp_path)), ones)

    assert [step for step, _ in first.told.points] == [1, 2, 3]
    assert [step for step, _ in second.told.points] == [3, 4]
    assert [point.step for point in read_curve(tmp_path / "kept" / "w")] == [1, 2, 3, 4]


def test_an_unknown_tracker_and_one_that_is_not_installed_are_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"no tracker 'tensorbord'\. Choose tensorboard, wandb, mlflow, trackio"):
        Tracking(("tensorbord",), tmp_path)  # type: ignore[arg-type]
    monkeypatch.setattr("fusionbench.training.tracking.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"The tracker mlflow needs a package.*pip install mlflow"):
        tracking_of(("mlflow",), tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_the_curve_back(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    descend(Loop(log_every=1, tracking=tracking_of(("tensorboard",), tmp_path / "trackers")), Steps(3))

    (events,) = (tmp_path / "trackers" / "w" / "fusionbench").glob("events.*")
    found = EventAccumulator(str(events))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(1, 10.0), (2, 9.0), (3, 8.0)]
