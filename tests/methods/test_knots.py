import numpy as np
import pytest
import torch
from golden_cases import golden_cases
from independent import knots as reference
from matrices import arrays, by_hand, draw, examples, gaps, place, tensor

from fusing import fuse
from fusionbench.errors import ConfigError
from fusionbench.methods.breadcrumbs import breadcrumbs
from fusionbench.methods.knots import _represented, knots

FIRST, SECOND = tensor([[4, 0], [0, 1]]), tensor([[3, 0], [0, -2]])
ZERO = torch.zeros(2, 2)
MEAN = {"name": "task_arithmetic", "scale": 0.5}
# Four directions only: the joined matrices of two experts have four columns.
NARROW = {"narrow.weight": (7, 2), "wide.weight": (4, 6), "bias": (3,)}


@pytest.mark.parametrize("example", examples("knots"))
def test_the_worked_example_is_reproduced(example):
    np.testing.assert_allclose(by_hand(knots, example, inner=MEAN), example.expected, atol=2e-6)


def test_ties_elects_among_representations():
    # The joined rows are orthogonal, so each matrix represents itself: 4 and 3 agree, 1 and -2 do not.
    merged = knots(ZERO, [FIRST, SECOND], inner={"name": "ties", "density": 0.5})
    torch.testing.assert_close(merged, tensor([[3.5, 0], [0, -2]]))


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_models_equal_the_independent_reference(density):
    base, experts = draw(2, NARROW)
    merged = fuse("knots", base, experts, {"inner": {"name": "ties", "density": density, "scale": 0.6}})
    origin, models = arrays(base), [arrays(expert) for expert in experts.values()]
    expected = reference(origin, models, combine="ties", density=density, scale=0.6)
    for name in base:
        np.testing.assert_allclose(merged[name], expected[name], atol=2e-6)


@pytest.mark.parametrize("case", golden_cases("fusion_bench", "knots"), ids=lambda case: case.name)
def test_directions_and_representations_are_those_of_fusion_bench(case):
    deltas = [case.experts[e][case.name] - case.base[case.name] for e in "abc"]
    basis, live, parts = _represented(deltas, None, 1e-4, "absolute", "inputs")
    assert int(live.sum()) == len(case.expected["values"])
    for expert, part in zip("abc", parts, strict=True):
        theirs = case.expected["left"] * case.expected["values"] @ case.expected[f"right_{expert}"]
        torch.testing.assert_close((basis @ part.double()).float(), theirs, atol=2e-6, rtol=0)
    sizes = torch.stack([part.double().square().sum(1) for part in parts]).sum(0).sqrt()[: int(live.sum())]
    torch.testing.assert_close(sizes.float(), case.expected["values"], atol=2e-6, rtol=0)


@pytest.mark.parametrize("joined", ["inputs", "outputs"])
def test_a_linear_method_is_not_changed(joined):
    base, experts = draw(3, NARROW)
    merged = fuse("knots", base, experts, {"inner": MEAN, "joined": joined, "others": "merge"})
    assert gaps(merged, fuse("task_arithmetic", base, experts, {"scale": 0.5})) == set()


def test_joining_by_outputs_is_joining_the_transposes():
    base, experts = draw(2, {"wide.weight": (4, 6)})
    inner = {"inner": {"name": "ties", "density": 0.4}}
    turned = [{name: value.T for name, value in model.items()} for model in (base, *experts.values())]
    by_inputs = fuse("knots", turned[0], {"a": turned[1], "b": turned[2]}, inner)
    by_outputs = fuse("knots", base, experts, {**inner, "joined": "outputs"})
    assert gaps(by_outputs, {name: value.T for name, value in by_inputs.items()}) == set()


def test_entries_of_all_layers_are_trimmed_together():
    base = {"big.weight": torch.zeros(2, 2), "small.weight": torch.zeros(2, 2)}
    experts = {
        "a": {"big.weight": FIRST, "small.weight": FIRST / 100},
        "b": {"big.weight": SECOND, "small.weight": SECOND / 100},
    }
    merged = fuse("knots", base, experts, {"inner": {"name": "ties", "density": 0.25}})
    torch.testing.assert_close(merged["big.weight"], tensor([[3.5, 0], [0, -2]]), atol=1e-6, rtol=0)
    assert not merged["small.weight"].any()


def test_directions_below_the_tolerance_are_dropped_by_share_or_by_size():
    thin = tensor([[4, 0], [0, 1e-3]])
    for cut, tolerance, kept in (("relative", 1e-3, 0.0), ("relative", 1e-4, 1e-3), ("absolute", 1e-2, 0.0)):
        merged = knots(
            ZERO, [thin, ZERO], inner={"name": "task_arithmetic", "scale": 1.0}, cut=cut, tolerance=tolerance
        )
        torch.testing.assert_close(merged, tensor([[4, 0], [0, kept]]), atol=1e-7, rtol=0)


def test_a_method_that_ranks_entries_is_not_given_those_of_dropped_directions():
    base, experts = draw(2, {"narrow.weight": (7, 2)})
    deltas = [expert["narrow.weight"] - base["narrow.weight"] for expert in experts.values()]
    basis, live, parts = _represented(deltas, None, 1e-5, "relative", "inputs")
    assert int(live.sum()) == 4
    inner = {"name": "breadcrumbs", "density": 0.5, "top_drop": 0.0, "scale": 1.0}
    parts = [part[:4] for part in parts]
    expected = basis[:, :4].float() @ breadcrumbs(torch.zeros(4, 2), parts, density=0.5, top_drop=0.0, scale=1.0)
    merged = fuse("knots", base, experts, {"inner": inner})["narrow.weight"] - base["narrow.weight"]
    torch.testing.assert_close(merged, expected, atol=1e-6, rtol=0)


def test_draws_are_taken_over_the_directions_that_there_are():
    base, experts = draw(2, NARROW)
    inner = {"name": "dare", "density": 0.5, "scale": 1.0}
    one, same = (fuse("knots", base, experts, {"inner": inner}) for _ in range(2))
    assert gaps(one, same, 0) == set()
    assert gaps(one, fuse("knots", base, experts, {"inner": inner}, seed=1)) == {"narrow.weight", "wide.weight"}


def test_other_tensors_keep_the_base_or_are_merged_with_the_layers():
    base, experts = draw(2, NARROW)
    kept, merged = (fuse("knots", base, experts, {"others": others}) for others in ("keep", "merge"))
    assert kept["bias"].equal(base["bias"])
    assert not merged["bias"].equal(base["bias"])


def test_tables_keep_the_base_unless_they_are_asked_for():
    site = place(role="embedding")
    assert knots(ZERO, [FIRST, SECOND], site=site).equal(ZERO)
    assert knots(ZERO, [FIRST, SECOND], embeddings=True, site=site).equal(knots(ZERO, [FIRST, SECOND]))


@pytest.mark.parametrize("inner", ["simple_average", "slerp"])
def test_an_inner_method_that_needs_no_base_is_refused(inner):
    with pytest.raises(ConfigError, match=f"inner={inner} cannot stand within knots: it does not work on deltas"):
        knots(ZERO, [FIRST, SECOND], inner={"name": inner})


def test_the_order_of_the_experts_does_not_matter():
    base, experts = draw()
    turned = dict(reversed(experts.items()))
    assert gaps(fuse("knots", base, experts), fuse("knots", base, turned)) == set()
