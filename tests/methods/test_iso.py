import numpy as np
import pytest
import torch
from independent import iso_c as reference_c
from independent import iso_cts as reference_cts
from independent import raw_iso_c
from matrices import arrays, by_hand, draw, examples, gaps, golden, place, tensor

from fusing import fuse
from fusionbench.methods.iso import iso_c, iso_cts

FIRST, SECOND = tensor([[3, 0], [0, 1]]), tensor([[0, 0], [1.2, 1.6]])
ZERO = torch.zeros(2, 2)


@pytest.mark.parametrize("example", [*examples("iso_c"), *examples("iso_cts")])
def test_the_worked_examples_are_reproduced(example):
    function = {"iso_c": iso_c, "iso_cts": iso_cts}[example.method]
    np.testing.assert_allclose(by_hand(function, example), example.expected, atol=2e-6)


@pytest.mark.parametrize(
    ("method", "reference", "parameters"),
    [("iso_c", reference_c, {"scale": 1.3}), ("iso_cts", reference_cts, {"common": 0.4, "scale": 0.6})],
)
def test_models_equal_the_independent_reference(method, reference, parameters):
    base, experts = draw()
    merged = fuse(method, base, experts, parameters)
    for name in base:
        expected = reference(arrays(base)[name], [arrays(e)[name] for e in experts.values()], **parameters)
        np.testing.assert_allclose(merged[name], expected, atol=2e-6)


@pytest.mark.parametrize(
    ("name", "theirs", "paper", "compat"),
    [
        *golden("iso_c", lambda p: {"scale": p["scaling_factor"]}),
        *golden("iso_cts", lambda p: {"scale": p["scaling_factor"], "common": p["common_space_fraction"]}),
    ],
)
def test_fusion_bench_differs_in_embeddings_alone(name, theirs, paper, compat):
    assert gaps(compat, theirs) == set()
    assert gaps(paper, theirs) == {"embed.weight"}


def test_all_singular_values_become_their_mean():
    values = torch.linalg.svdvals(iso_c(ZERO, [FIRST, SECOND]))
    torch.testing.assert_close(values, torch.full((2,), (3.496020 + 2.231109) / 2))


def test_directions_that_the_sum_lacks_are_left_alone_or_on_request_filled():
    half = tensor([[2, 0], [0, 0]])
    torch.testing.assert_close(iso_c(ZERO, [half, half]), tensor([[2, 0], [0, 0]]))
    filled = iso_c(ZERO, [half, half], rank="full")
    np.testing.assert_allclose(filled.abs(), np.abs(raw_iso_c(ZERO.numpy(), [half.numpy()] * 2)), atol=1e-6)
    assert abs(float(filled[1, 1])) == pytest.approx(2)


def test_without_room_for_a_direction_of_each_task_iso_cts_is_iso_c():
    assert iso_cts(ZERO, [FIRST, SECOND], common=0.5).equal(iso_c(ZERO, [FIRST, SECOND]))
    assert iso_cts(ZERO, [FIRST, SECOND], common=1.0).equal(iso_c(ZERO, [FIRST, SECOND]))


def test_halves_of_directions_are_rounded_to_the_even_number():
    # 10 directions, 3 of them not common, 2 tasks: 1.5 each becomes 2, so 6 are common. With 1 each it would differ.
    base, experts = draw(2, {"w.weight": (10, 10)})
    merged = fuse("iso_cts", base, experts, {"common": 0.7})["w.weight"]
    expected = reference_cts(arrays(base)["w.weight"], [arrays(e)["w.weight"] for e in experts.values()], common=0.7)
    np.testing.assert_allclose(merged, expected, atol=2e-6)
    other = fuse("iso_cts", base, experts, {"common": 0.8})["w.weight"]
    assert (merged - other).abs().max() > 1e-3


def test_tasks_never_ask_for_more_directions_than_there_are():
    # 17 directions and 3 tasks: rounded up, 6 each would be 18.
    base, experts = draw(3, {"w.weight": (17, 17)})
    merged = fuse("iso_cts", base, experts, {"common": 0.0})["w.weight"] - base["w.weight"]
    values = torch.linalg.svdvals(merged)
    torch.testing.assert_close(values, values[0].expand(17), rtol=1e-4, atol=0)


def test_a_task_that_lies_within_the_common_space_adds_no_noise():
    # Both tasks are multiples of one matrix of rank one, which is the common direction.
    random = np.random.default_rng(0)
    line = tensor(np.outer(random.normal(size=6), random.normal(size=6)))
    merged = iso_cts(torch.zeros(6, 6), [line, line * 2], common=0.5)
    assert torch.linalg.matrix_rank(merged, rtol=1e-4) == 1


@pytest.mark.parametrize("function", [iso_c, iso_cts])
def test_tables_are_averaged_unless_they_are_asked_for(function):
    site = place(role="embedding")
    torch.testing.assert_close(function(ZERO, [FIRST, SECOND], site=site), (FIRST + SECOND) / 2)
    assert function(ZERO, [FIRST, SECOND], embeddings=True, site=site).equal(function(ZERO, [FIRST, SECOND]))


@pytest.mark.parametrize("method", ["iso_c", "iso_cts"])
def test_the_order_of_the_experts_does_not_matter_and_scale_zero_gives_the_base(method):
    base, experts = draw()
    turned = dict(reversed(experts.items()))
    assert gaps(fuse(method, base, experts), fuse(method, base, turned)) == set()
    assert gaps(fuse(method, base, experts, {"scale": 0}), base, 0) == set()
