"""A task as data: what a suite's YAML says of it, and the task that is built from that."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from torch import nn

from fusionbench.config import Config
from fusionbench.config.corruptions import PUBLISHED_SEVERITY, parse_corruption
from fusionbench.config.fields import WHOLE, Count, Names, Seed, Text
from fusionbench.errors import ConfigError
from fusionbench.families import Family
from fusionbench.registry import tasks
from fusionbench.tasks.base import Split, Task
from fusionbench.tasks.class_lists import class_list
from fusionbench.tasks.corruptions import Corruptible, corruption
from fusionbench.weights.headers import Source


def _has_a_place(template: str) -> str:
    if template.count("{}") != 1:
        raise ValueError(f"{template!r} must hold {{}} once, where the class name goes")
    return template


def _known_corruption(name: str) -> str:
    try:
        parse_corruption(name)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return name


class Columns(Config):
    """Which columns of a data set hold what."""

    image: Text = "image"
    text: Text = "text"
    pair: Text | None = Field(default=None, description="the second text, where examples are pairs")
    label: Text = "label"


class CorruptionSpec(Config):
    """How images are changed before a model sees them."""

    name: Annotated[Text, AfterValidator(_known_corruption)] = Field(description="such as motion_blur")
    severity: Annotated[int, Field(ge=1, le=5), WHOLE] = PUBLISHED_SEVERITY
    seed: Seed = 0


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
        default=None,
        description="in the order of the labels, or the name of a known list; null: those that the data set brings",
    )
    templates: tuple[Annotated[str, AfterValidator(_has_a_place)], ...] = Field(
        default=("a photo of a {}.",),
        min_length=1,
        description="prompts, {} standing for the class name, or the name of a known list",
    )
    metrics: Annotated[Names, Field(min_length=1)] = Field(default=("accuracy",), description="the primary one first")
    family: Text | None = Field(default=None, description="the family that can run it; by default the pool's")
    head: Text | None = Field(
        default=None, description="a checkpoint that holds its trained head; by default that of its expert"
    )
    version: Count = Field(default=1, description="raised when the task's numbers change")
    options: dict[Text, Any] = Field(default={}, description="what kinds of other packages take besides")
    corrupted_splits: dict[Text, Text] = Field(
        default={}, description="the data set's own corrupted test splits, by corruption; read instead of made"
    )
    corruption: CorruptionSpec | None = Field(default=None, description="a change of all images but those of training")

    @field_validator("class_names", "templates", mode="before")
    @classmethod
    def _of_a_known_data_set(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return getattr(class_list(value), str(info.field_name))
        except ConfigError as error:
            raise ValueError(str(error)) from None


def refuse_unused(name: str, spec: TaskSpec, *keys: str) -> None:
    """Refuse what a description says and a kind of task has no use for.

    Args:
        name: of the task.
        spec: its description.
        keys: of which the kind makes nothing.

    Raises:
        ConfigError: naming those that are there.
    """
    useless = sorted(set(keys) & spec.model_fields_set)
    if useless:
        raise ConfigError(f"The task {name} is of the kind {spec.kind!r}, which takes no {', '.join(useless)}.")


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
    spec = with_published_split(name, spec)
    task: Task = tasks[spec.kind].load()(name, spec, family, pool_base_module)
    if spec.corruption is None:
        return task
    if not isinstance(task, Corruptible):
        raise ConfigError(f"The task {name} is of the kind {spec.kind!r}, whose inputs cannot be corrupted.")
    return task.corrupted(corruption(spec.corruption.name, spec.corruption.severity, spec.corruption.seed))


def with_published_split(name: str, spec: TaskSpec) -> TaskSpec:
    """Return a description that reads the data set's own corrupted test split, where it has one for the corruption.

    Raises:
        ConfigError: where another severity is asked for than the published one.
    """
    asked = spec.corruption
    if asked is None or asked.name not in spec.corrupted_splits:
        return spec
    if asked.severity != PUBLISHED_SEVERITY:
        raise ConfigError(
            f"The task {name} reads the published split {asked.name!r} of {spec.dataset}, which is of the severity "
            f"{PUBLISHED_SEVERITY}; asked for {asked.severity}. Leave tasks.severity out."
        )
    splits: dict[Split, str] = {**(spec.splits or {}), "test": spec.corrupted_splits[asked.name]}
    return spec.model_copy(update={"splits": splits, "corruption": None})
