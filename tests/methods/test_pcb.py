import numpy as np
import pytest
import torch
from independent import pcb as reference
from independent import pcb_scales
from matrices import arrays, by_hand, draw, examples, gaps, tensor
from worked_examples import V5_BASE, V5_DELTAS, V5_EXPERTS

from fusing import fuse
from fusionbench.errors import ConfigError
from fusionbench.methods.pcb import pcb

V5 = {"w": tensor(V5_BASE)}, {"a": {"w": tensor(V5_EXPERTS[0])}, "b": {"w": tensor(V5_EXPERTS[1])}}


@pytest.mark.parametrize("example", examples("pcb"))
def test_the_worked_example_is_reproduced(example):
    np.testing.assert_allclose(by_hand(pcb, example), example.expected, atol=2e-5)


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("clip", [0.0, 1e-4, 0.05])
def test_models_equal_the_independent_reference(density, clip):
    base, experts = draw(3)
    merged = fuse("pcb", base, experts, {"density": density, "clip": clip})
    expected = reference(arrays(base), [arrays(expert) for expert in experts.values()], density=density, clip=clip)
    for name in base:
        np.testing.assert_allclose(merged[name], expected[name], atol=2e-5)


def test_a_tensor_by_itself_is_ranked_as_a_model_of_one_tensor():
    base, experts = V5
    alone = pcb(base["w"], [expert["w"] for expert in experts.values()], density=0.6, clip=0.3)
    assert gaps(fuse("pcb", base, experts, {"density": 0.6, "clip": 0.3}), {"w": alone}, 0) == set()


def test_entries_of_all_tensors_compete():
    base = {"big": torch.zeros(2), "small": torch.zeros(2)}
    one = {"big": tensor([5, 4]), "small": tensor([0.1, 0.2])}
    two = {"big": tensor([5, 4]), "small": tensor([0.2, 0.1])}
    experts = {"a": one, "b": two}
    merged = fuse("pcb", base, experts, {"density": 0.5, "clip": 0.0, "scale": 1.0})
    assert merged["small"].equal(base["small"])
    np.testing.assert_allclose(merged["big"], [5, 0], atol=1e-6)


def test_a_model_of_one_entry_has_nothing_that_competes():
    base, experts = {"w": tensor([1.0])}, {"a": {"w": tensor([2.0])}, "b": {"w": tensor([4.0])}}
    assert fuse("pcb", base, experts)["w"].equal(base["w"])


def test_many_experts_do_not_overflow():
    base = torch.zeros(50)
    random = torch.Generator().manual_seed(0)
    experts = [torch.randn(50, generator=random) for _ in range(120)]
    assert pcb(base, experts).isfinite().all()
    expected = pcb_scales(np.stack([e.double().numpy() for e in experts]), density=0.1, clip=1e-4)
    merged = (expected[0] * expected[1]).sum(0) / np.maximum(expected[1].sum(0), 1e-12)
    np.testing.assert_allclose(pcb(base, experts, scale=1.0), merged, atol=1e-3)


def test_agreement_may_be_with_normalised_magnitudes():
    # No clipping: magnitudes 1 and 3 of either expert become 0 and 1, so the sums are those of the second entry alone.
    merged = pcb(
        torch.zeros(2), [tensor([1, 3]), tensor([-1, 3])], clip=0.0, density=1.0, scale=1.0, agreement="normalized"
    )
    np.testing.assert_allclose(merged, [0, 3], atol=1e-6)
    one, two = tensor([0.1, 0.5, -0.9]), tensor([0.2, -0.6, -0.3])
    options = {"clip": 0.0, "density": 1.0, "scale": 1.0}
    by_size = pcb(torch.zeros(3), [one, two], **options, agreement="normalized")
    rows = np.stack([one.double().numpy(), two.double().numpy()])
    unit = (np.abs(rows) - [[0.1], [0.2]]) / [[0.8], [0.4]]
    balance = np.exp(2 * unit**2) * np.tanh(rows * (np.sign(rows) * unit).sum(0))
    low, high = balance.min(1, keepdims=True), balance.max(1, keepdims=True)
    score = (balance - low) / (high - low)
    np.testing.assert_allclose(by_size, (rows * score).sum(0) / score.sum(0), atol=1e-5)


def test_agreement_may_be_counted_pair_by_pair_of_normalised_magnitudes():
    """As the authors' script that searches λ: Σⱼ tanh(n̂ᵢ·n̂ⱼ) over all experts, itself included, n̂ with τ's sign."""
    rows = np.random.default_rng(5).normal(size=(3, 40)).astype(np.float32).astype(np.float64)
    sizes = np.abs(rows)
    low, high = sizes.min(1, keepdims=True), sizes.max(1, keepdims=True)
    signed = np.sign(rows) * (sizes - low) / (high - low)
    inter = np.array([[sum(np.tanh(own[k] * other[k]) for other in signed) for k in range(40)] for own in signed])
    balance = np.exp(3 * signed**2) * inter
    floor = np.sort(balance, axis=1)[:, [30]]
    score = (np.maximum(balance, floor) - floor) / (balance.max(1, keepdims=True) - floor)
    expected = (rows * score).sum(0) / np.maximum(score.sum(0), 1e-12)
    experts = [torch.tensor(row, dtype=torch.float32) for row in rows]
    options = {"clip": 0.0, "density": 0.25, "scale": 1.0, "agreement": "pairwise"}
    np.testing.assert_allclose(pcb(torch.zeros(40), experts, **options), expected, atol=1e-5)
    whole = fuse("pcb", {"w": torch.zeros(40)}, {f"e{k}": {"w": e} for k, e in enumerate(experts)}, options)
    np.testing.assert_allclose(whole["w"], expected, atol=1e-5)


def test_weights_are_factors_of_the_experts_and_not_of_their_scores():
    base, experts = (V5[0]["w"], [expert["w"] for expert in V5[1].values()])
    given = {"density": 0.6, "clip": 0.0, "scale": 1.0}
    clipped, score = pcb_scales(np.stack(V5_DELTAS), density=0.6)
    expected = V5_BASE + (np.array([[0.5], [2.0]]) * clipped * score).sum(0) / np.maximum(score.sum(0), 1e-12)
    np.testing.assert_allclose(pcb(base, experts, weights=[0.5, 2.0], **given), expected, atol=2e-5)


def test_a_density_that_differs_between_tensors_is_refused():
    base, experts = draw(2)
    with pytest.raises(ConfigError, match=r"method\.density is .* in different tensors.*Give one value"):
        fuse("pcb", base, experts, {"density": [{"filter": "wide", "value": 0.2}, {"value": 0.5}]})


def test_the_order_of_the_experts_does_not_matter_and_scale_zero_gives_the_base():
    base, experts = draw()
    turned = dict(reversed(experts.items()))
    assert gaps(fuse("pcb", base, experts), fuse("pcb", base, turned)) == set()
    assert gaps(fuse("pcb", base, experts, {"scale": 0}), base, 0) == set()
