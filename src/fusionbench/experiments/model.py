"""An experiment as data: which published tables it answers, with which suite, methods and settings."""

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from fusionbench.config import Config, Recipe, read_document
from fusionbench.config.fields import Text
from fusionbench.errors import ConfigError
from fusionbench.registry import Entry, suggestion

FOLDER = Path(__file__).resolve().parent / "files"
Pipeline = Literal["average", "adapted", "retrained", "quoted"]
TOLERANCE: Mapping[str, float | None] = {"average": 0.3, "adapted": 1.0, "retrained": None, "quoted": None}
"""Points (× 100) by which a run on the papers' checkpoints may differ besides rounding and two standard errors.

Rows whose experts must be trained anew are held to their order only; rows that a paper quoted get no verdict.
"""
SIZES = ("tiny", "small", "large")
"""Of stand-ins."""
FIRST = "suite.first"
"""A varied key of its own: how many of the experts that suite or row names are merged, in the order of that list."""


class Printed(Config):
    """Where a row stands in the published tables."""

    method: Text = Field(description="the tables' name of the method")
    variant: dict[Text, Text] = Field(default={}, description="further settings that pick the row")


class Row(Config):
    """One row: a method with every parameter, and the printed row that it answers."""

    label: Text = Field(description="what the row is called here")
    method: dict[Text, Any] = Field(description="as a recipe has it: name, and every parameter")
    printed: Printed | None = Field(default=None, description="null: a row that no paper has")
    pipeline: Pipeline = Field(default="average", description="how its numbers came about; decides the tolerance")
    settings: dict[Text, Any] = Field(default={}, description="other keys of the recipe, such as batch_norm")
    unavailable: Text | None = Field(default=None, description="why nobody can run this row on the papers' suite")
    no_stand_in: Text | None = Field(default=None, description="why the stand-in has nothing for this row")
    part: dict[Text, Any] = Field(
        default={}, description="experts and unseen tasks of the suite, where not all; or another suite's name"
    )
    stand_in_part: dict[Text, Any] = Field(default={}, description="the same of the stand-in")
    stand_in_params: dict[Text, Any] = Field(
        default={}, description="parameters of the method that the stand-in's size asks for"
    )
    select: dict[Text, tuple[Any, ...]] = Field(
        default={}, description="keys of the recipe that are chosen on the validation split, with the papers' grids"
    )

    def missing(self, *, stand_in: bool) -> str | None:
        """Return why the row cannot be run on the papers' suite, or on the stand-in; None where it can."""
        return self.no_stand_in if stand_in else self.unavailable


class Claim(Config):
    """Something a paper says of its table: one number is larger than another, both by row, column and varied value."""

    text: Text = Field(description="in the paper's words, shortened")
    higher: Text = Field(description="label of the row whose value is larger")
    lower: Text = Field(description="label of the row whose value is smaller")
    column: Text = Field(default="average", description="the tables' name of the larger value's column")
    lower_column: Text | None = Field(default=None, description="of the smaller value's; null: the same")
    at: dict[Text, Text] = Field(default={}, description="varied values, in the tables' words; else the mean over all")
    lower_at: dict[Text, Text] | None = Field(default=None, description="those of the smaller value; null: the same")
    less: Text | None = Field(default=None, description="label of a row to subtract on both sides: gaps are compared")
    lower_in: Text | None = Field(default=None, description="experiment that the smaller value is of; null: this one")


class Experiment(Config):
    """One experiment: rows × tasks, or rows × tasks × one varied key."""

    name: Text
    title: Text
    paper: Text = Field(description="arXiv id of the paper that printed it")
    kind: Literal["table", "transfer", "curve", "cosine"] = Field(
        default="table",
        description="rows of methods; every model on every task; rows along a varied key; similarity of task vectors",
    )
    published: tuple[Text, ...] = Field(default=(), description="files of the published tables that it answers")
    figures: tuple[Text, ...] = Field(default=(), description="figures of the papers that show its numbers")
    suite: dict[Text, Any] = Field(description="the papers' own: hub ids or local files")
    stand_in: dict[Text, Any] = Field(description="an offline suite of the same shape")
    settings: dict[Text, Any] = Field(default={}, description="other keys of all recipes, such as space")
    rows: tuple[Row, ...] = Field(default=(), description="methods, in the table's order")
    vary: dict[Text, tuple[Any, ...]] = Field(default={}, description="keys of the recipe that take several values")
    variant: dict[Text, Text] = Field(
        default={}, description="the tables' word for a varied key, such as scaling for method.scale"
    )
    shown: Literal["average", "first"] = Field(
        default="average", description="what its figure shows: the average, or the first merged expert's task"
    )
    claims: tuple[Claim, ...] = ()
    notes: tuple[Text, ...] = Field(default=(), description="what a reader must know before comparing")
    tasks: dict[Text, Text] = Field(default={}, description="the tables' name of a dataset to the suite's task")
    relative_to: Text | None = Field(
        default=None,
        description="label of the first row, by whose values those of the others are divided, task by task; null: none",
    )
    other_data: tuple[Text, ...] = Field(
        default=(), description="the tables' columns that were scored on other data than the suite has: no verdict"
    )
    shorter: dict[Text, dict[Text, dict[Text, Any]]] = Field(
        default={},
        description="profiles with a shorter schedule, by name: parameters by method, printed above the table",
    )
    fewer: dict[Text, dict[Text, tuple[Any, ...]]] = Field(
        default={}, description="values that a profile leaves of the varied keys, by its name"
    )


class Point(Config):
    """One run of an experiment: its row, the values of the varied keys, and the recipe."""

    row: Row
    values: dict[Text, Any] = {}  # noqa: RUF012
    recipe: Annotated[dict[str, Any], Field(repr=False)]

    def load(self, **changes: Any) -> Recipe:
        """Return the checked recipe, with other values at some dotted keys."""
        document = self.recipe
        for key, value in changes.items():
            document = _with(document, key.split("."), value)
        return Recipe.read(document, f"The row {self.row.label}")


def points(experiment: Experiment, *, stand_in: bool, profile: str | None = None, seed: int = 0) -> Iterator[Point]:
    """Yield the runs of an experiment, in the table's order.

    Args:
        experiment: of the kind table or curve.
        stand_in: use the offline suite instead of the papers'.
        profile: of `shorter`; None is the papers' schedule.
        seed: of the recipes and of the stand-in's build.

    Raises:
        ConfigError: where there is no such profile.
    """
    check_profile(experiment, profile)
    changes = experiment.shorter[profile] if profile else {}
    varied = {**experiment.vary, **(experiment.fewer.get(profile, {}) if profile else {})}
    suite = suite_of(experiment, stand_in=stand_in, seed=seed)
    for row in experiment.rows:
        method = {**row.method, **changes.get(str(row.method["name"]), {}), **(row.stand_in_params if stand_in else {})}
        of_suite = {**suite, **(row.stand_in_part if stand_in else row.part)}
        settings = {**experiment.settings, **row.settings}
        whole: dict[str, Any] = {**settings, "suite": of_suite, "method": method, "seed": seed}
        for values in product(*varied.values()):
            chosen = dict(zip(varied, values, strict=True))
            yield Point(row=row, values=chosen, recipe=_varied(whole, chosen))


def _varied(document: dict[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's document with the values of the varied keys."""
    experts = list(document["suite"].get("experts", ()))
    for key, value in chosen.items():
        if key == FIRST:
            document = _with(document, ["suite", "experts"], experts[: int(value)])
        else:
            document = _with(document, key.split("."), value)
    return document


def check_profile(experiment: Experiment, profile: str | None) -> None:
    """Refuse a profile that an experiment does not have.

    Raises:
        ConfigError: with the nearest name.
    """
    if profile is not None and profile not in experiment.shorter:
        raise ConfigError(
            f"{experiment.name} has no profile {profile!r}. {suggestion(profile, list(experiment.shorter))}"
        )


def suite_of(experiment: Experiment, *, stand_in: bool, seed: int = 0) -> dict[str, Any]:
    """Return the suite as a recipe has it: the papers', or the stand-in of a seed."""
    return {**experiment.stand_in, "seed": seed} if stand_in else dict(experiment.suite)


def with_size(experiment: Experiment, size: str) -> Experiment:
    """Return the experiment on a stand-in of another size.

    Raises:
        ConfigError: where it is none of tiny, small and large.
    """
    if size not in SIZES:
        raise ConfigError(f"--size {size}: a stand-in is {', '.join(SIZES[:-1])} or {SIZES[-1]}.")
    return experiment.model_copy(update={"stand_in": {**experiment.stand_in, "size": size}})


def _with(document: Mapping[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """Return a copy with another value at a dotted key."""
    first, *rest = path
    inner = document.get(first, {})
    return {**document, first: _with(inner, rest, value) if rest else value}


def names() -> tuple[str, ...]:
    """Return the names of all experiments."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load_experiment(name: str) -> Experiment:
    """Return an experiment by its name, or from a YAML file.

    Raises:
        ConfigError: where there is none of that name, or it is wrong.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"There is no experiment {name!r}. {suggestion(name, list(names()))}")
    document = read_document(path)
    return Experiment.read({"name": path.stem, **document}, f"The experiment {path.stem}")


def entries() -> Iterator[Entry]:
    """Yield what the index says of each experiment."""
    for name in names():
        found = load_experiment(name)
        facts = {
            "suite": found.suite["name"],
            "stand_in": found.stand_in["name"],
            "published": list(found.published),
            "figures": list(found.figures),
            "rows": [row.label for row in found.rows],
        }
        location = f"{__name__}:{load_experiment.__name__}"
        yield Entry(name, found.title, location, kind="experiment", paper=found.paper, data=facts)
