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
    "passthrough": Target("passthrough", "input", parameters={"scale": Theirs(1.0, each=True)}),
}
"""A parameter that our method does not have is refused by key, unless it is at mergekit's default."""

DTYPES = ("float64", "float32", "float16", "bfloat16")
KEYS = (
    "merge_method", "models", "slices", "base_model", "parameters", "dtype", "out_dtype", "tokenizer_source",
    "tokenizer", "chat_template",
)  # fmt: skip
LATER = ("modules", "name")
"""Keys that mergekit has and that cannot be honoured yet; `name` is read where a file holds several documents."""
