"""A task as data: what a suite's YAML says of it, and the task that is built from that."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from torch import nn

from fusionbench.config import Config
from fusionbench.config.fields import Count, Names, Text
from fusionbench.errors import ConfigError
from fusionbench.families import Family
from fusionbench.registry import tasks
from fusionbench.tasks.base import Split, Task
from fusionbench.weights.headers import Source


def _has_a_place(template: str) -> str:
    if template.count("{}") != 1:
        raise ValueError(f"{template!r} must hold {{}} once, where the class name goes")
    return template


class Columns(Config):
    """Which columns of a data set hold what."""

    image: Text = "image"
    label: Text = "label"


class TaskSpec(Config):
    """A task's description, as a suite's YAML has it."""

    dataset: Text = Field(description="a folder, or org/name[@revision] of the hub")
    kind: Text = Field(default="image", description="a registered kind of task")
    config: Text | None = Field(default=None, description="which configuration of the data set")
    splits: dict[Split, Text] | None = Field(
        default=None, description="the data set's names of train, validation and test, where they are others"
    )
    columns: Columns = Columns()
    class_names: Annotated[tuple[Text, ...], Field(min_length=1)] | None = Field(
        default=None, description="in the order of the labels; by default those that the data set brings"
    )
    templates: tuple[Annotated[str, AfterValidator(_has_a_place)], ...] = Field(
        default=("a photo of a {}.",), min_length=1, description="prompts, {} standing for the class name"
    )
    metrics: Annotated[Names, Field(min_length=1)] = Field(default=("accuracy",), description="the primary one first")
    family: Text | None = Field(default=None, description="the family that can run it; by default the pool's")
    version: Count = Field(default=1, description="raised when the task's numbers change")
    options: dict[Text, Any] = Field(default={}, description="what kinds of other packages take besides")


def build_task(
    name: str, spec: TaskSpec | Mapping[str, Any], family: Family, pool_base_module: Source | nn.Module
) -> Task:
    """Return the task that `spec` describes.

    Args:
        name: in tables and reports; it also seeds the order of examples.
        spec: its description, or the mapping that one is read from.
        family: of the pool's models.
        pool_base_module: the pretrained checkpoint of the pool, opened as a source (its text tower is then only loaded
            where the head is not cached), or its module as Hugging Face loaded it from a folder.

    Raises:
        ConfigError: where the description is wrong, the kind unknown, or the task for another family.
        MissingData: where data, a split or a column is not there.
    """
    if not isinstance(spec, TaskSpec):
        spec = TaskSpec.read(spec, f"The task {name}")
    if spec.family not in (None, family.name):
        raise ConfigError(f"The task {name} is for the family {spec.family!r}, the pool's models are {family.name!r}.")
    task: Task = tasks[spec.kind].load()(name, spec, family, pool_base_module)
    return task
