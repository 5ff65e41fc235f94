"""Independent float64 references of the data-free methods, written from the papers' formulas alone.

They share no code with the package under test and favour plainness over speed. Every function is pure:
``name(base, experts, **params)``. Single-tensor methods take arrays (:func:`per_tensor` maps them over a model),
whole-model methods take arrays or mappings name -> array. Names with ``mergekit_``, ``fusion_bench_``, ``official_``,
``raw_`` or ``unguarded_`` restate a peer's arithmetic where it leaves the paper.

Run this file to check the references against the specification's worked numbers.
"""

# ruff: noqa: T201

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # siblings resolve however this file is imported

import worked_examples as worked
from independent_compat import (
    fusion_bench_emr,
    fusion_bench_model_stock,
    fusion_bench_tsv_m,
    fusion_bench_wudi,
    mergekit_arcee_fusion,
    mergekit_arithmetic,
    mergekit_model_stock,
    mergekit_random,
    mergekit_sce,
    official_ties,
    raw_iso_c,
    unguarded_slerp,
)
from independent_geometry import (
    arcee_fusion,
    arcee_importance,
    arcee_threshold,
    karcher,
    model_stock,
    multislerp,
    nuslerp,
    sce,
    slerp,
)
from independent_linear import (
    breadcrumbs,
    dare_delta,
    della_delta,
    della_keep_probabilities,
    expo,
    magmax,
    nearswap,
    ram,
    simple_average,
    task_arithmetic,
    ties,
    weighted_average,
)
from independent_masks import consensus, emr, emr_weights, pcb, pcb_scales, tall_mask, tall_mask_weights
from independent_models import deltas, flatten, named, per_tensor, unflatten
from independent_spectral import (
    doge_ta,
    iso_c,
    iso_cts,
    knots,
    lines,
    lines_alpha,
    lines_factor,
    opcm,
    svd,
    tsv_m,
    wudi,
    wudi_closed_form,
    wudi_loss_and_gradient,
)

__all__ = [
    "arcee_fusion",
    "breadcrumbs",
    "consensus",
    "dare_delta",
    "della_delta",
    "della_keep_probabilities",
    "deltas",
    "doge_ta",
    "emr",
    "emr_weights",
    "expo",
    "flatten",
    "fusion_bench_emr",
    "fusion_bench_model_stock",
    "fusion_bench_tsv_m",
    "fusion_bench_wudi",
    "iso_c",
    "iso_cts",
    "karcher",
    "knots",
    "lines",
    "lines_alpha",
    "lines_factor",
    "magmax",
    "mergekit_arcee_fusion",
    "mergekit_arithmetic",
    "mergekit_model_stock",
    "mergekit_random",
    "mergekit_sce",
    "model_stock",
    "multislerp",
    "named",
    "nearswap",
    "nuslerp",
    "official_ties",
    "opcm",
    "pcb",
    "pcb_scales",
    "per_tensor",
    "ram",
    "raw_iso_c",
    "sce",
    "simple_average",
    "slerp",
    "tall_mask",
    "tall_mask_weights",
    "task_arithmetic",
    "ties",
    "tsv_m",
    "unflatten",
    "unguarded_slerp",
    "weighted_average",
    "wudi",
    "wudi_closed_form",
]

METHODS: dict[str, Callable[..., Any]] = {
    "simple_average": simple_average,
    "weighted_average": weighted_average,
    "task_arithmetic": task_arithmetic,
    "expo": expo,
    "ties": ties,
    "magmax": magmax,
    "breadcrumbs": breadcrumbs,
    "slerp": slerp,
    "nuslerp": nuslerp,
    "multislerp": multislerp,
    "karcher": karcher,
    "model_stock": model_stock,
    "sce": sce,
    "arcee_fusion": arcee_fusion,
    "nearswap": nearswap,
    "ram": ram,
    "consensus": consensus,
    "pcb": pcb,
    "tsv_m": tsv_m,
    "iso_c": iso_c,
    "iso_cts": iso_cts,
    "wudi": wudi,
    "knots": knots,
    "opcm": opcm,
    "doge_ta": doge_ta,
}
COMPAT: dict[tuple[str, str], Callable[..., Any]] = {
    ("ties", "official"): official_ties,
    ("ties", "fusion_bench"): official_ties,
    ("model_stock", "fusion_bench"): fusion_bench_model_stock,
    ("model_stock", "mergekit"): mergekit_model_stock,
    ("slerp", "mergekit"): unguarded_slerp,
    ("slerp", "fusion_bench"): unguarded_slerp,
    ("sce", "mergekit"): mergekit_sce,
    ("arcee_fusion", "mergekit"): mergekit_arcee_fusion,
    ("tsv_m", "fusion_bench"): fusion_bench_tsv_m,
    ("iso_c", "fusion_bench"): raw_iso_c,
    ("wudi", "fusion_bench"): fusion_bench_wudi,
    ("emr", "fusion_bench"): fusion_bench_emr,
    ("task_arithmetic", "mergekit"): mergekit_arithmetic,
    ("dare", "mergekit"): mergekit_random,
}


def facts() -> Iterator[tuple[str, Any]]:
    """Yield each entry of ``FACTS`` recomputed by the references."""
    base, experts = worked.V5_BASE, worked.V5_EXPERTS
    two_base = {"a": base, "b": np.zeros(1)}
    two = [{"a": experts[0], "b": np.array([10.0])}, {"a": experts[1], "b": np.array([2.0])}]
    unified, masks, scales = emr(base, experts)
    stacked = np.stack(worked.V5_DELTAS)
    first, second = worked.M2_EXPERTS
    low, high = np.array([[1.0, 0.0]]), np.array([[1.0, 1.0]])
    matrix, other = np.diag([3.0, 1.0]), np.array([[1.0, 2.0], [3.0, 4.0]])
    lambdas = [0.07 / np.linalg.norm(tau) for tau in (first, second)]
    mixed = lambdas[0] * first + lambdas[1] * second
    yield (
        "della keep probabilities of (4,1,3,2), density .5, epsilon .15",
        della_keep_probabilities(np.array([4.0, 1, 3, 2]), density=0.5, epsilon=0.15),
    )
    yield "tall masks of V5, threshold 1", tall_mask(base, experts, threshold=1.0)
    yield "tall masks of V5, threshold .5", tall_mask(base, experts, threshold=0.5)
    yield "emr unified delta of V5", unified[""]
    yield "emr masks of V5", masks
    yield "emr scales of V5", scales
    yield "emr scales of {V5, b: 10 and 2}", emr(two_base, two)[2]
    yield "emr scales of {V5, b: 10 and 2}, per-tensor mean", emr(two_base, two, norm="tensor_mean")[2]
    yield "pcb scale rows of V5, density .6, no clip", pcb_scales(stacked, density=0.6)[1]
    yield "lines factors, 4 blocks, alpha .25, beta .5", [lines_factor(i, 4, 0.25, 0.5) for i in range(4)]
    yield (
        "lines alpha of V5 after ties mean density .4",
        lines_alpha(base, experts, ties(base, experts, density=0.4)),
    )
    joint = np.linalg.norm(matrix + other - np.diag(np.diag(other)))
    norms = (np.linalg.norm(matrix) + np.linalg.norm(other)) / 2
    yield "opcm lambda of diag(3,1) then ((1,2),(3,4))", joint / norms
    importance = arcee_importance(np.zeros(5), np.array([0.1, 0.2, 0.3, 0.4, 3]))
    yield "arcee threshold", arcee_threshold(importance)
    yield "iso_c singular values of M2", svd(first + second)[1]
    losses = [wudi_loss_and_gradient(point, [low, high])[0] for point in (low + high, high)]
    yield "wudi loss at the sum and at the minimum", losses
    yield "doge_ta lambdas of M2", lambdas
    yield "doge_ta loss of M2 at delta 0", sum(((t * (t - mixed)).sum(1) ** 2).sum() for t in (first, second))


def rows() -> Iterator[tuple[str, Any, Any, float]]:
    """Yield name, computed value, expected value and tolerance of every worked number."""
    for method, params, base, experts, expected in worked.EXAMPLES:
        tolerance = worked.TOLERANCES.get(method, worked.TOLERANCE)
        yield f"{method} {params}", METHODS[method](base, experts, **params), expected, tolerance
    for item in worked.COMPAT_EXAMPLES:
        result = COMPAT[item.method, item.compat](item.base, item.experts, **item.params)
        yield f"{item.compat}: {item.method} {item.params}", result, item.expected, worked.TOLERANCE
    for case in worked.DELTA_EXAMPLES:
        function = {"dare": dare_delta, "della": della_delta}[case.method]
        result = function(case.delta, case.mask, **case.params)
        yield f"{case.method} {case.params}", result, case.expected, worked.TOLERANCE
    for name, value in facts():
        tolerance = {"pcb": 2e-5, "doge_ta loss": 1e-5}.get(
            name.split(" rows")[0].split(" of ")[0].split(" scale")[0], 2e-6
        )
        yield name, value, worked.FACTS[name], tolerance
    closed = wudi_closed_form(np.zeros((1, 2)), [np.array([[1.0, 0.0]]), np.array([[1.0, 1.0]])])
    yield "wudi closed form", closed, np.array([[1.0, 1.0]]), 1e-9


def main() -> int:
    """Print every disagreement and the count; return the number of disagreements."""
    bad = total = 0
    for name, result, expected, tolerance in rows():
        total += 1
        got, want = np.asarray(result, dtype=np.float64), np.asarray(expected, dtype=np.float64)
        if got.shape != want.shape or not np.allclose(got, want, atol=tolerance, rtol=0):
            bad += 1
            print(f"DISAGREES {name}: {got.tolist()} against {want.tolist()}")
    print(f"{total - bad} of {total} worked numbers agree")
    return bad


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
