"""The worked numbers of the method specification, restated as data.

Nothing here is computed by the code under test: every expected value was worked out by hand or by plain numpy from the
papers' formulas and is rounded as printed. ``base`` and ``experts`` are weights (not deltas), ``expected`` is the fused
weight.

* ``EXAMPLES``: default (paper) arithmetic of the data-free methods, five fields each.
* ``COMPAT_EXAMPLES``: the same with the name of the peer whose arithmetic the numbers show.
* ``DELTA_EXAMPLES``: masked task vectors of DARE and DELLA, where the random mask is given.
* ``FACTS``: numbers that are no fused weight (masks, scalars, thresholds).

Names of parameters: ``scale`` multiplies the fused delta, ``weights`` holds one factor an expert, ``density`` is the
kept share, ``combine`` is sum | mean | max; a pytest test may have to map them to the signature it tests.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Example(NamedTuple):
    """One call and its result."""

    method: str
    params: dict[str, Any]
    base: Array | None
    experts: list[Array]
    expected: Array


class CompatExample(NamedTuple):
    """One call with a peer's arithmetic and its result."""

    method: str
    compat: str
    params: dict[str, Any]
    base: Array | None
    experts: list[Array]
    expected: Array


class DeltaExample(NamedTuple):
    """One task vector, the mask drawn for it, and the masked and rescaled task vector."""

    method: str
    params: dict[str, Any]
    delta: Array
    mask: Array
    expected: Array


TOLERANCE = 2e-6
TOLERANCES = {"wudi": 1e-4, "pcb": 2e-5}  # the specification prints fewer digits of these two


def _a(*values: Any) -> Array:
    return np.array(values, dtype=np.float64)


# Fixture V5: one flat tensor, two experts. Fixture M2: two 2x2 task matrices over a zero base.
V5_BASE = _a(1, 2, 3, 4, 5)
V5_DELTAS = [_a(0.5, -0.4, 0.1, 0, 0.3), _a(-0.2, -0.6, 0.3, 0.1, -0.9)]
V5_EXPERTS = [V5_BASE + delta for delta in V5_DELTAS]
M2_BASE = np.zeros((2, 2))
M2_EXPERTS = [_a([3, 0], [0, 1]), _a([0, 0], [1.2, 1.6])]

_V2 = [_a(1, 0), _a(0, 2)]
_V4 = [_a(2, 0), _a(0, 4)]
_ROWS = [_a([1, 0], [0, 1]), _a([0, 2], [1, 0])]
_STOCK = [_a(1, 0), _a(0.6, 0.8), _a(0, 1)]  # pairwise cosines .6, 0, .8
_R = 0.70710678118655


def _v5(method: str, params: dict[str, Any], *delta: float) -> Example:
    """An example on V5 whose expected value is given as a delta."""
    return Example(method, params, V5_BASE, V5_EXPERTS, V5_BASE + _a(*delta))


LINEAR = [
    Example("simple_average", {}, V5_BASE, V5_EXPERTS, _a(1.15, 1.5, 3.2, 4.05, 4.7)),
    Example("weighted_average", {"weights": [0.25, 0.75]}, V5_BASE, V5_EXPERTS, _a(0.975, 1.45, 3.25, 4.075, 4.4)),
    Example("weighted_average", {"weights": [1, 3]}, V5_BASE, V5_EXPERTS, _a(0.975, 1.45, 3.25, 4.075, 4.4)),
    _v5(
        "weighted_average",
        {"weights": [0.5, 0.75], "normalize": False, "relative_to_base": True},
        *(0.1, -0.65, 0.275, 0.075, -0.525),
    ),
    Example(
        "weighted_average",
        {"weights": [0.5, 0.25], "normalize": False},
        V5_BASE,
        V5_EXPERTS,
        _a(0.95, 1.15, 2.375, 3.025, 3.675),
    ),
    Example("task_arithmetic", {"scale": 0.3}, V5_BASE, V5_EXPERTS, _a(1.09, 1.7, 3.12, 4.03, 4.82)),
    Example("task_arithmetic", {"scale": 0.5}, V5_BASE, V5_EXPERTS, _a(1.15, 1.5, 3.2, 4.05, 4.7)),
    _v5("task_arithmetic", {"scale": 0.5, "weights": [2, -1]}, 0.6, -0.1, -0.05, -0.05, 0.75),
    Example("expo", {"scale": 0.3}, _a(1), [_a(1.5)], _a(1.65)),
    Example("expo", {"scale": 0.1}, V5_BASE, V5_EXPERTS, V5_BASE + 1.1 * _a(0.15, -0.5, 0.2, 0.05, -0.3)),
]

SPARSE = [
    _v5("ties", {"density": 0.4, "combine": "mean", "scale": 1.0}, 0.5, -0.5, 0, 0, -0.9),
    _v5("ties", {"density": 0.4, "combine": "sum", "scale": 1.0}, 0.5, -1, 0, 0, -0.9),
    _v5("ties", {"density": 0.4, "combine": "max", "scale": 1.0}, 0.5, -0.6, 0, 0, -0.9),
    _v5("ties", {"density": 0.4, "combine": "sum", "scale": 0.3}, 0.15, -0.3, 0, 0, -0.27),
    _v5("ties", {"density": 1.0, "combine": "mean", "scale": 1.0}, 0.5, -0.5, 0.2, 0.1, -0.9),
    _v5("magmax", {"scale": 1.0}, 0.5, -0.6, 0.3, 0.1, -0.9),
    _v5("magmax", {"scale": 0.5}, 0.25, -0.3, 0.15, 0.05, -0.45),
    Example(
        "breadcrumbs",
        {"top_drop": 0.1, "density": 0.5, "granularity": "tensor", "scale": 1.0},
        np.zeros(10),
        [np.arange(1.0, 11.0)],
        _a(0, 0, 0, 0, 5, 6, 7, 8, 9, 0),
    ),
    Example(
        "breadcrumbs",
        {"top_drop": 0.25, "density": 0.5, "granularity": "row", "scale": 1.0},
        np.zeros((2, 4)),
        [_a([1, -2, 3, -4], [8, 7, 6, 5])],
        _a([0, -2, 3, 0], [0, 7, 6, 0]),
    ),
]

SPHERICAL = [
    Example("slerp", {"t": 0.5}, None, _V2, _a(0.707107, 1.414214)),
    Example("slerp", {"t": 0.25}, None, _V2, _a(0.923880, 0.765367)),
    Example("slerp", {"t": 0.25}, None, [_a(1, 0), _a(-2, 0)], _a(0.25, 0)),  # antiparallel: straight line
    Example("slerp", {"t": 0.5}, None, [_a(0, 0), _a(0, 2)], _a(0, 1)),  # zero vector: straight line
    Example("nuslerp", {"weights": [1, 1], "mode": "flat"}, None, _V2, _a(0.707107, 1.414214)),
    Example("nuslerp", {"weights": [0.75, 0.25], "mode": "flat"}, None, _V2, _a(0.923880, 0.765367)),
    Example("nuslerp", {"weights": [1, 1], "mode": "row"}, None, _ROWS, _a([_R, 2 * _R], [_R, _R])),
    Example("nuslerp", {"weights": [1, 1], "mode": "column"}, None, _ROWS, _a([_R, 2 * _R], [_R, _R])),
    Example("nuslerp", {"weights": [1, 1], "mode": "flat"}, None, [_a(1, 0), _a(-2, 0)], _a(-0.5, 0)),
    Example("nuslerp", {"weights": [1, 1], "mode": "flat"}, _a(3, 3), [_a(4, 3), _a(3, 5)], _a(3.707107, 4.414214)),
    Example("multislerp", {"weights": [0.25, 0.75]}, None, _V4, _a(1.106797, 3.320392)),
    Example("multislerp", {"weights": [1, 3]}, _a(1, 1), [_a(3, 1), _a(1, 5)], _a(2.106797, 4.320392)),
    Example("karcher", {}, None, _V4, _a(2.121320, 2.121320)),
    Example("karcher", {"weights": [0.25, 0.75]}, None, _V4, _a(1.339392, 3.233578)),
]

GEOMETRY = [
    Example("model_stock", {}, np.zeros(2), _STOCK[:2], _a(0.6, 0.3)),
    Example("model_stock", {"average": "cosine"}, np.zeros(2), _STOCK, 0.7241379310 * _a(1.6, 1.8) / 3),
    Example("model_stock", {"average": "angle"}, np.zeros(2), _STOCK, _a(0.4, 0.45)),
    Example("model_stock", {}, _a(1, 1), [_a(2, 1), _a(0.4, 1.8)], _a(1, 1)),  # obtuse deltas: ratio clamped at 0
    _v5("sce", {"topk": 1.0}, 0.5, -0.543956, 0.243956, 0.1, -0.9),
    _v5("sce", {"topk": 0.4}, 0.5, 0, 0, 0, -0.9),
    _v5("ram", {"epsilon": 0.15}, 0.15, -0.5, 0.3, 0, -0.3),
    _v5("ram", {"epsilon": 0.15, "gain": 0.5}, 0.15, -0.5, 0.33, 0, -0.3),
    _v5("ram", {"epsilon": 0.15, "gain": 0.5, "most": 10.0}, 0.15, -0.5, 0.75, 0, -0.3),
    Example("arcee_fusion", {}, np.zeros(5), [_a(0.1, 0.2, 0.3, 0.4, 3)], _a(0, 0, 0, 0, 3)),
    Example("nearswap", {"t": 0.01}, _a(0, 0, 0, 2), [_a(1, 0.001, 0.02, 2)], _a(0.01, 0.001, 0.01, 2)),
]

MASKS = [
    _v5("consensus", {"threshold": 0.5, "minimum": 2, "scale": 0.3}, 0, -0.3, 0, 0, 0),
    _v5("pcb", {"density": 0.6, "clip": 0.0, "scale": 1.0}, 0.5, -0.445662, 0, 0, -0.9),
]

SPECTRAL = [
    Example("tsv_m", {"scale": 1.0}, M2_BASE, M2_EXPERTS, _a([2.846050, -0.948683], [0.632456, 1.897367])),
    Example("iso_c", {"scale": 1.0}, M2_BASE, M2_EXPERTS, _a([2.8, -0.6], [0.6, 2.8])),
    Example("iso_c", {"scale": 1.0}, M2_BASE, [_a([2, 0], [0, 0])] * 2, _a([2, 0], [0, 0])),  # rank guard
    Example("iso_cts", {"common": 0.5, "scale": 1.0}, M2_BASE, M2_EXPERTS, _a([2.8, -0.6], [0.6, 2.8])),
    Example(
        "iso_cts",
        {"common": 0.5, "scale": 1.0},
        np.zeros((3, 3)),
        [np.diag([3.0, 1.0, 0.0]), np.diag([1.0, 0.0, 2.0])],
        np.eye(3) * 7 / 3,
    ),
    Example(
        "wudi", {"steps": 300, "learning_rate": 1e-5}, np.zeros((1, 2)), [_a([1, 0]), _a([1, 1])], _a([1.997, 0.997])
    ),
    Example("knots", {"combine": "mean", "scale": 1.0}, M2_BASE, M2_EXPERTS, _a([1.5, 0], [0.6, 1.3])),
    Example(
        "opcm",
        {"alpha": 0.5},
        M2_BASE,
        [_a([3, 0], [0, 1]), _a([1, 2], [3, 4])],
        _a([2.702191, 1.801461], [2.702191, 0.900730]),
    ),
    Example(
        "doge_ta", {"steps": 0, "density": 1.0, "eta": 0.07}, M2_BASE, M2_EXPERTS, _a([0.066408, 0], [0.042, 0.078136])
    ),
]

EXAMPLES: list[Example] = LINEAR + SPARSE + SPHERICAL + GEOMETRY + MASKS + SPECTRAL

COMPAT_EXAMPLES: list[CompatExample] = [
    CompatExample(
        "ties",
        "fusion_bench",
        {"density": 0.4, "combine": "mean", "scale": 1.0},
        V5_BASE,
        V5_EXPERTS,
        V5_BASE + _a(0.5, -0.5, 0.3, 0, -0.9),
    ),
    CompatExample(
        "ties",
        "official",
        {"density": 0.4, "combine": "mean", "scale": 1.0},
        V5_BASE,
        V5_EXPERTS,
        V5_BASE + _a(0.5, -0.5, 0.3, 0, -0.9),
    ),
    CompatExample("model_stock", "fusion_bench", {}, np.zeros(2), _STOCK, _a(0.4, 0.45)),
    CompatExample("slerp", "mergekit", {"t": 0.5}, None, [_a(0, 0), _a(0, 2)], _a(0, 2 * _R)),
]

_TAU4 = _a(1, 2, 3, 4)
_TAU4B = _a(4, 1, 3, 2)
_MASK4 = _a(1, 0, 1, 0)
DELTA_EXAMPLES: list[DeltaExample] = [
    DeltaExample("dare", {"density": 0.5, "rescale": "inverse"}, _TAU4, _MASK4, _a(2, 0, 6, 0)),
    DeltaExample("dare", {"density": 0.5, "rescale": "l1"}, _TAU4, _MASK4, _a(2.5, 0, 7.5, 0)),
    DeltaExample("dare", {"density": 0.5, "rescale": "none"}, _TAU4, _MASK4, _a(1, 0, 3, 0)),
    DeltaExample(
        "della", {"density": 0.5, "epsilon": 0.15, "rescale": "inverse"}, _TAU4B, _MASK4, _a(6.153846, 0, 5.454545, 0)
    ),
    DeltaExample(
        "della", {"density": 0.5, "epsilon": 0.15, "rescale": "l1"}, _TAU4B, _MASK4, _a(5.714286, 0, 4.285714, 0)
    ),
    DeltaExample("della", {"density": 0.5, "epsilon": 0.0, "rescale": "inverse"}, _TAU4, _MASK4, _a(2, 0, 6, 0)),
]

FACTS: dict[str, Any] = {
    "della keep probabilities of (4,1,3,2), density .5, epsilon .15": _a(0.65, 0.35, 0.55, 0.45),
    "tall masks of V5, threshold 1": _a([1, 0, 0, 0, 0], [0, 1, 1, 1, 1]),
    "tall masks of V5, threshold .5": _a([1, 1, 0, 0, 0], [0, 1, 1, 1, 1]),
    "emr unified delta of V5": _a(0.5, -0.6, 0.3, 0.1, -0.9),
    "emr masks of V5": _a([1, 1, 1, 0, 0], [0, 1, 1, 1, 1]),
    "emr scales of V5": _a(0.928571, 1.105263),
    "emr scales of {V5, b: 10 and 2}": _a(0.991228, 0.344538),
    "emr scales of {V5, b: 10 and 2}, per-tensor mean": _a(0.998054, 0.233141),
    "pcb scale rows of V5, density .6, no clip": _a([0.79866, 1, 0, 0, 0], [0, 0.29586, 0, 0, 1]),
    "lines factors, 4 blocks, alpha .25, beta .5": _a(0.25, 0.416667, 0.583333, 0.75),
    "lines alpha of V5 after ties mean density .4": 0.631579,
    "opcm lambda of diag(3,1) then ((1,2),(3,4))": 1.110210,
    "arcee threshold": 0.492131,
    "iso_c singular values of M2": _a(3.496020, 2.231109),
    "wudi loss at the sum and at the minimum": _a(1.5, 0),
    "doge_ta lambdas of M2": _a(0.0221359, 0.035),
    "doge_ta loss of M2 at delta 0": 92.930932,
}
