"""What a fusion gives: something that predicts for any task, and that can be written to disk."""

from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fusionbench.errors import FusionBenchError, IncompatibleModels, MissingHead, OutputError
from fusionbench.families import Batch, Family, load_module, specs_of
from fusionbench.mixing.stored import as_wanted, rounded, save_weights
from fusionbench.tasks import Output, Predictor, Task
from fusionbench.weights.companions import copy_companions
from fusionbench.weights.headers import Source, TensorSpec
from fusionbench.weights.partial import whole_folder
from fusionbench.weights.tensors import LazyWeights, Weights, as_bytes

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

    def save(self, folder: Path | str) -> None:
        """Write a folder that appears whole or not at all.

        Raises:
            OutputError: where it exists, or cannot be written.
        """
        ...


@runtime_checkable
class Measured(Protocol):
    """A fused model that says what it is and how large; a report has it.

    Attributes:
        kind: weights, per_task, ensemble or module.
        parameters: entries of all tensors that make it up.
        bytes: size of these as they are stored.
    """

    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def parameters(self) -> int: ...  # noqa: D102
    @property
    def bytes(self) -> int: ...  # noqa: D102


class FusedWeights:
    """One set of weights for all tasks: what merging gives.

    Attributes:
        weights: the fused tensors.
        specs: of every tensor that is saved, by canonical name: the base's, and in their place the fused.
    """

    kind = "weights"

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
        named = family.names(specs)
        given = {canonical.get(own, own): name for name, own in named.items()}
        # What the files hold and the module has no place for, such as a tied tensor once more.
        given |= {name: name for name in specs if name in base.specs and name not in named}
        problems = [_misfit(base, name, specs[held]) for name, held in given.items()]
        if any(problems):
            raise IncompatibleModels("\n".join(["The fused weights do not fit their base:", *filter(None, problems)]))
        self._given = given
        self.specs = {**base.specs, **{name: specs[own]._replace(name=name) for name, own in given.items()}}

    @property
    def parameters(self) -> int:
        """Entries of all tensors."""
        return sum(spec.size for spec in self.specs.values())

    @property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(spec.nbytes for spec in self.specs.values())

    def on(self, device: Device) -> "FusedWeights":
        """Return the same weights, to be run on a device."""
        return FusedWeights(self.weights, self._family, self._base, device=device)

    def cast(self, dtype: str) -> "FusedWeights":
        """Return the weights in the kind of number that `output.dtype` names, rounded once: what is written and run.

        Args:
            dtype: "base" for the kind of each of the base's tensors, else one for all floating-point tensors.

        Raises:
            NotFinite: where a result holds NaN or Inf, or is too large for its kind.
        """
        wanted = {name: as_wanted(spec, dtype) for name, spec in self._base.specs.items()}
        if isinstance(self.weights, LazyWeights) and self.specs == wanted:
            return self
        fused = {name: rounded(self.weights[own], wanted[name]) for name, own in self._given.items()}
        rest = [name for name, spec in wanted.items() if name not in fused and spec != self._base.specs[name]]
        base = LazyWeights(self._base)
        fused |= {name: rounded(base[name], wanted[name], may_be_infinite=True) for name in rest}
        return FusedWeights(fused, self._family, self._base, device=self._device)

    @cached_property
    def module(self) -> nn.Module:
        """The family's module with these weights, in eval mode; loaded once."""
        return load_module(self._family, self.weights, self._base.config, rest=self._base).to(self._device)

    def for_task(self, task: Task) -> Predictor:
        """Return the task's head over the module, which all tasks share."""
        return predictor(task, self._family, self.module, self._device)

    def save(self, folder: Path | str) -> None:
        """Write a folder that plain transformers loads: weights, configuration, tokenizer and processor of the base."""

        def content(name: str) -> memoryview:
            own = self._given.get(name)
            return self._base.read(name) if own is None else as_bytes(self.weights[own])

        save_weights(Path(folder), self.specs, content, self._base)


class FusedModule:
    """A live module: what mixing gives, or a model of the user's.

    Attributes:
        module: in eval mode.
    """

    kind = "module"

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

    @property
    def parameters(self) -> int:
        """Entries of the module's parameters and buffers, those that are tied once."""
        return sum(tensor.numel() for tensor in self._held)

    @property
    def bytes(self) -> int:
        """Bytes of these."""
        return sum(tensor.nbytes for tensor in self._held)

    @property
    def _held(self) -> list[Tensor]:
        return [*self.module.parameters(), *self.module.buffers()]

    def for_task(self, task: Task) -> Predictor:
        """Return the task's head over the module."""
        return predictor(task, self._family, self.module, self._device)

    def save(self, folder: Path | str) -> None:
        """Write the module as Hugging Face does.

        Raises:
            OutputError: where the folder exists, or the module cannot write itself.
        """
        write = getattr(self.module, "save_pretrained", None)
        if write is None:
            raise OutputError(f"A {type(self.module).__name__} is no model that Hugging Face can save and load.")
        with whole_folder(Path(folder)) as made:
            write(made)
            if self._base is not None:
                copy_companions(self._base, made)


def _misfit(base: Source, name: str, spec: TensorSpec) -> str:
    """Return what is wrong with a fused tensor, "" where nothing is."""
    if name not in base.specs:
        return f"  {name}: {base.label} has no such tensor"
    if spec.shape != base.specs[name].shape:
        return f"  {name}: is {list(spec.shape)}, in {base.label} {list(base.specs[name].shape)}"
    return ""


def predictor(task: Task, family: Family, module: nn.Module, device: Device) -> Predictor:
    """Return a task's head over a module that lies on a device; batches are moved there.

    Raises:
        Skipped: where the task is for another family, or has no head.
    """
    if task.family.name != family.name:
        raise Skipped(f"{task.name} is a task for the family {task.family.name!r}, the model is {family.name!r}.")
    try:
        predict = task.bind(module)
    except MissingHead as reason:
        raise Skipped(str(reason)) from None

    def moved(batch: Batch) -> Output:
        return predict({name: item.to(device) if isinstance(item, Tensor) else item for name, item in batch.items()})

    return moved
