"""Segmentation, depth and surface normals of scenes, as kinds of tasks that a suite's YAML names."""

from pathlib import Path

from torch import nn

from fusionbench.errors import ConfigError, MissingPart
from fusionbench.families import Family, HasHead, HasImages, as_source
from fusionbench.registry import suggestion
from fusionbench.tasks.base import Metric
from fusionbench.tasks.dense import DenseTask
from fusionbench.tasks.dense_data import read_dense_splits
from fusionbench.tasks.dense_kinds import KINDS, DenseKind
from fusionbench.tasks.registration import task
from fusionbench.tasks.spec import TaskSpec, refuse_unused
from fusionbench.tasks.trained_heads import read_head
from fusionbench.weights.headers import Source


@task("segmentation", version=2)
def segmentation_task(name: str, spec: TaskSpec, family: Family, base: Source | nn.Module) -> DenseTask:
    """Class of every pixel of scenes in a folder: mean IoU and pixel accuracy."""
    return dense_task("segmentation", name, spec, family, base)


@task("depth", version=2)
def depth_task(name: str, spec: TaskSpec, family: Family, base: Source | nn.Module) -> DenseTask:
    """Depth of every pixel of scenes in a folder: absolute and relative error."""
    return dense_task("depth", name, spec, family, base)


@task("normals", version=2)
def normals_task(name: str, spec: TaskSpec, family: Family, base: Source | nn.Module) -> DenseTask:
    """Surface normal of every pixel of scenes in a folder: angle (mean, median) and shares within 11.25, 22.5, 30°."""
    return dense_task("normals", name, spec, family, base)


def dense_task(which: str, name: str, spec: TaskSpec, family: Family, base: Source | nn.Module) -> DenseTask:
    """Return a task of one of the dense kinds, with the head that the description names, if it names one.

    Raises:
        MissingPart: where the family takes no images, or has no trained heads.
        MissingData: where the folder holds no split of scenes.
        ConfigError: where the description does not fit the kind.
    """
    kind = KINDS[which]
    if not isinstance(family, HasImages):
        raise MissingPart(family.name, f"image input, which the task {name} is about")
    if not isinstance(family, HasHead):
        raise MissingPart(family.name, f"trained heads, one of which the task {name} needs")
    refuse_unused(name, spec, "config", "splits", "columns", "options", "templates")
    names = kind.channels or spec.class_names
    if names is None or (kind.channels is not None and spec.class_names not in (None, kind.channels)):
        fix = "List them." if names is None else f"Its channels are {', '.join(names)}; leave class_names out."
        raise ConfigError(f"The task {name} is of the kind {which!r} and has the wrong class_names. {fix}")
    source = as_source(base)
    return DenseTask(
        name=name,
        family=family,
        kind=which,
        class_names=names,
        data=read_dense_splits(Path(spec.dataset).expanduser(), kind),
        config=source.config,
        processor=family.processor(source),
        metrics=_chosen(name, spec, kind),
        head=None if spec.head is None else read_head(spec.head, family, source.config, names, task=name),
        version=spec.version,
    )


def _chosen(name: str, spec: TaskSpec, kind: DenseKind) -> tuple[Metric, ...]:
    """Return the kind's metrics, or those of them that the description asks for, in its order."""
    if "metrics" not in spec.model_fields_set:
        return kind.metrics
    known = {metric.name: metric for metric in kind.metrics}
    for asked in spec.metrics:
        if asked not in known:
            raise ConfigError(f"The task {name}: {kind.name} has no metric {asked!r}. {suggestion(asked, list(known))}")
    return tuple(known[asked] for asked in spec.metrics)
