import numpy as np
import pytest
import torch
from independent import wudi as reference
from independent import wudi_closed_form, wudi_loss_and_gradient
from matrices import arrays, by_hand, draw, examples, gaps, golden, place, tensor

from fusing import fuse
from fusionbench.methods.wudi import wudi

FIRST, SECOND = tensor([[1, 0]]), tensor([[1, 1]])
ZERO = torch.zeros(1, 2)


@pytest.mark.parametrize("example", examples("wudi"))
def test_the_worked_example_is_reproduced(example):
    np.testing.assert_allclose(by_hand(wudi, example), example.expected, atol=1e-4)


def test_the_closed_form_is_the_minimum():
    torch.testing.assert_close(wudi(ZERO, [FIRST, SECOND], solver="closed_form"), tensor([[1, 1]]))
    assert wudi_loss_and_gradient(np.ones((1, 2)), [FIRST.double().numpy(), SECOND.double().numpy()])[0] < 1e-12


def test_both_solvers_equal_the_independent_reference():
    base, experts = draw()
    stepped = fuse("wudi", base, experts, {"steps": 50, "learning_rate": 1e-3})
    solved = fuse("wudi", base, experts, {"solver": "closed_form"})
    for name in base:
        start, models = arrays(base)[name], [arrays(e)[name] for e in experts.values()]
        np.testing.assert_allclose(stepped[name], reference(start, models, steps=50, learning_rate=1e-3), atol=1e-5)
        if start.ndim == 2:
            np.testing.assert_allclose(solved[name], wudi_closed_form(start, models), atol=1e-5)


@pytest.mark.parametrize(("name", "theirs", "paper", "compat"), golden("wudi", lambda p: {"steps": p["iter_num"]}))
def test_fusion_bench_is_met_but_for_its_not_a_number(name, theirs, paper, compat):
    broken = {"frozen.weight"} if name == "zero_delta" else set()
    assert gaps(compat, theirs, 5e-6) == broken
    assert all(value.isfinite().all() for value in compat.values())
    # The authors leave everything but the linear layers at the base.
    assert gaps(paper, theirs, 5e-6) == broken | {name for name in theirs if theirs[name].dim() != 2} | {"embed.weight"}


def test_tasks_that_do_not_interfere_are_added():
    first, second = tensor([[0.7, 0, 0], [0.1, 0, 0]]), tensor([[0, 0.3, 0], [0, 0, 0.9]])
    torch.testing.assert_close(wudi(torch.zeros(2, 3), [first, second]), first + second, atol=1e-7, rtol=0)


def test_adam_does_not_walk_along_what_rounding_leaves_of_a_gradient():
    """Tasks that read other inputs do not interfere, so the sum is the minimum; float32 would leave 1e-6 of a slope."""
    random = torch.Generator().manual_seed(0)
    first, second = torch.zeros(6, 40), torch.zeros(6, 40)
    first[:, :20], second[:, 20:] = (30 * torch.randn(6, 20, generator=random) for _ in range(2))
    torch.testing.assert_close(wudi(torch.zeros(6, 40), [first, second]), first + second, rtol=0, atol=2e-5)


def test_an_expert_that_changed_nothing_has_no_say():
    base, experts = draw(2)
    idle = fuse("wudi", base, {**experts, "idle": base}, {"steps": 20})
    assert gaps(idle, fuse("wudi", base, experts, {"steps": 20})) == set()


def test_each_step_moves_an_entry_by_no_more_than_the_rate():
    base, experts = draw(3, {"w.weight": (6, 6)})
    total = sum(expert["w.weight"] - base["w.weight"] for expert in experts.values())
    moved = fuse("wudi", base, experts, {"steps": 10, "learning_rate": 1e-3})["w.weight"] - base["w.weight"] - total
    assert 1e-3 < moved.abs().max() <= 10 * 1e-3 + 1e-6


def test_directions_that_no_task_has_stay_out_of_the_closed_form():
    first, second = tensor([[1, 0, 0], [0, 0, 0]]), tensor([[1, 1, 0], [0, 0, 0]])
    merged = wudi(torch.zeros(2, 3), [first, second], solver="closed_form")
    torch.testing.assert_close(merged, tensor([[1, 1, 0], [0, 0, 0]]))


def test_tasks_of_one_input_each_both_keep_their_outputs():
    outputs = np.array([[3, 1, -2, 5], [1, 1, 4, 0]], float).T
    inputs = np.array([[1, 2, 0, 7, 3], [2, -1, 1, 1, 5]], float).T
    tasks = [np.outer(outputs[:, i], inputs[:, i]) for i in range(2)]
    merged = wudi(torch.zeros(4, 5), [tensor(task) for task in tasks], solver="closed_form")
    wanted = np.column_stack([task @ inputs[:, i] for i, task in enumerate(tasks)])
    np.testing.assert_allclose(merged, wanted @ np.linalg.pinv(inputs), atol=1e-4)


def test_tables_and_vectors_keep_the_base_unless_they_are_asked_for():
    site = place(role="embedding")
    assert wudi(ZERO, [FIRST, SECOND], site=site).equal(ZERO)
    assert wudi(ZERO, [FIRST, SECOND], embeddings=True, site=site).equal(wudi(ZERO, [FIRST, SECOND]))
    assert wudi(ZERO[0], [FIRST[0], SECOND[0]]).equal(ZERO[0])
    torch.testing.assert_close(wudi(ZERO[0], [FIRST[0], SECOND[0]], others="mean"), tensor([1, 0.5]))


def test_the_order_of_the_experts_does_not_matter():
    base, experts = draw()
    turned = dict(reversed(experts.items()))
    assert gaps(fuse("wudi", base, experts), fuse("wudi", base, turned)) == set()
