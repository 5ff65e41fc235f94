import numpy as np
import pytest
import torch
from independent import consensus as reference
from matrices import arrays, by_hand, draw, examples, gaps, tensor
from worked_examples import FACTS, V5_BASE, V5_DELTAS, V5_EXPERTS

from fusing import fuse
from fusionbench.errors import ConfigError
from fusionbench.methods.consensus import consensus, tall_masks

BASE, EXPERTS = tensor(V5_BASE), [tensor(expert) for expert in V5_EXPERTS]
DELTAS = [tensor(delta) for delta in V5_DELTAS]


@pytest.mark.parametrize("example", examples("consensus"))
def test_the_worked_example_is_reproduced(example):
    np.testing.assert_allclose(by_hand(consensus, example), example.expected, atol=2e-6)


@pytest.mark.parametrize(("threshold", "fact"), [(1.0, "threshold 1"), (0.5, "threshold .5")])
def test_tall_masks_are_those_worked_out(threshold, fact):
    masks = tall_masks(DELTAS, DELTAS[0] + DELTAS[1], (threshold, threshold))
    np.testing.assert_array_equal(masks, FACTS[f"tall masks of V5, {fact}"])


def test_models_equal_the_independent_reference():
    base, experts = draw(4)
    given = {"threshold": [0.3, 0.5, 0.4, 0.9], "minimum": 3, "scale": 0.7}
    merged = fuse("consensus", base, experts, given)
    expected = reference(arrays(base), [arrays(expert) for expert in experts.values()], **given)
    for name in base:
        np.testing.assert_allclose(merged[name], expected[name], atol=2e-6)


def test_entries_needed_by_fewer_than_the_minimum_are_dropped():
    total = DELTAS[0] + DELTAS[1]
    counts = tensor([1, 2, 1, 1, 1])
    for minimum in range(4):
        merged = consensus(BASE, EXPERTS, threshold=0.5, minimum=minimum, scale=1.0)
        torch.testing.assert_close(merged, BASE + total * (counts >= minimum))


def test_ties_may_make_the_merged_vector():
    # The trimmed, elected sum of V5 is (.5, -1, 0, 0, -.9). By hand: masks (1,1,1,0,0) and (0,1,1,1,1).
    inner = {"name": "ties", "combine": "sum", "density": 0.4}
    base, experts = {"w": BASE}, {"a": {"w": EXPERTS[0]}, "b": {"w": EXPERTS[1]}}
    given = {"inner": inner, "threshold": 0.5, "scale": 0.3}
    torch.testing.assert_close(
        fuse("consensus", base, experts, {**given, "minimum": 2})["w"], tensor([1, 1.7, 3, 4, 5])
    )
    torch.testing.assert_close(
        fuse("consensus", base, experts, {**given, "minimum": 1})["w"], tensor([1.15, 1.7, 3, 4, 4.73])
    )
    assert consensus(BASE, EXPERTS, **given).equal(fuse("consensus", base, experts, given)["w"])


def test_an_inner_method_looks_at_the_whole_model():
    base = {"big": torch.zeros(2), "small": torch.zeros(2)}
    expert = {"big": tensor([3, 4]), "small": tensor([0.1, 0.2])}
    given = {"inner": {"name": "ties", "combine": "sum", "density": 0.5}, "minimum": 0, "scale": 1.0}
    merged = fuse("consensus", base, {"a": expert}, given)
    assert merged["big"].equal(expert["big"])
    assert not merged["small"].any()


@pytest.mark.parametrize("inner", ["tsv_m", "simple_average", "pretrained"])
def test_an_inner_method_that_cannot_make_a_vector_entry_by_entry_is_refused(inner):
    with pytest.raises(ConfigError, match=f"method.inner={inner} cannot stand within consensus: it .*Try inner="):
        consensus(BASE, EXPERTS, inner={"name": inner})


def test_entries_that_nobody_moved_are_in_no_mask():
    masks = tall_masks([torch.zeros(2), tensor([0, 1])], tensor([0, 1]), (0.4, 0.4))
    np.testing.assert_array_equal(masks, [[0, 0], [0, 1]])


def test_the_order_of_the_experts_does_not_matter_and_scale_zero_gives_the_base():
    base, experts = draw()
    turned = dict(reversed(experts.items()))
    assert gaps(fuse("consensus", base, experts), fuse("consensus", base, turned)) == set()
    assert gaps(fuse("consensus", base, experts, {"scale": 0}), base, 0) == set()
