"""Independent counterparts of mergekit's golden cases: the paper's arithmetic and mergekit's restated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from independent_compat import (
    mergekit_arcee_fusion,
    mergekit_arithmetic,
    mergekit_model_stock,
    mergekit_random,
    mergekit_sce,
    unguarded_slerp,
)
from independent_geometry import arcee_fusion, karcher, model_stock, multislerp, nuslerp, sce, slerp
from independent_linear import (
    breadcrumbs_delta,
    combine_deltas,
    della_keep_probabilities,
    nearswap,
    ram,
    task_arithmetic,
    ties,
    weighted_average,
)
from independent_models import Array, per_tensor

State = dict[str, Array]
Pair = tuple[State | None, State | None]
COUNTER = "bn.num_batches_tracked"


def listed(value: Any, experts: Sequence[str]) -> list[float]:
    """One value an expert from mergekit's number or mapping."""
    return [float(value[e]) if isinstance(value, dict) else float(value) for e in experts]


def mergekit_references(method: str, case: str, note: dict[str, Any], models: dict[str, State], result: State) -> Pair:
    """Return (paper, restated mergekit) for one case, as far as each is defined."""
    base = {name: array for name, array in models["base"].items() if name in result and name != COUNTER}
    experts = [{name: models[expert][name] for name in base} for expert in note["experts"]]
    params = note["parameters"]
    if method in ("task_arithmetic", "ties", "breadcrumbs", "breadcrumbs_ties"):
        return arithmetic(method, params, note["experts"], base, experts)
    if method.startswith(("dare", "della")):
        return randomised(method, case, note, models, result)
    return GEOMETRIC[method](params, note, base, experts)


def arithmetic(method: str, params: dict[str, Any], names: list[str], base: State, experts: list[State]) -> Pair:
    """The task-arithmetic family without randomness."""
    weights = listed(params["weight"], names)
    density = listed(params.get("density", 1.0), names)
    scale, gamma = params.get("lambda", 1.0), params.get("gamma", 0.01)
    consensus = method.endswith("ties")
    normalize = params.get("normalize", method == "ties")
    rescale = params.get("rescale", False)
    sparsify = {"task_arithmetic": "none", "ties": "magnitude"}.get(method, "outliers")
    compat = per_tensor(
        mergekit_arithmetic,
        base,
        experts,
        weights=weights,
        density=density,
        gamma=gamma,
        sparsify=sparsify,
        consensus=consensus,
        normalize=normalize,
        rescale=rescale,
        scale=scale,
    )
    if (rescale and method != "task_arithmetic") or (normalize and not consensus):
        return None, compat  # the papers know neither
    if method == "task_arithmetic":
        return dict(task_arithmetic(base, experts, weights=weights, scale=scale)), compat
    if method == "ties":
        kind = "mean" if normalize else "sum"
        paper = ties(base, experts, density=density, weights=weights, scale=scale, scope="tensor", combine=kind)
        return dict(paper), compat
    combine = "linear" if method == "breadcrumbs" else "ties" if normalize else "ties_sum"
    paper = {}
    for name, origin in base.items():
        taus = [
            breadcrumbs_delta(expert[name] - origin, top_drop=gamma, density=share)
            for expert, share in zip(experts, density, strict=True)
        ]
        paper[name] = combine_deltas(origin, taus, weights, scale, combine)
    return paper, compat


def randomised(method: str, case: str, note: dict[str, Any], models: dict[str, State], result: State) -> Pair:
    """DARE and DELLA: read the mask off a one-expert result; compare frequencies with the keep probabilities."""
    params, base = note["parameters"], models["base"]
    density = params["density"]
    if case == "frequency":
        delta = {name: models["a"][name] - base[name] for name in result}
        if method.startswith("dare"):
            return {name: np.full(tau.shape, density) for name, tau in delta.items()}, None
        return {n: della_keep_probabilities(tau, density=density) for n, tau in delta.items()}, None
    if len(note["experts"]) > 1:  # density 1: nothing is dropped, only the combination shows
        experts = [{name: models[expert][name] for name in result} for expert in note["experts"]]
        origin = {name: base[name] for name in result}
        weights = listed(params["weight"], note["experts"])
        consensus = method in ("dare_ties", "della")
        normalize = method == "della"
        return None, per_tensor(
            mergekit_arithmetic, origin, experts, weights=weights, consensus=consensus, normalize=normalize
        )
    epsilon = 0.15 if method.startswith("della") else None
    compat = {}
    for name in result:
        if name == COUNTER:
            continue
        origin, expert = base[name], models["a"][name]
        mask = (result[name] != origin).astype(float)
        if params.get("rescale", True):
            compat[name] = mergekit_random(origin, [expert], [mask], density=density, epsilon=epsilon)
        else:
            compat[name] = origin + mask * (expert - origin)
    return None, compat


def slerp_pair(params: dict[str, Any], _: Any, base: State, experts: list[State]) -> Pair:
    """SLERP from the base."""
    return per_tensor(slerp, base, experts, **params), per_tensor(unguarded_slerp, base, experts, **params)


def linear_pair(params: dict[str, Any], note: dict[str, Any], _: State, experts: list[State]) -> Pair:
    """Weighted average."""
    weights = listed(params["weight"], note["experts"])
    result = dict(weighted_average(None, experts, weights=weights, normalize=params.get("normalize", True)))
    return result, result


def nuslerp_pair(params: dict[str, Any], note: dict[str, Any], base: State, experts: list[State]) -> Pair:
    """NuSLERP; no straight line near parallel in mergekit, which only shows where cosines pass .9995."""
    mode = "flat"
    if not params.get("nuslerp_flatten", True):
        mode = "column" if params.get("nuslerp_row_wise", False) else "row"
    weights = listed(params["weight"], note["experts"])
    paper = per_tensor(nuslerp, base if note["base"] else None, experts, weights=weights, mode=mode)
    exact = per_tensor(
        nuslerp, base if note["base"] else None, experts, weights=weights, mode=mode, straight=1 - 1e-14, guard=False
    )
    return paper, exact


def multislerp_pair(params: dict[str, Any], note: dict[str, Any], base: State, experts: list[State]) -> Pair:
    """Closed form of MultiSLERP."""
    result = per_tensor(
        multislerp,
        base if note["base"] else None,
        experts,
        weights=listed(params["weight"], note["experts"]),
        normalize=params.get("normalize_weights", True),
    )
    return result, result


def karcher_pair(params: dict[str, Any], _: Any, __: State, experts: list[State]) -> Pair:
    """Karcher mean."""
    result = per_tensor(karcher, None, experts, max_iterations=params.get("max_iter", 10))
    return result, result


def stock_pair(params: dict[str, Any], _: Any, base: State, experts: list[State]) -> Pair:
    """Model Stock."""
    return per_tensor(model_stock, base, experts, **params), per_tensor(mergekit_model_stock, base, experts, **params)


def sce_pair(params: dict[str, Any], _: Any, base: State, experts: list[State]) -> Pair:
    """SCE."""
    topk = params["select_topk"]
    return per_tensor(sce, base, experts, topk=topk), per_tensor(mergekit_sce, base, experts, topk=topk)


def nearswap_pair(params: dict[str, Any], _: Any, base: State, experts: list[State]) -> Pair:
    """NearSwap."""
    result = per_tensor(nearswap, base, experts, **params)
    return result, result


def ram_pair(params: dict[str, Any], _: Any, base: State, experts: list[State]) -> Pair:
    """RAM."""
    result = per_tensor(ram, base, experts, **params)
    return result, result


def ramplus_pair(params: dict[str, Any], _: Any, base: State, experts: list[State]) -> Pair:
    """RAM+, counted tensor by tensor."""
    words = {"r": "gain", "alpha": "most", "epsilon": "epsilon"}
    own = {"gain": 0.1, **{words[key]: value for key, value in params.items()}}
    result = per_tensor(ram, base, experts, **own)
    return result, result


def arcee_pair(_: dict[str, Any], __: Any, base: State, experts: list[State]) -> Pair:
    """Arcee Fusion."""
    return per_tensor(arcee_fusion, base, experts), per_tensor(mergekit_arcee_fusion, base, experts)


def passthrough_pair(params: dict[str, Any], _: Any, __: State, experts: list[State]) -> Pair:
    """Copy, possibly scaled."""
    result = {name: array * params.get("scale", 1.0) for name, array in experts[0].items()}
    return result, result


GEOMETRIC: dict[str, Callable[[dict[str, Any], dict[str, Any], State, list[State]], Pair]] = {
    "linear": linear_pair,
    "slerp": slerp_pair,
    "nuslerp": nuslerp_pair,
    "multislerp": multislerp_pair,
    "karcher": karcher_pair,
    "model_stock": stock_pair,
    "sce": sce_pair,
    "nearswap": nearswap_pair,
    "ram": ram_pair,
    "ramplus_tl": ramplus_pair,
    "arcee_fusion": arcee_pair,
    "passthrough": passthrough_pair,
}
