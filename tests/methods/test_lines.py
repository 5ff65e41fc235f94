import numpy as np
import pytest
import torch
from independent import lines as reference
from independent import lines_alpha, ties
from matrices import arrays, draw, gaps, place, tensor
from worked_examples import FACTS, V5_BASE, V5_EXPERTS

from fusing import fuse
from fusionbench.errors import ConfigError
from fusionbench.methods.lines import lines

SHAPES = {"embed": (3,), **{f"layers.{i}.weight": (2, 3) for i in range(4)}, "head": (5,)}
DEPTH = {"embed": None, "head": None, **{f"layers.{i}.weight": i for i in range(4)}}
SUM = {"name": "task_arithmetic", "scale": 1.0}
BASE, EXPERTS = tensor(V5_BASE), [tensor(expert) for expert in V5_EXPERTS]


def test_factors_grow_linearly_with_depth_and_are_alpha_outside_of_blocks():
    base = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    expert = {name: torch.ones(shape) for name, shape in SHAPES.items()}
    merged = fuse("lines", base, {"a": expert}, {"alpha": 0.25, "beta": 0.5})
    found = [float(merged[f"layers.{i}.weight"][0, 0]) for i in range(4)]
    np.testing.assert_allclose(found, FACTS["lines factors, 4 blocks, alpha .25, beta .5"], atol=2e-6)
    assert float(merged["embed"][0]) == float(merged["head"][0]) == 0.25


def test_alpha_weighs_the_sum_against_what_ties_made_of_it():
    inner = {"name": "ties", "density": 0.4}
    factor = FACTS["lines alpha of V5 after ties mean density .4"]
    expected = V5_BASE + factor * np.array([0.5, -0.5, 0, 0, -0.9])
    np.testing.assert_allclose(lines(BASE, EXPERTS, inner=inner), expected, atol=2e-6)
    merged = fuse("lines", {"w": BASE}, {"a": {"w": EXPERTS[0]}, "b": {"w": EXPERTS[1]}}, {"inner": inner})
    np.testing.assert_allclose(merged["w"], expected, atol=2e-6)


def test_models_equal_the_independent_reference():
    base, experts = draw(3, SHAPES)
    origin, models = arrays(base), [arrays(expert) for expert in experts.values()]
    merged = ties(origin, models, density=0.3)
    alpha = lines_alpha(origin, models, merged)
    expected = reference(origin, merged, depth=DEPTH, depths=4, alpha=alpha, beta=0.8)
    found = fuse("lines", base, experts, {"inner": {"name": "ties", "density": 0.3}, "beta": 0.8})
    for name in base:
        np.testing.assert_allclose(found[name], expected[name], atol=2e-6)


def test_a_sum_has_one_over_the_number_of_experts_in_its_first_block():
    base, experts = draw(3, SHAPES)
    flat = fuse("lines", base, experts, {"beta": 0.0})
    mean = fuse("task_arithmetic", base, experts, {"scale": 1 / 3})
    assert gaps(flat, mean) == set()


def test_without_factors_it_is_the_inner_method():
    base, experts = draw(3, SHAPES)
    plain = fuse("ties", base, experts, {"density": 0.3})
    same = fuse("lines", base, experts, {"alpha": 1.0, "beta": 0.0, "inner": {"name": "ties", "density": 0.3}})
    assert gaps(plain, same, 1e-6) == set()


def test_an_inner_method_that_needs_matrices_is_given_them():
    base, experts = draw(2)
    plain = fuse("tsv_m", base, experts)
    same = fuse("lines", base, experts, {"alpha": 1.0, "beta": 0.0, "inner": {"name": "tsv_m"}})
    assert gaps(plain, same, 1e-6) == set()


def test_a_stack_of_one_block_has_both_factors():
    site = place(depth=0, depths=1, experts=("a",))
    torch.testing.assert_close(
        lines(BASE, EXPERTS[:1], alpha=0.25, beta=0.5, site=site), BASE + 0.75 * (EXPERTS[0] - BASE)
    )


def test_beta_and_alpha_that_make_one_leave_the_last_block_of_an_edited_model():
    site = place(depth=3, depths=4, experts=("a",))
    torch.testing.assert_close(lines(BASE, EXPERTS[:1], alpha=0.2, beta=0.8, site=site), EXPERTS[0])


def test_an_inner_scale_is_refused():
    with pytest.raises(ConfigError, match=r"method\.inner\.scale=0\.3: .* Set method\.inner\.scale=1"):
        lines(BASE, EXPERTS, inner={"name": "task_arithmetic"})


def test_an_inner_method_of_another_kind_is_refused():
    with pytest.raises(ConfigError, match=r"method\.inner=individual cannot stand within lines: it does not merge"):
        lines(BASE, EXPERTS, inner={"name": "individual"})


def test_an_unknown_inner_parameter_is_named_with_its_key():
    with pytest.raises(ConfigError, match=r"method\.inner\.densty: .*Did you mean density"):
        lines(BASE, EXPERTS, inner={"name": "ties", "densty": 0.1})


def test_the_order_of_the_experts_does_not_matter():
    base, experts = draw(3, SHAPES)
    turned = dict(reversed(experts.items()))
    assert gaps(fuse("lines", base, experts), fuse("lines", base, turned)) == set()
