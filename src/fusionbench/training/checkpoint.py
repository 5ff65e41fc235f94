"""What a training keeps on disk: one checkpoint, replaced whole, and the curve as JSON lines."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fusionbench.errors import CheckpointError, ConfigError
from fusionbench.training.schedule import Steps
from fusionbench.weights.partial import settle, written_to

CHECKPOINT = "checkpoint.pt"
CURVE = "curve.jsonl"


class Point(NamedTuple):
    """Numbers after so many steps."""

    step: int
    metrics: dict[str, float]


def write_checkpoint(folder: Path, steps: Steps, content: Mapping[str, Any]) -> None:
    """Write a checkpoint of tensors and plain values; the one before stays until this one is whole."""
    partial = folder / (CHECKPOINT + ".partial")
    with written_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save({"steps": dataclasses.asdict(steps), **content}, file)
        settle(partial, folder / CHECKPOINT)


def read_checkpoint(folder: Path, steps: Steps) -> dict[str, Any] | None:
    """Return what was written last, or None.

    Raises:
        CheckpointError: where the file cannot be read.
        ConfigError: where it belongs to a training with other settings.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        before = content["steps"]
    except Exception as error:
        why = str(error).partition("\n")[0]
        raise CheckpointError(f"{path} cannot be read ({why}). Remove it to start this training again.") from None
    now = dataclasses.asdict(steps)
    changed = [f"{name} was {before.get(name)}, is {now[name]}" for name in now if before.get(name) != now[name]]
    if changed:
        raise ConfigError(
            f"{path} belongs to a training with other settings: {'; '.join(changed)}. "
            "Give the same settings to go on, or remove it to start again."
        )
    return content


def restore(kept: Mapping[str, Tensor], saved: Mapping[str, Tensor], where: object) -> None:
    """Copy saved tensors into those of a training.

    Raises:
        CheckpointError: where names or shapes differ, with the first that does.
    """
    for name in [*kept, *saved]:
        here, there = (tuple(t[name].shape) if name in t else "missing" for t in (kept, saved))
        if here != there:
            raise CheckpointError(
                f"{where}: {name} is {there} in the checkpoint, {here} in the model. Remove the checkpoint."
            )
    with torch.no_grad():
        for name, tensor in kept.items():
            tensor.copy_(saved[name])


def append_point(folder: Path, point: Point) -> None:
    """Add a line to the curve."""
    with written_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / CURVE).open("a") as file:
            file.write(json.dumps({"step": point.step, "metrics": point.metrics}) + "\n")


def read_curve(folder: Path) -> list[Point]:
    """Return the curve's points; a last line that was cut off is left out."""
    path = folder / CURVE
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    read = [json.loads(line) for line in lines if line.endswith("\n")]
    return [Point(line["step"], line["metrics"]) for line in read]


def truncate_curve(folder: Path, step: int) -> list[Point]:
    """Drop what came after a step, which will come again; return what is left."""
    left = [point for point in read_curve(folder) if point.step <= step]
    if (folder / CURVE).is_file():
        (folder / CURVE).unlink()
    for point in left:
        append_point(folder, point)
    return left
