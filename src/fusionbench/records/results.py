"""`report.json`: what a run found, numbers only, the same bytes whenever the same recipe is run on the same inputs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, JsonValue, ValidationError, model_validator

from fusionbench.errors import ConfigError, MissingData
from fusionbench.records.files import write_whole
from fusionbench.records.scores import (
    MetricInfo,
    Record,
    TaskScore,
    average,
    check_described,
    mean_of_primaries,
    name_of_average,
    normalized,
)

SCHEMA: Literal[1] = 1
REPORT = "report.json"


def _canonical(value: Any) -> Any:
    """Return plain JSON with the keys of every mapping sorted: parameters are chosen by name, so order says nothing."""
    if isinstance(value, Mapping):
        return {str(key): _canonical(value[key]) for key in sorted(value, key=str)}
    return [_canonical(item) for item in value] if isinstance(value, list | tuple) else value


Parameters = Annotated[dict[str, JsonValue], BeforeValidator(_canonical)]


class SuiteRef(Record):
    """Which suite was fused and scored; `build` identifies data and experts of a suite that was made here."""

    name: str
    size: str | None = None
    seed: int | None = None
    build: str | None = None


class MethodRef(Record):
    """The method with every parameter resolved, and the method it wraps."""

    name: str
    version: int = 1
    params: Parameters = Field(default_factory=dict)
    compat: str | None = None
    inner: "MethodRef | None" = None


class ModelFacts(Record):
    """What the fused model is and how large it is.

    `kind` is weights, module, per_task or ensemble; `trainable` counts what was learned after fusion; `bytes` is the
    size of the stored tensors.
    """

    kind: str
    parameters: int = Field(ge=0)
    trainable: int = Field(default=0, ge=0)
    bytes: int = Field(ge=0)


class DataUse(Record):
    """Which inputs a method looked at beside the weights."""

    split: str
    tasks: tuple[str, ...] = ()
    count: int | None = Field(default=None, ge=0, description="number of examples")
    hash: str | None = Field(default=None, description="fingerprint of the inputs")
    corruption: str | None = None


class PrimaryAverage(Record):
    """The average over the seen tasks, with the name of what was averaged."""

    value: float
    metric: str


class Variant(Record):
    """One model of a run; most runs have one, an ensemble search or a trace of adaptation has several."""

    label: str | None = None
    params: Parameters = Field(default_factory=dict)
    tasks: dict[str, TaskScore] = Field(default_factory=dict)
    average: dict[str, float] | None = None
    unseen_average: dict[str, float] | None = None
    normalized: float | None = None
    model: ModelFacts | None = None

    @classmethod
    def build(
        cls,
        tasks: Mapping[str, TaskScore],
        metrics: Mapping[str, MetricInfo],
        *,
        individual: Mapping[str, float] | None = None,
        label: str | None = None,
        params: Mapping[str, Any] | None = None,
        model: ModelFacts | None = None,
    ) -> Self:
        """Return a variant with its averages computed.

        Args:
            tasks: scores by task, in the order of the recipe.
            metrics: unit and direction of every metric that occurs.
            individual: primary value of each seen task's own expert; without it `normalized` is null.
            label: what tells this variant from its siblings.
            params: parameters that this variant adds to the run's.
            model: kind and size of the model.

        Raises:
            ConfigError: where a metric is not described.
        """
        check_described(tasks, metrics)
        return cls(
            label=label,
            params=dict(params or {}),
            tasks=dict(tasks),
            average=average(tasks, metrics, seen=True),
            unseen_average=average(tasks, metrics, seen=False),
            normalized=normalized(tasks, metrics, individual),
            model=model,
        )


class Report(Record):
    """The content of `report.json`, schema 1.

    `tasks`, `average`, `unseen_average` and `primary_average` repeat the first variant. Tasks, inputs and metrics of
    a task keep their order (the first metric is the primary one); every other mapping is sorted.
    """

    schema_version: Literal[1] = Field(default=SCHEMA, alias="schema")
    identity: str
    suite: SuiteRef | None = None
    seed: int = 0
    method: MethodRef
    variants: tuple[Variant, ...] = Field(min_length=1)
    tasks: dict[str, TaskScore] = Field(default_factory=dict)
    average: dict[str, float] | None = None
    unseen_average: dict[str, float] | None = None
    primary_average: PrimaryAverage | None = None
    metrics: Annotated[dict[str, MetricInfo], BeforeValidator(_canonical)] = Field(default_factory=dict)
    inputs: dict[str, str] = Field(default_factory=dict)
    adapted_on: DataUse | None = None
    selected_on: DataUse | None = None
    skipped: Annotated[dict[str, str], BeforeValidator(_canonical)] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _repeats_the_first_variant(self) -> Self:
        first = self.variants[0]
        if (self.tasks, self.average, self.unseen_average) != (first.tasks, first.average, first.unseen_average):
            raise ValueError("tasks, average and unseen_average must be those of the first variant")
        return self

    @classmethod
    def build(
        cls,
        *,
        identity: str,
        method: MethodRef,
        variants: Sequence[Variant],
        metrics: Mapping[str, MetricInfo],
        suite: SuiteRef | None = None,
        seed: int = 0,
        inputs: Mapping[str, str] | None = None,
        adapted_on: DataUse | None = None,
        selected_on: DataUse | None = None,
        skipped: Mapping[str, str] | None = None,
        notes: Sequence[str] = (),
    ) -> Self:
        """Return the report of a run whose variants were made by `Variant.build`; undefined values become notes.

        Args:
            identity: of the run, "sha256:" and 64 hexadecimal digits.
            method: name, version and parameters.
            variants: the models of the run, at least one; the first is repeated at the top of the report.
            metrics: unit and direction of each metric, by name; those that no variant has are left out.
            suite: whose tasks were scored; None for runs without one.
            seed: of the run.
            inputs: digest of each input, by name.
            adapted_on: data that the method adapted on.
            selected_on: data by which parameters or models were selected.
            skipped: by task, why it was not scored.
            notes: what a reader should know.
        """
        first = variants[0]
        value = mean_of_primaries((score for score in first.tasks.values() if score.seen), metrics)
        used = {name for variant in variants for score in variant.tasks.values() for name in score.metrics}
        return cls(
            schema=SCHEMA,
            identity=identity,
            suite=suite,
            seed=seed,
            method=method,
            variants=tuple(variants),
            tasks=first.tasks,
            average=first.average,
            unseen_average=first.unseen_average,
            primary_average=value
            if value is None
            else PrimaryAverage(value=value, metric=name_of_average(first.tasks)),
            metrics={name: metrics[name] for name in used},
            inputs=dict(inputs or {}),
            adapted_on=adapted_on,
            selected_on=selected_on,
            skipped=dict(skipped or {}),
            notes=(*notes, *_undefined(variants)),
        )

    def dump_json(self) -> str:
        """Return the file's text: the same report gives the same bytes, and every float reads back as itself."""
        return json.dumps(self.model_dump(by_alias=True), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def save(self, folder: Path) -> Path:
        """Write `report.json` into `folder`, whole or not at all, and return its path."""
        return write_whole(folder / REPORT, self.dump_json())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return the report at `path`, a file or a run's folder.

        Raises:
            MissingData: where there is no such file.
            ConfigError: where the file is not a report of this schema.
        """
        file = path / REPORT if path.is_dir() else path
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise MissingData(f"There is no {file}: the run did not finish, or this is not a run's folder.") from None
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ConfigError(f"{file} is not a report of schema {SCHEMA}: {_first_problem(error)}.") from None


def _undefined(variants: Sequence[Variant]) -> list[str]:
    return [
        f"{f'{variant.label}: ' if variant.label else ''}{task}: {metric} is not a finite number"
        for variant in variants
        for task, score in variant.tasks.items()
        for metric, found in score.metrics.items()
        if found.value is None
    ]


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else problem["msg"]
