"""The only training loop: pretraining, fine-tuning, adaptation and routers all give it a step function.

A step function sets gradients; the loop owns everything else: rates, clipping, the optimizer's steps, checkpoints,
resuming to the same bits, the curve, validation, stopping, and what happens on Ctrl-C.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fusionbench.errors import Interrupted, NotFinite
from fusionbench.kernels.streams import stream_key
from fusionbench.training.checkpoint import (
    Point,
    append_point,
    read_checkpoint,
    restore,
    truncate_curve,
    write_checkpoint,
)
from fusionbench.training.processes import ALONE, Processes, apart
from fusionbench.training.schedule import Steps
from fusionbench.training.step import Metrics, State, Step
from fusionbench.training.tracking import Send, Tracking
from fusionbench.weights.devices import device_named

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in all); who draws the bar is not the loop's business."""


class Outcome(NamedTuple):
    """How a training ended: steps done, the curve, the point of the best validation, if any, and what steps kept."""

    steps: int
    curve: list[Point]
    best: Point | None
    extra: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Loop:
    """Runs trainings under one roof: where they keep their state, on what they run, who is told.

    Attributes:
        folder: for checkpoints and curves, one sub-folder a training; None keeps nothing.
        device: as `runtime.device` names it: "cpu", "auto" for the first accelerator, "cuda:1" …
        precision: of the forward pass; float16, which needs a scaled loss, is not offered.
        checkpoint_every: steps between checkpoints; 0 is never.
        log_every: steps between points of the curve; the last step has one too.
        progress: told after each step.
        tracking: who is sent the points of the curves besides.
        processes: those that take each step together; the main one keeps the state and tells.
    """

    folder: Path | None = None
    device: str = "cpu"
    precision: Literal["no", "bf16"] = "no"
    checkpoint_every: int = 0
    log_every: int = 10
    progress: Progress | None = None
    tracking: Tracking | None = None
    processes: Processes = ALONE

    @property
    def place(self) -> torch.device:
        """The device on which trained tensors must lie; batches are moved there."""
        return device_named(self.device)

    def run(
        self,
        name: str,
        steps: Steps,
        step: Step,
        batches: Callable[[int], Iterator[Any]],
        trained: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer,
        *,
        validate: Callable[[], Mapping[str, float]] | None = None,
        stop: Callable[[Sequence[Point]], bool] | None = None,
    ) -> Outcome:
        """Train; go on from the checkpoint where there is one, with the bits of a run that was never broken.

        Args:
            name: of this training: its sub-folder, and what `progress` is told.
            steps: how many, at which rates.
            step: sets the gradients for one batch.
            batches: `batches(n)` yields batches without end, as if n had been taken already.
            trained: every tensor that changes, by name; they are changed in place.
            optimizer: over those of them that have gradients, at the full rates.
            validate: numbers of the present state, the first of which decides what is best.
            stop: asked after each point of the curve whether to end early.

        Raises:
            Interrupted: on Ctrl-C; the last checkpoint is kept.
            NotFinite: where a number for the curve is NaN or infinite.
            CheckpointError: where the checkpoint is damaged or does not fit.
            ConfigError: where it belongs to a training with other settings.
        """
        run = _Run(self, name, steps, trained, optimizer)
        with torch.random.fork_rng():
            torch.manual_seed(steps.seed)
            run.resume()
            try:
                with run.tracked():
                    run.go(step, batches, validate, stop)
            except KeyboardInterrupt:
                raise Interrupted(run.how_to_go_on()) from None
        run.put_best_back()
        return Outcome(run.state.done, run.curve, run.best, run.state.extra)


class _Run:
    """One training in progress."""

    def __init__(
        self, loop: Loop, name: str, steps: Steps, trained: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> None:
        self.loop, self.name, self.steps, self.trained = loop, name, steps, trained
        self.place = loop.place
        self.folder = loop.folder / name if loop.folder else None
        self.processes = loop.processes
        self.state = State(0, _accelerator(loop, name, steps.accumulate), processes=loop.processes)
        self.send: Send | None = None
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.optimizer = self.state.accelerator.prepare(optimizer)
        self.curve: list[Point] = []
        self.best: Point | None = None
        self.best_tensors: dict[str, Tensor] = {}
        self.saved = 0
        self.ended = False

    @contextmanager
    def tracked(self) -> Iterator[None]:
        """Send the points of the curve to trackers too, where there are any."""
        if self.loop.tracking is None:
            yield
            return
        with self.loop.tracking.sending(self.state.accelerator, self.name, asdict(self.steps)) as self.send:
            yield

    def go(
        self,
        step: Step,
        batches: Callable[[int], Iterator[Any]],
        validate: Callable[[], Mapping[str, float]] | None,
        stop: Callable[[Sequence[Point]], bool] | None,
    ) -> None:
        drawn = batches(self.state.done * self.steps.accumulate)
        while self.state.done < self.steps.count and not self.ended:
            metrics = self._step(step, drawn)
            done = self.state.done = self.state.done + 1
            last = done == self.steps.count
            validated = validate() if validate and self._due(self.steps.validate_every, last) else {}
            if validated or self._due(self.loop.log_every, last):
                self._log({**metrics, **validated})
            if validated:
                self._compare(validated)
            self.ended = bool(stop and self.curve and self.curve[-1].step == done and stop(self.curve))
            if self._due(self.loop.checkpoint_every, last or self.ended):
                self._save()
            if self.loop.progress and self.processes.is_main:
                self.loop.progress(self.name, done, self.steps.count)

    def _due(self, every: int, last: bool) -> bool:
        return every > 0 and (last or self.state.done % every == 0)

    def _step(self, step: Step, drawn: Iterator[Any]) -> Metrics:
        accelerator = self.state.accelerator
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.steps.factor(self.state.done)
        if not self.processes.is_main:
            # A function of the step, so that nothing of it is kept: the main process's generator is in the checkpoints.
            torch.manual_seed(stream_key(self.steps.seed, self.name, f"{self.processes.rank} {self.state.done}"))
        parts = []
        for _ in range(self.steps.accumulate):
            with accelerator.accumulate():
                parts.append(step(self.state, _moved(next(drawn), self.place)))
                if accelerator.sync_gradients:
                    self.processes.sum_gradients(self._learned())
                if self.steps.clip is not None and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(self.trained.values(), self.steps.clip)
                self.optimizer.step()
                self.optimizer.zero_grad()
        return {key: sum(part[key] for part in parts) / len(parts) for key in parts[0]}

    def _learned(self) -> list[Tensor]:
        return [tensor for group in self.optimizer.param_groups for tensor in group["params"]]

    def _log(self, metrics: Metrics) -> None:
        point = Point(self.state.done, {key: float(value) for key, value in metrics.items()})
        bad = {key: value for key, value in point.metrics.items() if not torch.isfinite(torch.tensor(value))}
        if bad:
            raise NotFinite(
                f"{self.name}: {bad} after step {point.step}. Lower the learning rate, or clip the gradients."
            )
        self.curve.append(point)
        if self.folder and self.processes.is_main:
            append_point(self.folder, point)
        if self.send is not None:
            self.send(point.step, point.metrics)

    def _compare(self, validated: Mapping[str, float]) -> None:
        value = next(iter(validated.values()))
        sign = 1 if self.steps.better == "higher" else -1
        if self.best is None or sign * value > sign * next(iter(self.best.metrics.values())):
            self.best = Point(self.state.done, dict(validated))
            if self.steps.keep == "best":
                self.best_tensors = {name: tensor.detach().clone() for name, tensor in self.trained.items()}

    def put_best_back(self) -> None:
        if self.best_tensors:
            restore(self.trained, self.best_tensors, self.name)

    def _save(self) -> None:
        if self.folder is None:
            return
        self.saved = self.state.done
        if not self.processes.is_main:
            return
        content = {
            "done": self.state.done,
            "ended": self.ended,
            "tensors": {name: tensor.detach() for name, tensor in self.trained.items()},
            "optimizer": self.optimizer.state_dict(),
            "extra": self.state.extra,
            "best": self.best and [self.best.step, self.best.metrics],
            "best_tensors": self.best_tensors,
            "generators": [torch.get_rng_state(), *torch.cuda.get_rng_state_all()],
        }
        write_checkpoint(self.folder, self.steps, content)

    def resume(self) -> None:
        content, self.curve = self.processes.from_main(self._kept)
        if content is None:
            return
        restore(self.trained, content["tensors"], self.folder)
        self.optimizer.load_state_dict(content["optimizer"])
        self.state.done = self.saved = content["done"]
        self.ended = content["ended"]
        self.state.extra = content["extra"]
        self.best = content["best"] and Point(*content["best"])
        self.best_tensors = content["best_tensors"]
        torch.set_rng_state(content["generators"][0])
        torch.cuda.set_rng_state_all(content["generators"][1:])

    def _kept(self) -> tuple[dict[str, Any] | None, list[Point]]:
        """Return the last checkpoint, if there is one, and the curve up to it."""
        if self.folder is None:
            return None, []
        content = read_checkpoint(self.folder, self.steps)
        return content, truncate_curve(self.folder, content["done"] if content else 0)

    def how_to_go_on(self) -> str:
        stopped = f"{self.name} was stopped after step {self.state.done} of {self.steps.count}."
        if not self.saved:
            return f"{stopped} It had written no checkpoint yet; the same command starts it again."
        return (
            f"{stopped} The checkpoint of step {self.saved} is in {self.folder}; the same command goes on from there."
        )


def _moved(batch: Any, device: torch.device) -> Any:
    if device.type == "cpu":
        return batch
    from accelerate.utils import send_to_device

    return send_to_device(batch, device)


def _accelerator(loop: Loop, name: str, accumulate: int) -> Any:
    """Return a fresh Accelerator: the library keeps the first one's precision and device for the whole process."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    # What is trained lies on the loop's device already; the library would move the optimizer to the first of its kind.
    settings = loop.tracking.settings(name) if loop.tracking is not None else {}
    # A training of one process may be part of what several do, such as a suite that one of them builds.
    with apart() if loop.processes.count == 1 else nullcontext():
        return Accelerator(
            cpu=loop.place.type == "cpu",
            device_placement=False,
            mixed_precision=loop.precision,
            gradient_accumulation_steps=accumulate,
            **settings,
        )
