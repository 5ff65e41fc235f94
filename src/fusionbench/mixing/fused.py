"""What a fusion gives: something that predicts for any task, and that can be written to disk."""

import json
import shutil
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fusionbench.errors import FusionBenchError, IncompatibleModels, OutputError
from fusionbench.families import Batch, Family, load_module, specs_of
from fusionbench.merge import copy_other_files
from fusionbench.tasks import Output, Predictor, Task
from fusionbench.weights.headers import Source, TensorSpec
from fusionbench.weights.tensors import Weights, as_bytes
from fusionbench.weights.writer import PARTIAL, CheckpointWriter, written_to

Device = torch.device | str


class Skipped(FusionBenchError):
    """A fused model has nothing to say on a task; the reason goes into the report."""


@runtime_checkable
class Fused(Protocol):
    """The result of a fusion method."""

    def for_task(self, task: Task) -> Predictor:
        """Return what predicts for a task.

        Raises:
            Skipped: where this model cannot answer the task, with the reason.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write a folder that appears whole or not at all.

        Raises:
            OutputError: where it exists, or cannot be written.
        """
        ...


class FusedWeights:
    """One set of weights for all tasks: what merging gives.

    Attributes:
        weights: the fused tensors.
    """

    def __init__(self, weights: Weights, family: Family, base: Source, *, device: Device = "cpu") -> None:
        """Hold weights against the base; nothing is loaded before a task asks.

        Args:
            weights: fused tensors by canonical name, all of the model's or only the family's tower.
            family: how the model runs.
            base: the pretrained checkpoint: its configuration, its other files, and every tensor that `weights` lacks.
            device: where the model runs.

        Raises:
            IncompatibleModels: where a tensor has no counterpart in the base, or another shape.
        """
        self.weights = weights
        self._family, self._base, self._device = family, base, device
        canonical = {own: name for name, own in family.names(base.specs).items()}
        specs = specs_of(weights)
        given = {canonical.get(own, own): name for name, own in family.names(specs).items()}
        problems = [_misfit(base, name, specs[held]) for name, held in given.items()]
        if any(problems):
            raise IncompatibleModels("\n".join(["The fused weights do not fit their base:", *filter(None, problems)]))
        self._given = given

    @cached_property
    def module(self) -> nn.Module:
        """The family's module with these weights, in eval mode; loaded once."""
        return load_module(self._family, self.weights, self._base.config, rest=self._base).to(self._device)

    def for_task(self, task: Task) -> Predictor:
        """Return the task's head over the module, which all tasks share."""
        return _predictor(task, self._family, self.module, self._device)

    def save(self, folder: Path) -> None:
        """Write a folder that plain transformers loads: weights, configuration, tokenizer and processor of the base."""
        specs, fused = dict(self._base.specs), specs_of(self.weights)
        specs |= {name: fused[own]._replace(name=name) for name, own in self._given.items()}
        with CheckpointWriter(
            folder, list(specs.values()), metadata={}, finish=lambda made: _finish(made, self._base)
        ) as writer:
            for name in specs:
                own = self._given.get(name)
                writer.write(name, self._base.read(name) if own is None else as_bytes(self.weights[own]))


class PerTask:
    """Weights of its own for each task: experts as they are, masked or modulated models."""

    def __init__(
        self,
        weights: Mapping[str, Weights | Callable[[], Weights]],
        family: Family,
        base: Source,
        *,
        shared: Weights | None = None,
        device: Device = "cpu",
    ) -> None:
        """Remember what belongs to which task; a model is made when its task asks, and is not kept.

        Args:
            weights: by task name: tensors by canonical name, or a function that makes them.
            family: how the models run.
            base: the pretrained checkpoint.
            shared: for tasks that have none of their own; None skips those.
            device: where the models run.
        """
        self._weights, self._shared = weights, shared
        self._family, self._base, self._device = family, base, device

    def for_task(self, task: Task) -> Predictor:
        """Return the predictor of the task's own model, else of the shared one.

        Raises:
            Skipped: where there is neither.
        """
        if task.name in self._weights:
            return self._model(self._weights[task.name]).for_task(task)
        if self._shared is None:
            own = ", ".join(self._weights) or "no task"
            raise Skipped(
                f"{task.name} has no model of its own (there are models for {own}) and there is no shared one."
            )
        return self._model(self._shared).for_task(task)

    def save(self, folder: Path) -> None:
        """Write one model a task into `folder/tasks/<task>`, and the shared one into `folder/shared`."""
        for name, weights in self._weights.items():
            self._model(weights).save(folder / "tasks" / name)
        if self._shared is not None:
            self._model(self._shared).save(folder / "shared")

    def _model(self, weights: Weights | Callable[[], Weights]) -> FusedWeights:
        made = weights if isinstance(weights, Mapping) else weights()
        return FusedWeights(made, self._family, self._base, device=self._device)


class FusedModule:
    """A live module: what mixing gives, or a model of the user's.

    Attributes:
        module: in eval mode.
    """

    def __init__(
        self, module: nn.Module, family: Family, base: Source | None = None, *, device: Device = "cpu"
    ) -> None:
        """Take a module over.

        Args:
            module: of the family's kind, or any that answers the family's calls.
            family: how the module runs.
            base: whose tokenizer and processor are saved beside it.
            device: where the module runs; it is moved there.
        """
        self.module = module.to(device).eval()
        self._family, self._base, self._device = family, base, device

    def for_task(self, task: Task) -> Predictor:
        """Return the task's head over the module."""
        return _predictor(task, self._family, self.module, self._device)

    def save(self, folder: Path) -> None:
        """Write the module as Hugging Face does.

        Raises:
            OutputError: where the folder exists, or the module cannot write itself.
        """
        write = getattr(self.module, "save_pretrained", None)
        if write is None:
            raise OutputError(f"A {type(self.module).__name__} is no model that Hugging Face can save and load.")
        if folder.exists():
            raise OutputError(f"{folder} exists; nothing is written over. Choose another folder or remove it.")
        partial = folder.with_name(folder.name + PARTIAL)
        shutil.rmtree(partial, ignore_errors=True)
        with written_to(folder):
            write(partial)
            if self._base is not None:
                copy_other_files(self._base, partial, "base")
            partial.rename(folder)


def _misfit(base: Source, name: str, spec: TensorSpec) -> str:
    """Return what is wrong with a fused tensor, "" where nothing is."""
    if name not in base.specs:
        return f"  {name}: {base.label} has no such tensor"
    if spec.shape != base.specs[name].shape:
        return f"  {name}: is {list(spec.shape)}, in {base.label} {list(base.specs[name].shape)}"
    return ""


def _predictor(task: Task, family: Family, module: nn.Module, device: Device) -> Predictor:
    if task.family.name != family.name:
        raise Skipped(f"{task.name} is a task for the family {task.family.name!r}, the model is {family.name!r}.")
    predict = task.bind(module)

    def moved(batch: Batch) -> Output:
        return predict({name: item.to(device) if isinstance(item, Tensor) else item for name, item in batch.items()})

    return moved


def _finish(folder: Path, base: Source) -> None:
    (folder / "config.json").write_text(json.dumps(dict(base.config), indent=2, sort_keys=True) + "\n")
    copy_other_files(base, folder, "base")
