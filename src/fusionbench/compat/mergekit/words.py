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
    words: Mapping[bool, str] | None = None
    """Our value for each of theirs, where a truth value is a choice here."""
    inert: bool = False
    """Whether it changes no number in mergekit either."""


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
DENSITY = Theirs(1.0, "density", each=True)
EPSILON = Theirs(0.15, each=True)
GAMMA = Theirs(0.01, each=True)
INERT = Theirs(None, inert=True)
SUM, MEAN = Theirs(False), Theirs(True)
PLAIN, RESCALED = Theirs(False), Theirs(True)
SHARED = {"lambda": Theirs(1.0, "scale"), "int8_mask": INERT}
SPARSE = {"weight": WEIGHT, "density": DENSITY, **SHARED}
ELECTED = Theirs(True, "combine", words={True: "mean", False: "sum"})

METHODS = {
    "linear": Target("weighted_average", "input", parameters={"weight": WEIGHT, "normalize": MEAN}),
    "task_arithmetic": Target(
        "task_arithmetic",
        parameters={"weight": WEIGHT, **SHARED, "normalize": SUM, "density": INERT, "rescale": INERT},
    ),
    "ties": Target("ties", parameters={**SPARSE, "normalize": ELECTED, "rescale": PLAIN}),
    "dare_linear": Target(
        "dare", sets={"combine": "linear"}, parameters={**SPARSE, "normalize": SUM, "rescale": RESCALED}
    ),
    "dare_ties": Target("dare", sets={"combine": "ties"}, parameters={**SPARSE, "normalize": SUM, "rescale": RESCALED}),
    "breadcrumbs": Target(
        "breadcrumbs",
        sets={"combine": "linear"},
        parameters={**SPARSE, "gamma": GAMMA, "normalize": SUM, "rescale": PLAIN},
    ),
    "breadcrumbs_ties": Target(
        "breadcrumbs",
        sets={"combine": "ties"},
        parameters={**SPARSE, "gamma": GAMMA, "normalize": SUM, "rescale": PLAIN},
    ),
    "della": Target(
        "della",
        sets={"combine": "ties"},
        parameters={**SPARSE, "epsilon": EPSILON, "normalize": MEAN, "rescale": RESCALED},
    ),
    "della_linear": Target(
        "della",
        sets={"combine": "linear"},
        parameters={**SPARSE, "epsilon": EPSILON, "normalize": SUM, "rescale": RESCALED},
    ),
    "slerp": Target("slerp", parameters={"t": Theirs(REQUIRED)}),
    "nuslerp": Target(
        "nuslerp",
        "optional",
        parameters={"weight": WEIGHT, "nuslerp_flatten": Theirs(True), "nuslerp_row_wise": Theirs(False)},
    ),
    "multislerp": Target(
        "multislerp",
        "optional",
        parameters={"weight": WEIGHT, "normalize_weights": Theirs(True), "eps": Theirs(1e-8)},
    ),
    "karcher": Target("karcher", "input", parameters={"max_iter": Theirs(10), "tol": Theirs(1e-5)}),
    "model_stock": Target("model_stock", parameters={"filter_wise": Theirs(False)}),
    "sce": Target("sce", parameters={"select_topk": Theirs(1.0), "int8_mask": INERT}),
    "nearswap": Target("nearswap", parameters={"t": Theirs(REQUIRED)}),
    "arcee_fusion": Target("arcee_fusion"),
    "passthrough": Target("passthrough", "input", parameters={"scale": Theirs(1.0, each=True)}),
}
"""Parameters whose name here is not settled keep mergekit's; one that our method does not have is refused by key."""

DTYPES = ("float64", "float32", "float16", "bfloat16")
KEYS = ("merge_method", "models", "base_model", "parameters", "dtype", "out_dtype")
LATER = ("slices", "modules", "tokenizer_source", "tokenizer", "chat_template", "name")
"""Keys that mergekit has and that cannot be honoured yet."""
