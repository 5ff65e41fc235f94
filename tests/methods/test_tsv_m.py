import numpy as np
import pytest
import torch
from independent import tsv_m as reference
from matrices import arrays, by_hand, draw, examples, gaps, golden, place, tensor

from fusing import fuse
from fusionbench.errors import ConfigError
from fusionbench.methods.tsv_m import tsv_m

FIRST, SECOND = tensor([[3, 0], [0, 1]]), tensor([[0, 0], [1.2, 1.6]])
ZERO = torch.zeros(2, 2)


@pytest.mark.parametrize("example", examples("tsv_m"))
def test_the_worked_example_is_reproduced(example):
    np.testing.assert_allclose(by_hand(tsv_m, example), example.expected, atol=2e-6)


def test_matrices_equal_the_independent_reference():
    base, experts = draw(2)
    merged = fuse("tsv_m", base, experts, {"scale": 0.7})
    for name in base:
        expected = reference(arrays(base)[name], [arrays(e)[name] for e in experts.values()], scale=0.7)
        np.testing.assert_allclose(merged[name], expected, atol=2e-6)


@pytest.mark.parametrize(
    ("name", "theirs", "paper", "compat"),
    golden("tsv_m", lambda p: {"weights": p["alpha"]} if isinstance(p["alpha"], list) else {"scale": p["alpha"]}),
)
def test_fusion_bench_is_met_but_for_its_silent_gaps(name, theirs, paper, compat):
    assert gaps(compat, theirs) == set()
    # Two matrices have fewer directions than there are experts, and embeddings are no linear layers.
    assert gaps(paper, theirs) == {"row.weight", "cancel.weight", "embed.weight"}


def test_orthogonal_tasks_of_low_rank_are_added():
    first, second = torch.zeros(4, 4), torch.zeros(4, 4)
    first[:2, :2], second[2:, 2:] = FIRST, tensor([[2, 1], [0, 1]])
    torch.testing.assert_close(tsv_m(torch.zeros(4, 4), [first, second]), first + second)


def test_a_single_expert_is_returned():
    torch.testing.assert_close(tsv_m(ZERO, [SECOND]), SECOND)


def test_more_experts_than_directions_give_the_mean_or_on_request_the_base():
    experts = [FIRST, SECOND, SECOND]
    torch.testing.assert_close(tsv_m(ZERO, experts, scale=0.5), (FIRST + 2 * SECOND) / 6)
    assert tsv_m(ZERO, experts, small="keep").equal(ZERO)


def test_a_lower_density_keeps_fewer_directions():
    base, experts = draw(2, {"w.weight": (8, 8)})
    ranks = []
    for density in (0.5, 0.25):
        delta = fuse("tsv_m", base, experts, {"density": density})["w.weight"] - base["w.weight"]
        ranks.append(int(torch.linalg.matrix_rank(delta, rtol=1e-4)))
    assert ranks == [8, 4]


def test_a_density_that_no_matrix_has_room_for_is_refused():
    with pytest.raises(ConfigError, match=r"method\.density=0\.6 lets 2 experts keep 1\.2 .* at most 1/2 = 0\.5"):
        tsv_m(ZERO, [FIRST, SECOND], density=0.6)


def test_noise_of_low_rank_experts_does_not_disturb_them():
    random = np.random.default_rng(0)
    base = tensor(random.normal(0, 1, (12, 12)))
    parts = [tensor(random.normal(size=(12, 2)) @ random.normal(size=(2, 12))) for _ in range(2)]
    clean = tsv_m(torch.zeros_like(base), parts)
    noisy = tsv_m(base, [base + part for part in parts], rank="numerical") - base
    torch.testing.assert_close(noisy, clean, atol=2e-5, rtol=0)
    raw = tsv_m(base, [base + part for part in parts], rank="full") - base
    assert (raw - clean).abs().max() > 0.05


def test_an_idle_expert_takes_room_but_turns_nothing():
    merged = tsv_m(ZERO, [FIRST, ZERO])
    torch.testing.assert_close(merged, tensor([[3, 0], [0, 0]]))


def test_tables_are_averaged_unless_they_are_asked_for():
    site = place(role="embedding")
    torch.testing.assert_close(tsv_m(ZERO, [FIRST, SECOND], site=site), (FIRST + SECOND) / 2)
    assert tsv_m(ZERO, [FIRST, SECOND], embeddings=True, site=site).equal(tsv_m(ZERO, [FIRST, SECOND]))


def test_weights_scale_the_task_vectors_beforehand():
    expected = tsv_m(ZERO, [FIRST * 2, SECOND * 0.5])
    torch.testing.assert_close(tsv_m(ZERO, [FIRST, SECOND], weights=[2, 0.5]), expected)


def test_the_order_of_the_experts_does_not_matter():
    base, experts = draw()
    turned = dict(reversed(experts.items()))
    assert gaps(fuse("tsv_m", base, experts), fuse("tsv_m", base, turned)) == set()
