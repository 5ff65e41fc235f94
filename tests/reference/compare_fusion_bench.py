"""Independent counterparts of fusion-bench's golden cases: the paper's arithmetic and fusion-bench's restated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from independent_compat import (
    fusion_bench_model_stock,
    fusion_bench_tsv_m,
    fusion_bench_wudi,
    official_ties,
    raw_iso_c,
    unguarded_slerp,
)
from independent_geometry import model_stock, slerp
from independent_linear import dare_delta, expo, magmax, simple_average, task_arithmetic, ties, weighted_average
from independent_masks import emr, tall_mask
from independent_models import Array, deltas, per_tensor, unflatten
from independent_spectral import doge_ta, iso_c, iso_cts, opcm, svd, tsv_m, wudi

State = dict[str, Array]
Pair = tuple[State | None, State | None]
Handler = Callable[[dict[str, Any], State, list[State]], Pair]
COUNTER = "bn.num_batches_tracked"
NAMES = ("a", "b", "c")


def fusion_bench_references(
    method: str, case: str, note: dict[str, Any], models: dict[str, State], result: State
) -> Pair:
    """Return (paper, restated fusion-bench) for one case, as far as each is defined."""
    params = note["parameters"]
    if method in ("emr", "tall_mask", "knots"):
        return {"emr": emr_pair, "tall_mask": tall_pair, "knots": knots_pair}[method](case, params, models, result)
    prefix = "encoder." if method == "doge_ta" else ""
    named = {model: {prefix + name: array for name, array in state.items()} for model, state in models.items()}
    counted = method == "ties" and case.startswith("all")  # there the counter is one more entry of the long vector
    kept = [name for name in named["base"] if name in result and (counted or name != COUNTER)]
    base = {name: named["base"][name] for name in kept}
    experts = [{name: named[expert][name] for name in kept} for expert in note["experts"]]
    if method == "dare":
        return None, dare_from_mask(params, base, experts[0], result)
    paper, compat = HANDLERS[method](params, base, experts)
    if case == "all_counters_101_103_104":
        compat = {**(compat or {}), COUNTER: np.array(102.0)}  # 308 / 3, cut off
    return paper, compat


def dare_from_mask(params: dict[str, Any], base: State, expert: State, result: State) -> State:
    """Read the mask off the result: kept entries must be delta / (1 - p)."""
    density, kind = 1 - params["sparsity_ratio"], "inverse" if params["rescale"] else "none"
    masks = {name: (result[name] != array).astype(np.float64) for name, array in base.items()}
    return {
        name: base[name] + dare_delta(expert[name] - base[name], mask, density=density, rescale=kind)
        for name, mask in masks.items()
    }


def same(result: Any) -> Pair:
    """The peer computes what the paper says."""
    return dict(result), dict(result)


def ties_pair(params: dict[str, Any], base: State, experts: list[State]) -> Pair:
    """TIES: exact count against one more."""
    shared = {"density": params["threshold"] / 100, "scale": params["scaling_factor"], "combine": params["merge_func"]}
    return dict(ties(base, experts, **shared)), dict(official_ties(base, experts, **shared))


def stock_pair(params: dict[str, Any], base: State, experts: list[State]) -> Pair:
    """Model Stock: mean cosine against mean angle; ignored tensors are averaged by the peer."""
    paper = per_tensor(model_stock, base, experts)
    compat = per_tensor(fusion_bench_model_stock, base, experts)
    for name in params.get("ignore_keys", []):
        paper[name] = base[name]
        compat[name] = np.mean([expert[name] for expert in experts], axis=0)
    return paper, compat


def tsv_pair(params: dict[str, Any], base: State, experts: list[State]) -> Pair:
    """TSV-M; a list of factors scales the deltas beforehand."""
    alpha = params["alpha"]
    if isinstance(alpha, list):
        pairs = zip(alpha, experts, strict=True)
        experts = [{name: base[name] + a * (t - base[name]) for name, t in expert.items()} for a, expert in pairs]
        alpha = 1.0
    return (
        per_tensor(tsv_m, base, experts, scale=alpha),
        per_tensor(fusion_bench_tsv_m, base, experts, scale=alpha),
    )


def iso_pair(params: dict[str, Any], base: State, experts: list[State]) -> Pair:
    """Iso-C with and without the rank guard."""
    scale = params["scaling_factor"]
    return per_tensor(iso_c, base, experts, scale=scale), per_tensor(raw_iso_c, base, experts, scale=scale)


def wudi_pair(params: dict[str, Any], base: State, experts: list[State]) -> Pair:
    """WUDI on matrices only against means elsewhere."""
    steps = params["iter_num"]
    return per_tensor(wudi, base, experts, steps=steps), per_tensor(fusion_bench_wudi, base, experts, steps=steps)


def doge_pair(params: dict[str, Any], base: State, experts: list[State]) -> Pair:
    """DOGE-TA; its mask keeps one entry too many, and no text says otherwise."""
    return same(doge_ta(base, experts, eta=params["lamda"], subspace=params["subspace"], density=params["K"] / 100))


def emr_pair(case: str, _: dict[str, Any], models: dict[str, State], result: State) -> Pair:
    """EMR's unified delta, masks and both kinds of scales."""
    kept = [key.split("/", 1)[1] for key in result if key.startswith("unified/")]
    base = {name: models["base"][name] for name in kept}
    experts = [{name: models[expert][name] for name in kept} for expert in NAMES]
    pair = []
    for norm, zero_sign in (("global", 0), ("tensor_mean", -1)):
        unified, masks, scales = emr(base, experts, norm=norm, zero_sign=zero_sign)
        parts = {f"unified/{name}": array for name, array in unified.items()} | {"scales": np.array(scales)}
        for expert, mask in zip(NAMES, masks, strict=True):
            shaped = unflatten(mask.astype(np.float64), base)
            parts |= {f"mask_{expert}/{name}": array for name, array in shaped.items()}
        pair.append(parts)
    return pair[0], pair[1]


def tall_pair(_: str, params: dict[str, Any], models: dict[str, State], result: State) -> Pair:
    """TALL masks of the helper."""
    kept = sorted({key.split("/", 1)[1] for key in result})
    base = {name: models["base"][name] for name in kept}
    experts = [{name: models[expert][name] for name in kept} for expert in NAMES]
    parts: State = {}
    masks = tall_mask(base, experts, threshold=params["tall_mask_lambda"])
    for expert, mask in zip(NAMES, masks, strict=True):
        shaped = unflatten(mask.astype(np.float64), base)
        parts |= {f"{expert}/{name}": array for name, array in shaped.items()}
    return parts, parts


def knots_pair(case: str, _: dict[str, Any], models: dict[str, State], result: State) -> Pair:
    """KnOTS' factors, compared up to the sign of each pair: products U S V^T of every expert, and the values."""
    base = {case: models["base"][case]}
    taus = [tau[case] for tau in deltas(base, [{case: models[expert][case]} for expert in NAMES])]
    values = svd(np.hstack(taus))[1]
    live = values > 1e-4
    for expert in NAMES:  # replace the peer's blocks by sign-free products
        result[f"product_{expert}"] = result["left"] * result["values"] @ result.pop(f"right_{expert}")
    reference = {"values": values[live]} | {f"product_{e}": tau for e, tau in zip(NAMES, taus, strict=True)}
    return reference, reference


HANDLERS: dict[str, Handler] = {
    "simple_average": lambda _, base, experts: same(simple_average(base, experts)),
    "weighted_average": lambda p, base, experts: same(weighted_average(base, experts, **p)),
    "task_arithmetic": lambda p, base, experts: same(task_arithmetic(base, experts, scale=p["scaling_factor"])),
    "expo": lambda p, base, experts: same(expo(base, experts, scale=p["extrapolation_factor"])),
    "magmax": lambda p, base, experts: same(magmax(base, experts, scale=p["scaling_factor"])),
    "slerp": lambda p, _, experts: (
        per_tensor(slerp, None, experts, **p),
        per_tensor(unguarded_slerp, None, experts, **p),
    ),
    "model_stock": stock_pair,
    "ties": ties_pair,
    "tsv_m": tsv_pair,
    "iso_c": iso_pair,
    "iso_cts": lambda p, base, experts: same(
        per_tensor(iso_cts, base, experts, common=p["common_space_fraction"], scale=p["scaling_factor"])
    ),
    "wudi": wudi_pair,
    "doge_ta": doge_pair,
    "opcm": lambda p, base, experts: same(opcm(base, experts, alpha=p["alpha"], plain=["embed.weight"])),
}
