"""The recipe of one run, whole: saved beside its result, it makes it again."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, Field, model_validator

from fusionbench.config.document import read_document
from fusionbench.config.fields import WHOLE, Bytes, Config, Count, Device, Names, Seed, Text
from fusionbench.config.method import MethodConfig, method_defaults, over_suite_defaults
from fusionbench.config.slices import SliceConfig, misfits
from fusionbench.errors import ConfigError
from fusionbench.overrides import apply, expand_shorthands, interpolate
from fusionbench.registry import Registry, families, suites


def _registered(registry: Registry, name: str) -> str:
    try:
        return registry[name].name
    except ConfigError as error:
        raise ValueError(str(error)) from None


def _suite(name: str) -> str:
    return name if name.endswith((".yaml", ".yml")) else _registered(suites, name)


def _family(name: str) -> str:
    return name if name == "auto" else _registered(families, name)


def _expert_name(name: str) -> str:
    if not re.fullmatch(r"\w[\w .+@-]*", name):
        raise ValueError(
            "an expert's name starts with a letter or digit and has no slash, since files are named after it"
        )
    return name


class SuiteConfig(Config):
    """A named pool of models and the tasks that belong to it. A bare `suite: mini/clip` is its name."""

    name: Annotated[Text, AfterValidator(_suite)] = Field(
        description="a registered suite, or the path of a suite's YAML"
    )
    size: Literal["tiny", "small", "large"] = Field(default="small", description="of a suite that is built here")
    seed: Seed = Field(default=0, description="of the suite's data and models, where it is built here")
    experts: Names | None = Field(default=None, description="which experts, and so which seen tasks; null: all")
    unseen: Names | None = Field(default=None, description="further tasks to evaluate on; null: the suite's own")


class ExpertConfig(Config):
    """One fine-tuned model. A bare reference is its `model`."""

    model: Text = Field(description="a folder, a file, or a hub id with @revision")
    task: Text | None = Field(
        default=None, description="what it was trained on; null: the task of its name, where there is one"
    )
    adapter: Text | None = Field(default=None, description="a LoRA or (IA)³ adapter on `model`")
    head: Text | None = Field(
        default=None, description="where its task's head comes from; null: the model itself or the suite"
    )


class TasksConfig(Config):
    """What the result is evaluated on. A bare list is `seen`."""

    seen: Names | None = Field(default=None, description="tasks of experts; null: of all experts")
    unseen: Names | None = Field(
        default=None, description="tasks that no expert was trained on; null: the suite's choice"
    )
    split: Literal["train", "validation", "test"] = "test"
    corruption: Text | None = Field(default=None, description="a corruption of the inputs, such as motion_blur")
    severity: Annotated[int, Field(ge=1, le=5), WHOLE] = 2
    limit: Count | None = Field(default=None, description="only the first so many examples of each task")


class OutputConfig(Config):
    """What is written, and where."""

    model: bool = Field(default=True, description="write the fused weights")
    dtype: Literal["base", "float64", "float32", "float16", "bfloat16"] = "base"
    format: Literal["model"] = "model"
    shard_bytes: Bytes = Field(default=5_000_000_000, description="largest file of weights; a number, 5GB or 500MB")
    folder: Text | None = Field(default=None, description="the run's own folder; null: runs/<suite>/<method>-<8 hex>")


class RuntimeConfig(Config):
    """How the work is done. Never in the identity: it changes no number."""

    device: Device = "auto"
    threads: Count = Field(default_factory=lambda: _cpus(), description="of the processor")
    memory: Bytes | None = Field(default=None, description="most that may be used; a number of bytes, 2GB or 500MB")
    launcher: Text | None = Field(default=None, description="what starts the runs of a sweep; null: this process")


def _cpus() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Recipe(Config):
    """What to fuse, how, and what to evaluate it on."""

    suite: SuiteConfig | None = Field(
        default=None, description="fills base, experts, family and tasks; what stands beside it wins"
    )
    base: Text | None = Field(
        default=None, description="the pretrained model: a folder, a file, or a hub id with @revision"
    )
    experts: dict[Annotated[str, AfterValidator(_expert_name)], ExpertConfig] = Field(
        {}, description="by name, in order"
    )
    family: Annotated[str, AfterValidator(_family)] = Field(
        "auto", description="the architecture; auto: by config.json"
    )
    space: Literal["dense", "adapter"] = Field(default="dense", description="adapter: merge the adapter's own tensors")
    batch_norm: Literal["average", "keep_base", "recalibrate", "as_parameters"] = "average"
    tasks: TasksConfig = TasksConfig()
    method: MethodConfig
    slices: Annotated[tuple[SliceConfig, ...], Field(min_length=1)] | None = Field(
        default=None, description="layers of the result from first to last, by slices; null: those of the models"
    )
    seed: Seed = Field(default=0, description="of every random choice of the run")
    output: OutputConfig = OutputConfig()
    runtime: RuntimeConfig = Field(default_factory=RuntimeConfig)

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, document: Any) -> Any:
        if not isinstance(document, Mapping):
            return document
        spelled = expand_shorthands(document)
        if "method" in spelled:
            spelled["method"] = over_suite_defaults(spelled["method"], _defaults_of_suite(spelled.get("suite")))
        try:
            return interpolate(spelled, _defaults(spelled))
        except ConfigError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if self.suite is None and not self.experts:
            raise ValueError("there is nothing to fuse: name a suite (suite=mini/clip) or experts (experts.NAME=REF).")
        both = sorted({*(self.tasks.seen or ())} & {*(self.tasks.unseen or ())})
        if both:
            raise ValueError(f"tasks.unseen: {', '.join(both)} is in tasks.seen too.")
        if self.slices is not None:
            if self.suite is not None:
                raise ValueError(
                    "slices make a model of other layers, which a suite's tasks cannot run; leave one out."
                )
            problems = list(misfits(self.slices, [*self.experts], self.base, self.method))
            if problems:
                raise ValueError("\n".join(problems))
        return self

    @classmethod
    def load(cls, file: str | Path | None = None, overrides: Sequence[str] = ()) -> Self:
        """Read a recipe.

        Args:
            file: its YAML; None for a recipe of overrides only.
            overrides: `key=value` in the grammar of `fusionbench.overrides`; they win over the file.

        Raises:
            ConfigError: naming every wrong key and value at once.
        """
        document = {} if file is None else read_document(file)
        return cls.read(apply(document, overrides), "The recipe" if file is None else str(file))

    def dump(self) -> dict[str, Any]:
        """Return plain data that reads back as this recipe; an expert that is only a reference is that text."""
        document = self.model_dump(mode="json")
        if self.slices is None:
            del document["slices"]
        for name, expert in document["experts"].items():
            if [key for key, value in expert.items() if value is not None] == ["model"]:
                document["experts"][name] = expert["model"]
        return document

    def to_yaml(self) -> str:
        """Return the recipe as YAML that reads back as itself."""
        return yaml.safe_dump(self.dump(), sort_keys=False, allow_unicode=True)


def _defaults_of_suite(suite: Any) -> Mapping[str, Mapping[str, Any]]:
    """Return the parameters that a suite sets for methods, by method; nothing where it is unknown or sets none."""
    name = suite.get("name") if isinstance(suite, Mapping) else suite
    if not isinstance(name, str):
        return {}
    if name.endswith((".yaml", ".yml")):
        found = read_document(name).get("method_defaults") if Path(name).expanduser().is_file() else None
    else:
        found = (suites[name].data or {}).get("method_defaults") if name in suites else None
    return found if isinstance(found, Mapping) else {}


def _defaults(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `${key}` may refer to although the document does not set it."""
    models: dict[str, type[Config]] = {
        "tasks": TasksConfig,
        "output": OutputConfig,
        "runtime": RuntimeConfig,
        "": Recipe,
    }
    if document.get("suite") is not None:
        models["suite"] = SuiteConfig
    defaults: dict[str, Any] = {"method": method_defaults(document.get("method"))}
    for group, model in models.items():
        fields = {name: field for name, field in model.model_fields.items() if not field.is_required()}
        values = {name: field.get_default(call_default_factory=True) for name, field in fields.items()}
        defaults.update({group: values} if group else {k: v for k, v in values.items() if k not in models})
    return defaults


def identity(recipe: Recipe, *, inputs: Mapping[str, str], versions: Mapping[str, int], build: str | None) -> str:
    """Return what names a run: two runs of one identity give the same numbers.

    Args:
        recipe: its `runtime` and `output.folder` do not count; the order of its experts does.
        inputs: fingerprint of each input, by name.
        versions: version of the method, of the family, and of each task, by name.
        build: build id of the suite, where it is built here.

    Returns:
        "sha256:" and 64 hexadecimal digits, over canonical JSON (sorted keys, no spaces, ASCII).
    """
    document = recipe.dump()
    del document["runtime"], document["output"]["folder"]
    document["experts"] = [[name, recipe.experts[name].model_dump()] for name in recipe.experts]
    whole = {"recipe": document, "inputs": dict(inputs), "versions": dict(versions), "build": build}
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"sha256:{hashlib.sha256(text.encode('ascii')).hexdigest()}"
