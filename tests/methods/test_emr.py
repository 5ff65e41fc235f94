"""EMR: the worked example, the independent reference, fusion_bench's numbers, and what cancels exactly."""

from pathlib import Path

import numpy as np
import pytest
import torch
from golden_cases import golden_cases
from independent import emr_weights
from masking import FAMILY, V5, mask_of, plain, pool_of, run
from matrices import arrays, draw, tensor
from toys import Kept
from worked_examples import FACTS, V5_BASE, V5_DELTAS

from fusionbench.errors import CheckpointError, IncompatibleModels, NotFinite
from fusionbench.merge import Pool
from fusionbench.methods.emr import elected, emr
from fusionbench.registry import methods


def test_the_worked_example(tmp_path: Path) -> None:
    fused, kept = run(emr, *V5, tmp_path)
    np.testing.assert_allclose(fused.masks.unified["w"], FACTS["emr unified delta of V5"], atol=2e-6)
    for expert, mask in zip("ab", FACTS["emr masks of V5"], strict=True):
        np.testing.assert_array_equal(mask_of(fused, expert, "w"), mask)
    np.testing.assert_allclose(list(fused.masks.scales.values()), FACTS["emr scales of V5"], atol=2e-6)
    moved = fused.weights("a")["w"].numpy() - V5_BASE
    np.testing.assert_allclose(moved, [0.464286, -0.557143, 0.278571, 0, 0], atol=2e-6)
    assert "a 0.9286, b 1.1053" in kept.notes[0]


@pytest.mark.parametrize(
    ("norm", "fact"),
    [
        ("global", "emr scales of {V5, b: 10 and 2}"),
        ("tensor_mean", "emr scales of {V5, b: 10 and 2}, per-tensor mean"),
    ],
)
def test_factors_compare_all_entries_at_once_or_the_means_of_tensors(norm: str, fact: str, tmp_path: Path) -> None:
    base = {**V5[0], "t": torch.zeros(1)}
    experts = {"a": {**V5[1]["a"], "t": tensor([10])}, "b": {**V5[1]["b"], "t": tensor([2])}}
    fused, _ = run(emr, base, experts, tmp_path, norm=norm)
    np.testing.assert_allclose(list(fused.masks.scales.values()), FACTS[fact], atol=2e-6)


@pytest.mark.parametrize("norm", ["global", "tensor_mean"])
def test_models_equal_the_independent_reference(norm: str, tmp_path: Path) -> None:
    base, experts = draw(4)
    fused, _ = run(emr, base, experts, tmp_path, norm=norm)
    expected = emr_weights(arrays(base), [arrays(expert) for expert in experts.values()], norm=norm)
    for expert, model in zip(experts, expected, strict=True):
        for name, weight in fused.weights(expert).items():
            np.testing.assert_allclose(weight, model[name], atol=2e-6)


@pytest.mark.parametrize("case", golden_cases("fusion_bench", "emr"), ids=lambda case: case.name)
def test_its_preset_gives_the_numbers_of_fusion_bench(case, tmp_path: Path) -> None:
    names = [key.removeprefix("unified/") for key in case.expected if key.startswith("unified/")]
    experts = {name: plain(expert, names) for name, expert in case.experts.items()}
    preset = methods["emr"].compat["fusion_bench"]
    fused, _ = run(emr, plain(case.base, names), experts, tmp_path, **preset)
    for name in names:
        torch.testing.assert_close(fused.masks.unified[name], case.expected[f"unified/{name}"].float())
        for expert in experts:
            chosen = case.expected[f"mask_{expert}/{name}"].bool().numpy()
            np.testing.assert_array_equal(mask_of(fused, expert, name), chosen)
    np.testing.assert_allclose(list(fused.masks.scales.values()), case.expected["scales"], rtol=1e-5)


def test_what_cancels_elects_nothing_or_the_negative_as_it_is_told() -> None:
    deltas = [tensor([1, 2, -3]), tensor([-1, 1, 1])]
    assert elected(deltas).tolist() == [0, 2, -3]
    assert elected(deltas, "negative").tolist() == [-1, 2, -3]


def test_one_expert_is_returned_and_experts_at_the_base_give_the_base(tmp_path: Path) -> None:
    base, experts = draw(1)
    fused, _ = run(emr, base, experts, tmp_path)
    for name, weight in fused.weights("a").items():
        torch.testing.assert_close(weight, experts["a"][name])
    still, _ = run(emr, base, {"a": base, "b": base}, tmp_path)
    assert all(weight.equal(base[name]) for name, weight in still.weights("b").items())
    assert still.masks.scales == {"a": 0.0, "b": 0.0}


def test_the_order_of_the_experts_does_not_matter(tmp_path: Path) -> None:
    base, experts = draw(3)
    fused, _ = run(emr, base, experts, tmp_path)
    turned, _ = run(emr, base, dict(reversed(experts.items())), tmp_path)
    for name, weight in fused.weights("b").items():
        torch.testing.assert_close(turned.weights("b")[name], weight)


def test_inputs_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    base, experts = draw(2)
    with pytest.raises(IncompatibleModels, match=r"tall\.bias"):
        run(emr, base, {"a": {**experts["a"], "tall.bias": torch.zeros(3)}}, tmp_path)
    wrong = experts["b"]["tall.bias"].clone()
    wrong[2] = torch.nan
    with pytest.raises(NotFinite, match=r"b: tall\.bias holds nan at \[2\]"):
        run(emr, base, {**experts, "b": {**experts["b"], "tall.bias": wrong}}, tmp_path)


def test_a_pool_without_a_base_is_refused(tmp_path: Path) -> None:
    given = pool_of(*V5)
    with pytest.raises(CheckpointError, match="base=REF"):
        emr(Pool(None, given.experts), {}, Kept(tmp_path).context(FAMILY))


def test_deltas_are_not_overwritten() -> None:
    deltas = [tensor(delta) for delta in V5_DELTAS]
    elected(deltas)
    np.testing.assert_array_equal(deltas[0], tensor(V5_DELTAS[0]))


def test_an_expert_that_pulls_nowhere_as_elected_has_factor_zero(tmp_path: Path) -> None:
    base = {"w": torch.zeros(2)}
    experts = {"a": {"w": tensor([3, 3])}, "b": {"w": tensor([2, 2])}, "c": {"w": tensor([-1, -1])}}
    fused, _ = run(emr, base, experts, tmp_path)
    assert list(fused.masks.scales.values()) == [1.0, pytest.approx(4 / 6), 0.0]
    assert fused.weights("c")["w"].tolist() == [0.0, 0.0]


def test_a_model_of_bfloat16_is_rounded_once(tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(0)
    base = {"w": torch.randn(500, generator=random).bfloat16()}
    experts = {n: {"w": base["w"] + (0.1 * torch.randn(500, generator=random)).bfloat16()} for n in "ab"}
    fused, _ = run(emr, base, experts, tmp_path)
    (expected, _) = emr_weights(arrays(base), [arrays(expert) for expert in experts.values()])
    np.testing.assert_array_equal(fused.weights("a")["w"].float(), tensor(expected["w"]).bfloat16().float())
