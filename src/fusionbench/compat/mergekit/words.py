"""mergekit's methods and parameters (release 0.1.5), and what they are here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

REQUIRED = object()


@dataclass(frozen=True, slots=True)
class Theirs:
    """One parameter of a mergekit method."""

    default: Any
    """mergekit's default, or REQUIRED."""
    ours: str = ""
    """Our parameter; "" where it has the same name."""
    each: bool = False
    """Whether each model may have its own."""
    words: Mapping[bool, str | None] | None = None
    """Our value for each of theirs, where a truth value is a choice here; None leaves the choice to a key before it."""
    inert: bool = False
    """Whether it changes no number in mergekit either."""

    @property
    def default_here(self) -> Any:
        """The default in our words."""
        return self.default if self.words is None else self.words[self.default]


@dataclass(frozen=True, slots=True)
class Target:
    """What a mergekit method is here."""

    method: str
    base: Literal["required", "optional", "input"] = "required"
    """Whether `base_model` is the origin of the deltas, or (input) one more model and the donor of the other files."""
    sets: Mapping[str, Any] = field(default_factory=dict)
    """Our parameters that the method's name fixes."""
    parameters: Mapping[str, Theirs] = field(default_factory=dict)


WEIGHT = Theirs(REQUIRED, "weights", each=True)
DENSITY = Theirs(1.0, each=True)
INERT = Theirs(None, inert=True)
SUM, MEAN = Theirs(False, "normalize"), Theirs(True, "normalize")
PLAIN = Theirs(False, "rescale", words={True: "norm", False: "none"})
RESCALED = Theirs(True, "rescale", words={True: "norm", False: "none"})
SHARED = {"lambda": Theirs(1.0, "scale"), "int8_mask": INERT}
SPARSE = {"weight": WEIGHT, "density": DENSITY, **SHARED}
DARE = {**SPARSE, "normalize": SUM, "rescale": RESCALED}
BREADCRUMBS = {**SPARSE, "gamma": Theirs(0.01, "top_drop", each=True), "normalize": SUM, "rescale": PLAIN}
DELLA = {**SPARSE, "epsilon": Theirs(0.15, each=True), "rescale": RESCALED}

METHODS = {
    "linear": Target("weighted_average", "input", parameters={"weight": WEIGHT, "normalize": MEAN}),
    "task_arithmetic": Target(
        "task_arithmetic",
        parameters={"weight": WEIGHT, **SHARED, "normalize": SUM, "density": INERT, "rescale": INERT},
    ),
    "ties": Target(
        "ties",
        parameters={
            **SPARSE,
            "normalize": Theirs(True, "combine", words={True: "mean", False: "sum"}),
            "rescale": Theirs(False),
        },
    ),
    "dare_linear": Target("dare", sets={"combine": "linear"}, parameters=DARE),
    "dare_ties": Target("dare", sets={"combine": "ties"}, parameters=DARE),
    "breadcrumbs": Target("breadcrumbs", sets={"combine": "linear"}, parameters=BREADCRUMBS),
    "breadcrumbs_ties": Target("breadcrumbs", sets={"combine": "ties"}, parameters=BREADCRUMBS),
    "della": Target("della", sets={"combine": "ties"}, parameters={**DELLA, "normalize": MEAN}),
    "della_linear": Target("della", sets={"combine": "linear"}, parameters={**DELLA, "normalize": SUM}),
    "slerp": Target("slerp", parameters={"t": Theirs(REQUIRED)}),
    "nuslerp": Target(
        "nuslerp",
        "optional",
        parameters={
            "weight": WEIGHT,
            "nuslerp_row_wise": Theirs(False, "mode", words={True: "column", False: "row"}),
            "nuslerp_flatten": Theirs(True, "mode", words={True: "flat", False: None}),
        },
    ),
    "multislerp": Target(
        "multislerp",
        "optional",
        parameters={"weight": WEIGHT, "normalize_weights": MEAN, "eps": Theirs(1e-8)},
    ),
    "karcher": Target(
        "karcher", "input", parameters={"max_iter": Theirs(10, "max_iterations"), "tol": Theirs(1e-5, "tolerance")}
    ),
    "model_stock": Target(
        "model_stock",
        parameters={"filter_wise": Theirs(False, "granularity", words={True: "row", False: "tensor"})},
    ),
    "sce": Target("sce", parameters={"select_topk": Theirs(1.0), "int8_mask": INERT}),
    "nearswap": Target("nearswap", parameters={"t": Theirs(REQUIRED)}),
    "arcee_fusion": Target("arcee_fusion"),
    "ram": Target("ram", parameters={"epsilon": Theirs(1e-5)}),
    "ramplus_tl": Target(
        "ram", parameters={"r": Theirs(0.1, "gain"), "alpha": Theirs(0.2, "most"), "epsilon": Theirs(1e-5)}
    ),
    "passthrough": Target("passthrough", "input", parameters={"scale": Theirs(1.0, each=True)}),
}
"""A parameter that our method does not have is refused by key, unless it is at mergekit's default."""

TRIMMED = Target(
    "breadcrumbs",
    sets={"combine": "ties", "top_drop": 0.0, "keep": "at_least_one"},
    parameters={**SPARSE, "normalize": MEAN, "rescale": PLAIN},
)
"""TIES that gives a trimmed task vector its length back: breadcrumbs that drops nothing at the top."""
NORMALIZED = Target(
    "dare",
    sets={"combine": "linear", "density": 1.0},
    parameters={"weight": WEIGHT, **SHARED, "normalize": SUM, "density": INERT, "rescale": INERT},
)
"""Task arithmetic divided by the sum of its weights: DARE that drops nothing."""
PASSED = Target(
    "weighted_average", "input", sets={"normalize": False}, parameters={"scale": Theirs(1.0, "weights", each=True)}
)
"""Modules that are copied from a model each: in each one model has weight 1 and the others 0."""


def variant(name: str, target: Target, document: Mapping[str, Any]) -> Target:
    """Return what a method is here, where one of its parameters or the recipe's form makes it another of ours."""
    if name == "passthrough" and document.get("modules") is not None:
        return PASSED
    scopes = [document, *_mappings(document.get("slices")), *_mappings(document.get("modules"))]
    given = [scope.get("parameters") for scope in scopes]
    other = {"ties": ("rescale", TRIMMED), "task_arithmetic": ("normalize", NORMALIZED)}
    if name not in other:
        return target
    key, alternative = other[name]
    asked = [scope[key] for scope in given if isinstance(scope, Mapping) and key in scope]
    plain = all(str(value).lower() in ("false", "no", "off") for value in asked)
    return target if plain else alternative


def _mappings(found: Any) -> list[Mapping[str, Any]]:
    items = found.values() if isinstance(found, Mapping) else found if isinstance(found, list) else ()
    return [item for item in items if isinstance(item, Mapping)]


DTYPES = ("float64", "float32", "float16", "bfloat16")
KEYS = (
    "merge_method", "models", "slices", "base_model", "parameters", "dtype", "out_dtype", "tokenizer_source",
    "tokenizer", "chat_template", "modules", "name",
)  # fmt: skip
"""`name` is read where a file holds several documents."""
