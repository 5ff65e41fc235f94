import numpy as np
import pytest
import torch
from independent import opcm as reference
from matrices import arrays, by_hand, draw, examples, gaps, golden, place, tensor

from fusing import fuse
from fusionbench.methods.opcm import opcm

FIRST, SECOND = tensor([[3, 0], [0, 1]]), tensor([[1, 2], [3, 4]])
ZERO = torch.zeros(2, 2)


@pytest.mark.parametrize("example", examples("opcm"))
def test_the_worked_example_is_reproduced(example):
    np.testing.assert_allclose(by_hand(opcm, example), example.expected, atol=2e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 0.9])
def test_rescaling_once_at_the_end_equals_the_paper_s_rescaling_after_every_expert(alpha):
    base, experts = draw(4)
    merged = fuse("opcm", base, experts, {"alpha": alpha})
    expected = reference(arrays(base), [arrays(expert) for expert in experts.values()], alpha=alpha)
    for name in base:
        np.testing.assert_allclose(merged[name], expected[name], atol=2e-6)


@pytest.mark.parametrize(("name", "theirs", "paper", "compat"), golden("opcm", lambda p: {"alpha": p["alpha"]}))
def test_fusion_bench_is_met(name, theirs, paper, compat):
    assert gaps(paper, theirs) == set()


def test_the_cross_clears_the_leading_rows_and_columns():
    # At alpha 0.8 the first of the singular values 3 and 1 is closed: all of the second task lies in its row or column.
    crossed = opcm(ZERO, [FIRST, SECOND], alpha=0.8, projector="cross")
    factor = (10**0.5 + 30**0.5) / 2 / 10**0.5
    torch.testing.assert_close(crossed, FIRST * factor)
    assert (opcm(ZERO, [FIRST, SECOND], alpha=0.8) - crossed).abs().max() > 0.5
    # A share of exactly alpha is closed, as the first cumulative share above it is the first that stays open.
    torch.testing.assert_close(opcm(ZERO, [FIRST, SECOND], alpha=0.75, projector="cross"), crossed)


def test_the_result_has_the_mean_length_of_the_task_vectors():
    base, experts = draw(3)
    merged = fuse("opcm", base, experts)

    def length(model):
        return torch.cat([(model[name] - base[name]).flatten() for name in base]).norm()

    torch.testing.assert_close(length(merged), sum(map(length, experts.values())) / 3)


def test_the_order_of_the_experts_matters():
    assert (opcm(ZERO, [FIRST, SECOND]) - opcm(ZERO, [SECOND, FIRST])).abs().max() > 0.1


def test_a_single_expert_is_returned():
    base, experts = draw(1)
    assert gaps(fuse("opcm", base, experts), experts["a"]) == set()


def test_an_idle_first_expert_projects_nothing_out():
    merged = opcm(ZERO, [ZERO, SECOND])
    torch.testing.assert_close(merged, SECOND / 2)


def test_tables_are_added_as_they_are_unless_they_are_asked_for():
    site = place(role="embedding")
    plain = opcm(ZERO, [FIRST, SECOND], site=site, prepared=1.0)
    torch.testing.assert_close(plain, FIRST + SECOND)
    projected = opcm(ZERO, [FIRST, SECOND], embeddings=True, site=site, prepared=1.0)
    torch.testing.assert_close(projected, tensor([[3, 2], [3, 1]]))


def test_a_schedule_over_tensors_is_followed_in_both_passes():
    base, experts = draw(3)
    scheduled = fuse("opcm", base, experts, {"alpha": [{"filter": "wide", "value": 0.9}, {"value": 0.1}]})
    low, high = (fuse("opcm", base, experts, {"alpha": alpha}) for alpha in (0.1, 0.9))
    # One factor for the whole model is all that differs from the runs with one value.
    for name, other in (("wide.weight", high), ("square.weight", low)):
        ratio = (scheduled[name] - base[name]) / (other[name] - base[name])
        torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-2, atol=0)
    total = torch.cat([(scheduled[name] - base[name]).flatten() for name in base]).norm()
    same = torch.cat([(low[name] - base[name]).flatten() for name in base]).norm()
    torch.testing.assert_close(total, same)


def test_experts_that_cancel_give_the_base():
    base = {"bias": tensor([1, 2])}
    experts = {"a": {"bias": tensor([2, 4])}, "b": {"bias": tensor([0, 0])}}
    assert fuse("opcm", base, experts)["bias"].equal(base["bias"])
