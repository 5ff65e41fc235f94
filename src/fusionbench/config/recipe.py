"""The recipe of one run, whole: saved beside its result, it makes it again."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, Field, model_validator

from fusionbench.config.corruptions import parse_corruption
from fusionbench.config.document import read_document
from fusionbench.config.fields import WHOLE, Bytes, Config, Count, Names, Seed, Text
from fusionbench.config.method import MethodConfig, method_defaults, over_suite_defaults
from fusionbench.config.runtime import RuntimeConfig
from fusionbench.config.slices import SliceConfig, misfits
from fusionbench.config.vocabulary import VocabularyConfig
from fusionbench.errors import ConfigError
from fusionbench.overrides import apply, expand_shorthands, interpolate
from fusionbench.registry import Registry, families, suites

BatchNorm = Literal["average", "keep_base", "recalibrate", "as_parameters"]
"""What becomes of running means and variances."""


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


def _corruption(name: str | None) -> str | None:
    try:
        if name is not None:
            parse_corruption(name)
    except ConfigError as error:
        raise ValueError(str(error)) from None
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
    corruption: Annotated[Text | None, AfterValidator(_corruption)] = Field(
        default=None, description="of images that are not for training, such as motion_blur or imagenet_c/motion_blur"
    )
    severity: Annotated[int, Field(ge=1, le=5), WHOLE] = 2
    limit: Count | None = Field(default=None, description="only the first so many examples of each task")

    @model_validator(mode="after")
    def _has_what_is_severe(self) -> Self:
        if self.corruption is not None and self.split == "train":
            raise ValueError("tasks.corruption: training images are left as they are. Score another split.")
        if self.corruption is None and self.severity != type(self).model_fields["severity"].default:
            raise ValueError(
                f"tasks.severity={self.severity} says how strong a corruption is, and there is none. "
                "Add tasks.corruption, or leave it out."
            )
        return self


class OutputConfig(Config):
    """What is written, and where."""

    model: bool = Field(default=True, description="write the fused weights")
    dtype: Literal["base", "float64", "float32", "float16", "bfloat16"] = "base"
    format: Literal["model", "lora"] = Field(
        default="model", description="lora: the change from the base, as a LoRA that PEFT loads"
    )
    rank: Count | None = Field(default=None, description="of output.format=lora; null: 16")
    chat_template: Text | None = Field(
        default=None,
        description="Jinja text for the tokenizer; auto: what most models have; null: what comes with the tokenizer",
    )
    shard_bytes: Bytes = Field(default=5_000_000_000, description="largest file of weights; a number, 5GB or 500MB")
    folder: Text | None = Field(default=None, description="the run's own folder; null: runs/<suite>/<method>-<8 hex>")


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
    batch_norm: BatchNorm = "average"
    tasks: TasksConfig = TasksConfig()
    method: MethodConfig
    slices: Annotated[tuple[SliceConfig, ...], Field(min_length=1)] | None = Field(
        default=None, description="layers of the result from first to last, by slices; null: those of the models"
    )
    vocabulary: VocabularyConfig | None = Field(
        default=None, description="one vocabulary for models of different tokenizers; null: rows are merged by number"
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
        if self.suite is not None and (self.vocabulary is not None or self.output.format != "model"):
            key = "vocabulary" if self.vocabulary is not None else "output.format"
            raise ValueError(f"{key}: a suite's models are run as they are; merge them by: fusionbench merge.")
        if self.vocabulary is not None and self.space == "adapter":
            raise ValueError("vocabulary: adapters have no tokens of their own; leave it out, or space=adapter.")
        if self.output.rank is not None and self.output.format != "lora":
            raise ValueError("output.rank is the rank of a LoRA. Add output.format=lora, or leave it out.")
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
        for absent in ("slices", "vocabulary"):
            if document[absent] is None:
                del document[absent]
        for absent in ("rank", "chat_template"):
            if document["output"][absent] is None:
                del document["output"][absent]
        for name, expert in document["experts"].items():
            if [key for key, value in expert.items() if value is not None] == ["model"]:
                document["experts"][name] = expert["model"]
        return document

    def to_yaml(self) -> str:
        """Return the recipe as YAML that reads back as itself."""
        document = self.dump()
        written = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
        # Unicode's own line breaks are written as they are, and would be read as spaces.
        if {"\x85", "\u2028", "\u2029"} & {*written}:
            written = yaml.safe_dump(document, sort_keys=False)
        return written


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
