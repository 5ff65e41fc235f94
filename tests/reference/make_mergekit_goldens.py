"""Write what mergekit computes on the golden inputs, one file a method: ``golden/mergekit/<method>.safetensors``.

Run by an interpreter that has mergekit 0.1.5 (it is not a dependency of this project):
``python make_mergekit_goldens.py``. Tensors are named ``<case>/<tensor>``; the metadata holds peer, version, and each
case's inputs, parameters and the tensors mergekit refused, with its words.
``make_mergekit_recipe_goldens.py`` does the same for whole recipes.
"""

# ruff: noqa: T201

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any, NamedTuple

import torch
from golden_inputs import COUNTER, GOLDEN, read_inputs, save_golden
from mergekit.merge_methods import merge_state_dicts
from torch import Tensor

ABC = ("a", "b", "c")
WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.7}
DENSITIES = {"a": 0.5, "b": 0.33, "c": 0.8}
NEGATIVE = {"a": 1.0, "b": -0.5, "c": 0.25}
DRAWN = ("linear.weight", "linear.bias", "square.weight", "embed.weight", "row.weight", "norm.weight")


class Case(NamedTuple):
    """One merge: the method, a name, what goes in, mergekit's parameters."""

    method: str
    case: str
    experts: tuple[str, ...]
    base: bool
    params: dict[str, Any]
    precision: str = "fp32"
    names: tuple[str, ...] | None = None
    seed: int | None = None


def family(method: str, **fixed: Any) -> list[Case]:
    """Cases of one member of mergekit's task-arithmetic family."""
    needs_density = method != "task_arithmetic"
    dense = {"density": DENSITIES} if needs_density else {}
    half = {"density": 0.5} if needs_density else {}
    return [
        Case(method, "equal", ABC, True, {"weight": 1.0, **half, **fixed}),
        Case(method, "per_model", ABC, True, {"weight": WEIGHTS, **dense, **fixed}),
        Case(method, "normalize_on", ABC, True, {"weight": WEIGHTS, **dense, "normalize": True, **fixed}),
        Case(method, "normalize_off", ABC, True, {"weight": WEIGHTS, **dense, "normalize": False, **fixed}),
        Case(method, "lambda", ABC, True, {"weight": WEIGHTS, **dense, "lambda": 0.4, **fixed}),
        Case(method, "negative", ABC, True, {"weight": NEGATIVE, **dense, "normalize": False, **fixed}),
        Case(method, "rescale", ABC, True, {"weight": WEIGHTS, **dense, "rescale": True, **fixed}),
        Case(method, "bf16", ABC, True, {"weight": WEIGHTS, **dense, **fixed}, "bf16"),
    ]


def deterministic() -> list[Case]:
    """Cases without randomness."""
    return [
        Case("linear", "normalize_on", ABC, False, {"weight": WEIGHTS}),
        Case("linear", "normalize_off", ABC, False, {"weight": WEIGHTS, "normalize": False}),
        Case("linear", "equal", ABC, False, {"weight": 1.0}),
        Case("linear", "bf16", ABC, False, {"weight": WEIGHTS}, "bf16"),
        *family("task_arithmetic"),
        *family("ties"),
        Case("ties", "density_1", ABC, True, {"weight": 1.0, "density": 1.0}),
        Case("ties", "density_small", ABC, True, {"weight": 1.0, "density": 0.01}),
        *family("breadcrumbs", gamma=0.05),
        Case("breadcrumbs", "gamma_default", ABC, True, {"weight": 1.0, "density": 0.6}),
        Case("breadcrumbs", "density_wins", ABC, True, {"weight": 1.0, "density": 0.95, "gamma": 0.2}),
        *family("breadcrumbs_ties", gamma=0.05),
        *(Case("slerp", f"t_{t}", ("a",), True, {"t": t}) for t in (0.0, 0.25, 0.5, 1.0)),
        Case("slerp", "bf16", ("a",), True, {"t": 0.3}, "bf16"),
        *nuslerp(),
        Case("multislerp", "no_base", ABC, False, {"weight": WEIGHTS}),
        Case("multislerp", "base", ABC, True, {"weight": WEIGHTS}),
        Case("multislerp", "base_equal_two", ("a", "b"), True, {"weight": 1.0}),
        Case("multislerp", "not_normalized", ABC, False, {"weight": WEIGHTS, "normalize_weights": False}),
        Case("multislerp", "bf16", ABC, True, {"weight": WEIGHTS}, "bf16"),
        Case("karcher", "default", ABC, False, {}),
        Case("karcher", "two", ("a", "b"), False, {}),
        Case("karcher", "one_iteration", ABC, False, {"max_iter": 1}),
        Case("model_stock", "two", ("a", "b"), True, {}),
        Case("model_stock", "three", ABC, True, {}),
        Case("model_stock", "filter_wise", ABC, True, {"filter_wise": True}),
        Case("model_stock", "bf16", ABC, True, {}, "bf16"),
        *(Case("sce", f"topk_{topk}", ABC, True, {"select_topk": topk}) for topk in (1.0, 0.5, 0.1)),
        *(Case("nearswap", f"t_{t}", ("a",), True, {"t": t}) for t in (0.01, 0.05)),
        *(Case("ram", f"epsilon_{epsilon}", ABC, True, {"epsilon": epsilon}) for epsilon in (1e-5, 0.05)),
        Case("ramplus_tl", "default", ABC, True, {}),
        Case("ramplus_tl", "all", ABC, True, {"r": 0.5, "alpha": 0.9, "epsilon": 0.05}),
        Case("ramplus_tl", "uncapped", ABC, True, {"r": 0.5, "alpha": 9.0, "epsilon": 0.08}),
        *(Case("arcee_fusion", expert, (expert,), True, {}) for expert in ABC),
        Case("passthrough", "copy", ("b",), False, {}),
        Case("passthrough", "scale", ("b",), False, {"scale": 0.5}),
    ]


def nuslerp() -> list[Case]:
    """Whole, rows, columns; over the weights or over the deltas."""
    weight = {"a": 0.6, "b": 0.2}
    modes: dict[str, dict[str, Any]] = {
        "flat": {},
        "last_axis": {"nuslerp_flatten": False},
        "axis_0": {"nuslerp_flatten": False, "nuslerp_row_wise": True},
    }
    return [
        Case("nuslerp", f"{mode}_{'base' if base else 'no_base'}", ("a", "b"), base, {"weight": weight, **extra})
        for mode, extra in modes.items()
        for base in (False, True)
    ]


def random_cases() -> list[Case]:
    """Seeded DARE and DELLA on one expert, so that the drawn mask shows in the result; on three nothing is dropped."""
    cases = []
    for method in ("dare_linear", "dare_ties", "della", "della_linear"):
        names = DRAWN if method.startswith("della") else None
        one, three = {"weight": 1.0, "density": 0.5}, {"weight": WEIGHTS, "density": 1.0}
        cases += [
            Case(method, "one_expert", ("a",), True, one, names=names, seed=1),
            Case(method, "one_expert_raw", ("a",), True, {**one, "rescale": False}, names=names, seed=2),
            Case(method, "density_1", ABC, True, three),
        ]
    return cases


def run(case: Case) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Merge tensor by tensor; return the results and the refusals."""
    models = read_inputs(case.precision)
    chosen = (("base",) if case.base else ()) + case.experts
    if case.seed is not None:
        torch.manual_seed(case.seed)
    results, refused = {}, {}
    for name in sorted(models["base"]):
        if case.names is not None and name not in case.names and name != COUNTER:
            continue
        states = {model: {name: models[model][name]} for model in chosen}
        try:
            merged = merge_state_dicts(states, case.method, parameters=case.params, base="base" if case.base else None)
        except Exception as error:  # a refusal is a result too
            refused[name] = f"{type(error).__name__}: {error}"[:200]
            continue
        results[name] = merged[name].contiguous().clone()
    return results, refused


def frequencies() -> dict[str, Tensor]:
    """How often each entry survived 2000 seeded draws of DARE and DELLA (density .5, epsilon .15), one expert."""
    models = read_inputs("fp32")
    result = {}
    for method in ("dare_linear", "della_linear"):
        for name in ("linear.weight", "linear.bias"):
            states = {model: {name: models[model][name]} for model in ("base", "a")}
            torch.manual_seed(4)
            kept = torch.zeros_like(models["base"][name])
            for _ in range(2000):
                merged = merge_state_dicts(
                    states, method, parameters={"weight": 1.0, "density": 0.5, "rescale": False}, base="base"
                )
                kept += merged[name] != models["base"][name]
            result[f"{method}/frequency/{name}"] = kept / 2000
    return result


def main() -> None:
    """Run every case and write one file a method."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    tensors: dict[str, dict[str, Tensor]] = {}
    notes: dict[str, dict[str, Any]] = {}
    for case in deterministic() + random_cases():
        results, refused = run(case)
        tensors.setdefault(case.method, {}).update({f"{case.case}/{name}": t for name, t in results.items()})
        notes.setdefault(case.method, {})[case.case] = {
            "experts": case.experts,
            "base": case.base,
            "inputs": case.precision,
            "parameters": case.params,
            **({"seed": case.seed} if case.seed is not None else {}),
            **({"refused": refused} if refused else {}),
        }
    for key, tensor in frequencies().items():
        method, name = key.split("/", 1)
        tensors[method][name] = tensor
        params = {"density": 0.5, "rescale": False, "draws": 2000}
        notes[method]["frequency"] = {"experts": ["a"], "base": True, "inputs": "fp32", "parameters": params}
    folder = GOLDEN / "mergekit"
    folder.mkdir(parents=True, exist_ok=True)
    for method, group in tensors.items():
        metadata = {
            "peer": "mergekit",
            "version": version("mergekit"),
            "torch": version("torch"),
            "cases": json.dumps(notes[method], sort_keys=True),
        }
        save_golden(folder / f"{method}.safetensors", group, metadata)
        refusals = {case: list(note["refused"]) for case, note in notes[method].items() if "refused" in note}
        print(method, len(notes[method]), "cases", (folder / f"{method}.safetensors").stat().st_size, refusals)


if __name__ == "__main__":
    main()
