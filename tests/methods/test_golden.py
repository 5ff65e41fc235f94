"""Averages, task arithmetic and TIES against what the peers computed (`tests/reference/golden`), through the engine."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from golden_cases import GoldenCase, golden_cases
from golden_inputs import COUNTER

from fusing import fuse
from fusionbench.config import MethodConfig
from fusionbench.registry import methods

Values = dict[str, Any]


def listed(value: Any, experts: list[str]) -> list[float]:
    """One value an expert, from a number or a mapping."""
    return [value[expert] for expert in experts] if isinstance(value, dict) else [value] * len(experts)


def mergekit_sum(given: Values, experts: list[str]) -> Values:
    weights = listed(given["weight"], experts)
    total = sum(weights) if given.get("normalize", False) else 1.0
    return {"weights": [weight / total for weight in weights], "scale": given.get("lambda", 1.0)}


def mergekit_ties(given: Values, experts: list[str]) -> Values:
    return {
        "compat": "mergekit",
        "weights": listed(given["weight"], experts),
        "density": listed(given["density"], experts),
        "scale": given.get("lambda", 1.0),
        "combine": "mean" if given.get("normalize", True) else "sum",
    }


def fusion_bench_ties(given: Values, experts: list[str]) -> Values:
    return {
        "compat": "fusion_bench",
        "density": given["threshold"] / 100,
        "scale": given["scaling_factor"],
        "combine": given["merge_func"],
    }


TRANSLATIONS: dict[tuple[str, str], tuple[str, Callable[[Values, list[str]], Values]]] = {
    ("fusion_bench", "simple_average"): ("simple_average", lambda given, experts: {}),
    ("fusion_bench", "weighted_average"): ("weighted_average", lambda given, experts: given),
    ("fusion_bench", "task_arithmetic"): ("task_arithmetic", lambda given, experts: {"scale": given["scaling_factor"]}),
    ("fusion_bench", "ties"): ("ties", fusion_bench_ties),
    ("mergekit", "linear"): (
        "weighted_average",
        lambda given, experts: {
            "weights": listed(given["weight"], experts),
            "normalize": given.get("normalize", True),
        },
    ),
    ("mergekit", "task_arithmetic"): ("task_arithmetic", mergekit_sum),
    ("mergekit", "ties"): ("ties", mergekit_ties),
}
"""For each peer's method: ours, and our words for its parameters."""
UNEQUAL = {
    (
        "mergekit",
        "ties",
        "rescale",
    ): "TIES gives a trimmed task vector no length back; a recipe that asks becomes breadcrumbs",
    ("mergekit", "ties", "bf16"): "trims task vectors that are rounded to bfloat16 first, where most are tied",
}
"""Cases that ours does not reproduce, and why."""
CASES = [case for peer, method in TRANSLATIONS for case in golden_cases(peer, method)]
BFLOAT16_STEPS = 4 * 2.0**-8


def ours(case: GoldenCase) -> dict[str, torch.Tensor]:
    name, translate = TRANSLATIONS[case.peer, case.method]
    config = MethodConfig.read({"name": name, **translate(case.parameters, list(case.experts))})
    names = case.expected or {**next(iter(case.experts.values()))}
    experts = {e: {n: tensors[n] for n in names} for e, tensors in case.experts.items()}
    base = None if case.base is None else {n: case.base[n] for n in names}
    # The peers know no statistics: a running mean is a parameter like any other.
    return fuse(name, base, experts, config.params, batch_norm="as_parameters")


def named(case: GoldenCase) -> str:
    return f"{case.peer}-{case.method}-{case.name}"


@pytest.mark.parametrize("case", [case for case in CASES if case.expected], ids=named)
def test_a_peers_result_is_reproduced(case):
    if (case.peer, case.method, case.name) in UNEQUAL:
        assert not agree(case, ours(case))
        return
    assert agree(case, ours(case))


def agree(case: GoldenCase, found: dict[str, torch.Tensor]) -> bool:
    """Tell whether every tensor is within rounding of the peer's; its counters are the subject of another test."""
    assert found.keys() == case.expected.keys()
    bound = BFLOAT16_STEPS if case.name.startswith("bf16") else 1e-6
    return all(
        found[n].dtype == expected.dtype
        and torch.allclose(found[n].double(), expected.double(), rtol=bound, atol=bound / 4)
        for n, expected in case.expected.items()
        if n != COUNTER
    )


@pytest.mark.parametrize("case", [case for case in CASES if case.refused is not None], ids=named)
def test_what_a_peer_refuses_for_no_fault_of_the_models_is_merged(case):
    assert case.expected == {}
    assert all(tensor.isfinite().all() for tensor in ours(case).values())


def test_counters_are_copied_where_a_peer_takes_their_mean():
    (case,) = [c for c in CASES if c.name == "all_counters_101_103_104"]
    assert case.expected[COUNTER].item() == 102
    assert ours(case)[COUNTER].item() == case.experts["a"][COUNTER].item()


@pytest.mark.parametrize(
    ("peer", "method", "fewest"),
    [("fusion_bench", "simple_average", 3), ("fusion_bench", "weighted_average", 2), ("fusion_bench", "ties", 9),
     ("fusion_bench", "task_arithmetic", 4), ("mergekit", "linear", 4), ("mergekit", "task_arithmetic", 8),
     ("mergekit", "ties", 10)],
)  # fmt: skip
def test_the_golden_files_are_all_there(peer, method, fewest):
    assert sum((case.peer, case.method) == (peer, method) for case in CASES) >= fewest


def test_every_preset_of_a_peer_sets_parameters_that_exist_to_values_that_they_take():
    for name in methods:
        for compat in methods[name].compat or {}:
            assert MethodConfig.read({"name": name, "compat": compat}).compat == compat
