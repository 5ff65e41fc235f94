"""Trackers: the curve of a training, sent where a user looks at curves, through Accelerate. Off unless asked for.

The curve itself is always kept on disk (`curve.jsonl`); a tracker is a copy of it, and changes no number. After a
broken run is taken up, the points since its last checkpoint are sent once more, under the same steps.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from fusionbench.config.runtime import TrackerName
from fusionbench.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

PROJECT = "fusionbench"
NAMED_BY = {"wandb": "name", "trackio": "name", "mlflow": "run_name"}
"""What the tracker calls the name of a run; TensorBoard has a folder for each."""
Send = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True, slots=True)
class Tracking:
    """Which trackers get the curves of trainings.

    Attributes:
        trackers: names that Accelerate knows, or objects of its class `GeneralTracker`.
        folder: where trackers that write files write; a folder for each training.
    """

    trackers: "tuple[TrackerName | GeneralTracker, ...]"
    folder: Path

    def __post_init__(self) -> None:
        check_trackers(tuple(tracker for tracker in self.trackers if isinstance(tracker, str)))

    def settings(self, name: str) -> dict[str, Any]:
        """Return what an Accelerator of the training called `name` has to be made with."""
        return {"log_with": list(self.trackers), "project_dir": str(self.folder / name)}

    @contextmanager
    def sending(self, accelerator: Any, name: str, about: Mapping[str, Any]) -> Iterator[Send]:
        """Start the trackers, lend what sends them a point, and finish them.

        Args:
            accelerator: made with `settings`.
            name: of the training.
            about: its settings; what is no number and no text is sent as text.
        """
        plain = {key: value if isinstance(value, int | float | str) else str(value) for key, value in about.items()}
        named = {tracker: {word: name} for tracker, word in NAMED_BY.items() if tracker in self.trackers}
        accelerator.init_trackers(PROJECT, config=plain, init_kwargs=named)

        def send(step: int, values: Mapping[str, float]) -> None:
            accelerator.log(dict(values), step=step)

        try:
            yield send
        finally:
            for tracker in accelerator.trackers:
                tracker.finish()


def tracking_of(trackers: tuple[TrackerName, ...], folder: Path) -> Tracking | None:
    """Return the trackers that a recipe or a request names; None where it names none."""
    return Tracking(trackers, folder) if trackers else None


def check_trackers(names: tuple[str, ...]) -> None:
    """Refuse trackers that are not known or not installed, before anything is trained.

    Raises:
        ConfigError: where there is no such tracker.
        MissingExtra: where its package is not installed.
    """
    for name in names:
        if name not in get_args(TrackerName):
            raise ConfigError(f"There is no tracker {name!r}. Choose {', '.join(get_args(TrackerName))}.")
        if find_spec(name) is None:
            raise MissingExtra(f"The tracker {name}", "'fusionbench[tensorboard]'" if name == "tensorboard" else name)
