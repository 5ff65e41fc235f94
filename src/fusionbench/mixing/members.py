"""Models that answer together: each loaded as its own architecture, each asked with its own head."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

from torch import nn

from fusionbench.errors import ConfigError, IncompatibleModels
from fusionbench.families import Family, HasImages, HasText, family_for, load_module
from fusionbench.families.base import HasTextInput, HasTextToText
from fusionbench.merge import Pool
from fusionbench.mixing.fused import Device, FusedWeights, predictor
from fusionbench.tasks import Predictor, Task
from fusionbench.tasks.base import HasTrainedHead
from fusionbench.tasks.trained_heads import read_head
from fusionbench.weights.checks import fit
from fusionbench.weights.headers import Source
from fusionbench.weights.tensors import LazyWeights


@dataclass(frozen=True)
class Member:
    """One model of an ensemble.

    Attributes:
        name: of the expert.
        source: its checkpoint.
        family: how it runs.
        base: what it lacks comes from here: the pool's reference, or itself where it is of another architecture.
        task: that it was trained on, where one is known.
        alike: whether it is of the pool's architecture, so that every task's head fits it.
    """

    name: str
    source: Source
    family: Family
    base: Source
    task: str | None
    alike: bool

    @cached_property
    def weights(self) -> FusedWeights:
        """The model as it is counted and saved."""
        return FusedWeights(LazyWeights(self.source), self.family, self.base)

    def load(self, device: Device) -> nn.Module:
        """Return its module, in eval mode, on a device."""
        return load_module(self.family, LazyWeights(self.source), self.base.config, rest=self.base).to(device)

    def view_of(self, task: Task) -> Task | None:
        """Return a task with the head that is this member's; None where it has none.

        A member of another architecture has a head for its own task alone, unless its module holds one for all.

        Raises:
            CheckpointError: where its checkpoint cannot be read.
            MissingHead: where it holds no head.
            ConfigError: where its labels are others than the task's.
        """
        if self.alike:
            return task
        if not isinstance(task, HasTrainedHead):
            own = not isinstance(self.family, HasText)
            return cast(Task, _moved(task, family=self.family)) if own else None
        if self.task != task.name or self.source.folder is None:
            return None
        config, names = self.source.config, task.class_names
        head = read_head(self.source.folder, self.family, config, names, task=task.name)
        return cast(Task, _moved(task, family=self.family, config=config, head=head))


def _moved(task: Task, **changes: Any) -> Any:
    """Return a task with other fields, which all built-in tasks have."""
    if not set(changes) <= getattr(task, "__dataclass_fields__", {}).keys():
        raise ConfigError(f"The task {task.name} is bound to one architecture; leave members of others out.")
    return replace(cast(Any, task), **changes)


def members_of(pool: Pool, family: Family) -> list[Member]:
    """Return a pool's experts as members of an ensemble; they may be of different architectures.

    Args:
        pool: whose experts they are.
        family: of the reference.

    Raises:
        IncompatibleModels: where an expert without a configuration does not fit the reference.
        ConfigError: where no family serves an expert, or it reads inputs in another form.
    """
    return [_member(pool, family, name, source) for name, source in pool.experts.items()]


def _member(pool: Pool, family: Family, name: str, source: Source) -> Member:
    task = pool.tasks.get(name)
    try:
        fit(pool.reference, {name: source}, tower=pool.tower)
    except IncompatibleModels:
        if not source.config:
            raise
        own = family_for(source.config)
        _check_inputs(name, family, pool.reference, own, source)
        return Member(name, source, own, source, task, alike=False)
    return Member(name, source, family, pool.reference, task, alike=True)


def _check_inputs(name: str, family: Family, reference: Source, own: Family, source: Source) -> None:
    """Refuse a member that cannot read the batches that are made for the reference.

    Raises:
        ConfigError: naming what differs.
    """
    ours, theirs = _inputs(family, reference), _inputs(own, source)
    if ours != theirs:
        differing = ", ".join(sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)))
        raise ConfigError(
            f"The expert {name} is of another architecture than {reference.label} and reads other inputs: {differing}. "
            "Members of an ensemble answer the same batches; give them one tokenizer, or one size and normalisation "
            "of images."
        )


def _inputs(family: Family, source: Source) -> Mapping[str, object]:
    """Return what decides the form of a family's batches."""
    if isinstance(family, HasImages):
        images = family.processor(source)
        return {"image size and cropping": images.key, "image mean": images.mean, "image deviation": images.std}
    if isinstance(family, HasTextInput):
        return {"tokenizer": family.token_processor(source).digest}
    if isinstance(family, HasTextToText):
        return {"family": family.name, "tokenizer": family.text_codec(source).digest}
    return {"family": family.name}


def bound(member: Member, task: Task, module: nn.Module, device: Device) -> Predictor | None:
    """Return a member's answers to a task, after its own head; None where it has none for it."""
    view = member.view_of(task)
    return None if view is None else predictor(view, member.family, module, device)
