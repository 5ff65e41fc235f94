"""What a training begins with: a model that can be run on tasks and written, whatever it is made of."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from fusionbench.errors import ConfigError
from fusionbench.families import Batch, Family, load_module
from fusionbench.finetune.adapters import adapt, write_adapter
from fusionbench.finetune.folder import write_expert
from fusionbench.finetune.heads import TrainedHead
from fusionbench.finetune.recipe import FinetuneRecipe, Tuning
from fusionbench.registry import suggestion
from fusionbench.tasks.base import Output, Predictor, Task
from fusionbench.weights.headers import Source


class Start(Protocol):
    """A model at the beginning of a training; its module is trained in place, where it asks for gradients."""

    @property
    def source(self) -> Source:
        """The checkpoint that it was loaded from."""
        ...

    @property
    def module(self) -> nn.Module:
        """The module in float32; loaded when it is first asked for."""
        ...

    def for_task(self, task: Task) -> Predictor:
        """Return the task's predictor over the module, wherever that lies."""
        ...

    def write(self, out: Path, record: Mapping[str, Any], curve: Path, head: TrainedHead | None) -> None:
        """Write the model as it is now, in the form of its checkpoint, with the record and the curve.

        Raises:
            OutputError: where the folder cannot be written.
        """
        ...


class Trained:
    """A module in training as what `evaluate` asks."""

    def __init__(self, module: nn.Module) -> None:
        """Run this module; batches are moved to where it lies when a task asks."""
        self.module = module

    def for_task(self, task: Task) -> Predictor:
        """Return the task's head over the module."""
        predict, place = task.bind(self.module), next(self.module.parameters()).device

        def moved(batch: Batch) -> Output:
            return predict({key: item.to(place) if isinstance(item, Tensor) else item for key, item in batch.items()})

        return moved


class Checkpoint:
    """A plain checkpoint, whose tower is trained, or an adapter on it.

    Attributes:
        source: the checkpoint.
    """

    def __init__(
        self, base: str | Path, source: Source, family: Family, tuning: Tuning, recipe: FinetuneRecipe
    ) -> None:
        """Remember what to load.

        Args:
            base: how the checkpoint was named, which an adapter's file says.
            source: the opened checkpoint.
            family: how it runs.
            tuning: "full", or which adapter.
            recipe: has the adapter's settings where there is one.
        """
        self.source = source
        self._base, self._family, self._tuning, self._recipe = base, family, tuning, recipe
        self._adapted: Any = None

    @cached_property
    def module(self) -> nn.Module:
        """The family's module; its tower, or the adapter alone, asks for gradients.

        Raises:
            ConfigError: where the adapter does not fit the model.
        """
        module = load_module(self._family, self.source).float()
        settings = self._recipe.adapter
        if settings is not None:
            self._adapted = adapt(module, self._family, self.source, self._tuning, settings, seed=self._recipe.seed)
            return module
        tower = {n for n in self._family.names(self.source.specs).values() if n.startswith(self._family.tower)}
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name in tower)
        return module

    def for_task(self, task: Task) -> Predictor:
        """Return the task's head over the module."""
        return Trained(self.module).for_task(task)

    def write(self, out: Path, record: Mapping[str, Any], curve: Path, head: TrainedHead | None) -> None:
        """Write a model in Hugging Face form, or an adapter in PEFT's."""
        if self._adapted is None:
            write_expert(out, self.module, self.source, self._family, record, curve, head)
        else:
            write_adapter(out, self._adapted, str(self._base), self._family, record, curve, head)


def keep_only(module: nn.Module, parts: Sequence[str] | None) -> None:
    """Of the tensors that ask for gradients, leave those with one of some words between the dots of their names.

    Raises:
        ConfigError: where a word is in no such name.
    """
    if parts is None:
        return
    asking = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    words = {word for name in asking for word in name.split(".") if not word.isdigit()}
    for part in parts:
        if part not in words:
            raise ConfigError(
                f"recipe.only: no tensor that is trained has {part!r} in its name. {suggestion(part, sorted(words))}"
            )
    for name, parameter in asking.items():
        parameter.requires_grad_(not set(parts).isdisjoint(name.split(".")))
