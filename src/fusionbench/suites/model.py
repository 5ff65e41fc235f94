"""Suites, pools of models and pools of tasks, as data: references only, no weights and no examples. No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from fusionbench.config import Config, ExpertConfig, parse_document
from fusionbench.config.fields import Names, Text
from fusionbench.config.vocabulary import VocabularyConfig
from fusionbench.errors import ConfigError
from fusionbench.registry import families, suggestion


class ModelPool(Config):
    """The models of a suite: a base and what was fine-tuned from it."""

    base: Text | None = Field(default=None, description="the pretrained model: a folder, a file, or a hub id")
    experts: Annotated[dict[Text, ExpertConfig], Field(min_length=1)] = Field(
        description="by name, in order; a bare reference is the expert's model"
    )
    family: Text = Field(default="auto", description="the architecture; auto: by config.json")
    mtl: Text | None = Field(default=None, description="a model trained on all tasks together, for traditional_mtl")
    vocabulary: VocabularyConfig | None = Field(
        default=None, description="one vocabulary for models of different tokenizers, as in a recipe"
    )

    @model_serializer(mode="wrap")
    def _without_what_is_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Say nothing of a vocabulary where there is none: descriptions are part of build ids."""
        document: dict[str, Any] = handler(self)
        if document.get("vocabulary") is None:
            document.pop("vocabulary", None)
        return document

    @field_validator("experts", mode="before")
    @classmethod
    def _spell_out(cls, experts: Any) -> Any:
        if not isinstance(experts, Mapping):
            return experts
        return {name: {"model": item} if isinstance(item, str | Path) else item for name, item in experts.items()}

    def task_of(self, name: str, known: Mapping[str, Any]) -> str | None:
        """Return the task an expert was trained on: the one it names, else the known one of its own name."""
        return self.experts[name].task or (name if name in known else None)


class TaskPool(Config):
    """The tasks of a suite, each described as `fusionbench.tasks.TaskSpec` reads it. A bare mapping is `tasks`."""

    tasks: dict[Text, dict[str, Any]] = Field(description="by name, in order")

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, document: Any) -> Any:
        return {"tasks": document} if isinstance(document, Mapping) and set(document) != {"tasks"} else document


class Origin(Config):
    """How a model is had that cannot be fetched by its reference."""

    source: Text = Field(description="who published it and where, or that it has to be trained")
    make: Text | None = Field(default=None, description="the command that makes it")
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = Field(
        default=None, description="of the file, where it is one and this is known"
    )


class Suite(Config):
    """A pool of models and the tasks that belong to it."""

    name: Text = Field(description="in reports")
    pool: ModelPool
    tasks: TaskPool
    unseen: Names = Field(default=(), description="tasks to evaluate on that no expert was trained on")
    method_defaults: dict[Text, dict[str, Any]] = Field(
        default={}, description="parameters of methods that suit these models, by method"
    )
    origins: dict[Text, Origin] = Field(
        default={}, description="how local files are had, by model (base, mtl or an expert) or head: heads/TASK"
    )

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        known = self.tasks.tasks
        for name, expert in self.pool.experts.items():
            if expert.task is not None and expert.task not in known:
                raise ValueError(f"experts.{name}.task: {_unknown(expert.task, known)}")
        for name in self.unseen:
            if name not in known:
                raise ValueError(f"unseen: {_unknown(name, known)}")
            if name in self.seen:
                raise ValueError(f"unseen: an expert was trained on {name!r}.")
        return self

    @property
    def seen(self) -> tuple[str, ...]:
        """Tasks that experts were trained on, each once, in the experts' order."""
        found = (self.pool.task_of(name, self.tasks.tasks) for name in self.pool.experts)
        return tuple(dict.fromkeys(task for task in found if task is not None))

    def restricted(self, experts: tuple[str, ...] | None, unseen: tuple[str, ...] | None) -> Self:
        """Return the suite with some of its experts, in the given order, and other unseen tasks.

        The seen tasks are then those of the chosen experts; a task of an expert that was left out may be unseen.

        Raises:
            ConfigError: where a name is not known, or a task would be both.
        """
        for name in experts or ():
            if name not in self.pool.experts:
                raise ConfigError(f"The suite {self.name} has no expert {name!r}. {_near(name, self.pool.experts)}")
        for name in unseen or ():
            if name not in self.tasks.tasks:
                raise ConfigError(f"The suite {self.name} has no task {name!r}. {_near(name, self.tasks.tasks)}")
        chosen = {name: self.pool.experts[name] for name in (self.pool.experts if experts is None else experts)}
        document = self.with_models(self.pool.model_copy(update={"experts": chosen})).model_dump()
        document["unseen"] = self.unseen if unseen is None else unseen
        return type(self).read(document, f"The suite {self.name}")

    def with_models(self, pool: ModelPool) -> Self:
        """Return the suite with other models; a task that loses its expert keeps the trained head that came with it."""
        known = dict(self.tasks.tasks)
        if (families[self.pool.family].data or {}).get("head") if self.pool.family != "auto" else True:
            kept = {pool.task_of(name, known) for name in pool.experts}
            for name, expert in self.pool.experts.items():
                task = self.pool.task_of(name, known)
                if task is not None and task not in kept and "head" not in known[task]:
                    known[task] = {**known[task], "head": expert.head or expert.adapter or expert.model}
        return self.model_copy(update={"pool": pool, "tasks": TaskPool(tasks=known)})

    def to_yaml(self) -> str:
        """Return the suite as YAML that reads back as itself."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    @classmethod
    def from_yaml(cls, text: str, where: str = "The suite") -> Self:
        """Read a suite from YAML.

        Raises:
            ConfigError: naming every wrong key and value at once.
        """
        return cls.read(parse_document(text, where), where)


@dataclass(frozen=True, slots=True)
class ResolvedSuite:
    """A suite whose models are there: what a run works with.

    Attributes:
        suite: its pool and tasks; references are absolute paths or hub ids.
        size: "tiny", "small" or "large" where it was built here, else None.
        seed: of the build, else None.
        build: build id, else None.
        notes: what a report should say of it, such as that some data are generated.
        building: seconds that building it took just now; 0 where it was there.
    """

    suite: Suite
    size: str | None = None
    seed: int | None = None
    build: str | None = None
    notes: tuple[str, ...] = ()
    building: float = field(default=0.0, compare=False)


def _unknown(name: str, known: Mapping[str, Any]) -> str:
    return f"there is no task {name!r}. {_near(name, known)}"


def _near(name: str, known: Mapping[str, Any]) -> str:
    return suggestion(name, list(known))
