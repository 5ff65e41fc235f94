import numpy as np
import pytest
import torch
from independent import doge_ta as reference
from matrices import arrays, by_hand, draw, examples, gaps, golden, place, tensor

from fusing import fuse
from fusionbench.errors import ConfigError
from fusionbench.methods.doge_ta import doge_ta

FIRST, SECOND = tensor([[3, 0], [0, 1]]), tensor([[0, 0], [1.2, 1.6]])
ZERO = torch.zeros(2, 2)
MATRICES = {"one.weight": (6, 9), "two.weight": (8, 8)}


@pytest.mark.parametrize("example", examples("doge_ta"))
def test_the_worked_example_is_reproduced(example):
    np.testing.assert_allclose(by_hand(doge_ta, example), example.expected, atol=2e-6)


@pytest.mark.parametrize("keep", ["exact", "official"])
@pytest.mark.parametrize("subspace", [3, 6, 100])
def test_matrices_equal_the_independent_reference(keep, subspace):
    base, experts = draw(3, MATRICES)
    given = {"density": 0.4, "subspace": subspace, "steps": 30, "learning_rate": 1e-2}
    merged = fuse("doge_ta", base, experts, {**given, "keep": keep})
    extra = int(keep == "official")
    expected = reference(arrays(base), [arrays(expert) for expert in experts.values()], **given, extra=extra)
    for name in base:
        np.testing.assert_allclose(merged[name], expected[name], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "theirs", "paper", "compat"),
    golden(
        "doge_ta",
        lambda p: {"density": p["K"] / 100, "subspace": p["subspace"], "eta": p["lamda"], "embeddings": True},
        prefix="encoder.",
    ),
)
def test_fusion_bench_is_met_where_its_subspace_is_not_arbitrary(name, theirs, paper, compat):
    if name == "subspace_1_K_30":
        assert gaps(compat, theirs, 2e-5) == set(theirs)
        return
    assert gaps(compat, theirs, 2e-5) == set()
    # It keeps one entry more of every expert.
    differing = sum(int(((paper[key] - theirs[key]).abs() > 2e-5).sum()) for key in theirs)
    assert 1 <= differing <= 3


def test_a_subspace_that_is_everything_leaves_the_task_vectors_alone():
    base, experts = draw(2, {"two.weight": (8, 8)})
    closed = fuse("doge_ta", base, experts, {"subspace": 1, "steps": 50, "learning_rate": 1e-2})
    assert gaps(closed, fuse("doge_ta", base, experts, {"steps": 0})) == set()
    assert gaps(closed, fuse("doge_ta", base, experts, {"subspace": 100, "steps": 50, "learning_rate": 1e-2})) != set()


def test_the_mask_ranks_the_entries_of_all_matrices_and_of_nothing_else():
    base = {"big.weight": torch.zeros(2, 2), "small.weight": torch.zeros(2, 2), "huge.bias": torch.zeros(4)}
    expert = {"big.weight": FIRST + 10, "small.weight": SECOND, "huge.bias": torch.full((4,), 1000.0)}
    merged = fuse("doge_ta", base, {"a": expert}, {"density": 0.5, "steps": 0})
    assert merged["big.weight"].all()
    assert not merged["small.weight"].any()
    assert merged["huge.bias"].equal(base["huge.bias"])


def test_every_task_matrix_enters_with_the_same_norm():
    merged = doge_ta(ZERO, [FIRST], eta=0.5, density=1.0, steps=0)
    assert float(merged.norm()) == pytest.approx(0.5)


def test_a_density_that_differs_between_tensors_is_refused():
    base, experts = draw(2, MATRICES)
    with pytest.raises(ConfigError, match=r"method\.density is .* in different tensors.*Give one value"):
        fuse("doge_ta", base, experts, {"density": [{"filter": "one", "value": 0.2}, {"value": 0.5}]})


def test_each_expert_may_keep_a_share_of_its_own():
    base, experts = draw(2, MATRICES)
    size = sum(value.numel() for value in base.values())
    merged = fuse("doge_ta", base, experts, {"density": {"a": 0.25, "b": 0.004}, "steps": 0})
    changed = sum(int((merged[name] != base[name]).sum()) for name in base)
    assert changed == int(size * 0.25)


def test_tables_keep_the_base_unless_they_are_asked_for():
    site = place(role="embedding")
    assert doge_ta(ZERO, [FIRST, SECOND], site=site).equal(ZERO)
    asked = doge_ta(ZERO, [FIRST, SECOND], embeddings=True, site=site)
    assert asked.equal(doge_ta(ZERO, [FIRST, SECOND]))


def test_the_order_of_the_experts_does_not_matter():
    base, experts = draw()
    turned = dict(reversed(experts.items()))
    assert gaps(fuse("doge_ta", base, experts), fuse("doge_ta", base, turned)) == set()
