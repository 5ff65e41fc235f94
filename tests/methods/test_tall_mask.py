"""TALL masks: the worked example, the independent reference, fusion_bench's masks, and thresholds that are chosen."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_cases import golden_cases
from independent import tall_mask_weights
from masking import V5, mask_of, plain, run
from matrices import arrays, draw, tensor
from toys import Sides, Toy
from worked_examples import FACTS, V5_BASE

from fusionbench.errors import ConfigError
from fusionbench.methods.tall_mask import tall_mask

TASK = Sides("a", Toy(torch.nn.Module), 0)
GOLDEN = [case for case in golden_cases("fusion_bench", "tall_mask") if not case.refused]


@pytest.mark.parametrize(("threshold", "fact"), [(1.0, "threshold 1"), (0.5, "threshold .5")])
def test_the_worked_example(threshold: float, fact: str, tmp_path: Path) -> None:
    fused, _ = run(tall_mask, *V5, tmp_path, threshold=threshold)
    for expert, mask in zip("ab", FACTS[f"tall masks of V5, {fact}"], strict=True):
        np.testing.assert_array_equal(mask_of(fused, expert, "w"), mask)
    # The sum of both task vectors is (.3, -1, .4, .1, -.6).
    np.testing.assert_allclose(fused.weights("b")["w"], V5_BASE + tensor([0, -1, 0.4, 0.1, -0.6]).numpy(), atol=2e-6)


def test_models_equal_the_independent_reference(tmp_path: Path) -> None:
    base, experts = draw(3)
    fused, _ = run(tall_mask, base, experts, tmp_path, threshold=[0.3, 0.5, 0.9], scale=0.7)
    given = [arrays(expert) for expert in experts.values()]
    expected = tall_mask_weights(arrays(base), given, threshold=[0.3, 0.5, 0.9], scale=0.7)
    for expert, model in zip(experts, expected, strict=True):
        for name, weight in fused.weights(expert).items():
            np.testing.assert_allclose(weight, model[name], atol=2e-6)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case.name)
def test_masks_are_those_of_the_helper_of_fusion_bench(case: Any, tmp_path: Path) -> None:
    names = sorted({key.partition("/")[2] for key in case.expected})
    experts = {name: plain(expert, names) for name, expert in case.experts.items()}
    threshold = case.parameters["tall_mask_lambda"]
    fused, _ = run(tall_mask, plain(case.base, names), experts, tmp_path, threshold=threshold)
    for key, expected in case.expected.items():
        expert, _, name = key.partition("/")
        np.testing.assert_array_equal(mask_of(fused, expert, name), expected.bool().numpy(), err_msg=key)


def test_ties_may_make_the_shared_vector(tmp_path: Path) -> None:
    """The trimmed, elected sum of V5 is (.5, -1, 0, 0, -.9); by hand the masks are (1,1,1,0,0) and (0,1,1,1,1)."""
    inner = {"name": "ties", "combine": "sum", "density": 0.4}
    fused, _ = run(tall_mask, *V5, tmp_path, threshold=0.5, inner=inner)
    np.testing.assert_allclose(fused.weights("a")["w"], V5_BASE + tensor([0.5, -1, 0, 0, 0]).numpy(), atol=2e-6)
    np.testing.assert_allclose(fused.weights("b")["w"], V5_BASE + tensor([0, -1, 0, 0, -0.9]).numpy(), atol=2e-6)


def test_each_task_takes_the_threshold_that_is_best_for_it(tmp_path: Path) -> None:
    """By hand: a at .5 keeps its first two entries; b at .2 keeps all five (.2 > .2·.5), from .5 on the last four."""
    seen: list[dict[str, float]] = []

    def evaluate(fused: Any) -> dict[str, float]:
        entries = {name: float(mask_of(fused, name, "w").sum()) for name in "ab"}
        seen.append(entries)
        return {"a": -abs(len(seen) - 4), "b": entries["b"]}

    fused, kept = run(tall_mask, *V5, tmp_path, tasks={"a": TASK, "b": TASK}, evaluate=evaluate)
    assert len(seen) == 5
    assert "a 0.5, b 0.2" in kept.notes[0]
    assert kept.used["selected"] == {"split": "validation", "tasks": ("a", "b")}
    np.testing.assert_array_equal(mask_of(fused, "a", "w"), FACTS["tall masks of V5, threshold .5"][0])
    np.testing.assert_array_equal(mask_of(fused, "b", "w"), [1, 1, 1, 1, 1])


def test_the_thresholds_that_are_tried_are_those_of_the_authors(tmp_path: Path) -> None:
    """Of a's entries .15, .25 … .65 of the rest, five are larger than .2 of it, four than .3, and so on."""
    base = {"w": tensor([0, 0, 0, 0, 0, 0])}
    experts = {"a": {"w": tensor([0.15, 0.25, 0.35, 0.45, 0.55, 0.65])}, "b": {"w": tensor([1, 1, 1, 1, 1, 1])}}
    counts: list[int] = []

    def evaluate(fused: Any) -> dict[str, float]:
        counts.append(int(mask_of(fused, "a", "w").sum()))
        return {"a": 0.0, "b": 0.0}

    run(tall_mask, base, experts, tmp_path, tasks={"a": TASK, "b": TASK}, evaluate=evaluate)
    assert counts == [5, 4, 3, 2, 1]


def test_thresholds_cannot_be_chosen_without_tasks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"for b\. .*threshold=0\.4"):
        run(tall_mask, *V5, tmp_path, tasks={"a": TASK})
