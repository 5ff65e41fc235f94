"""The worked numbers of the averages, of task arithmetic and of TIES: by the function, and by the engine."""

import numpy as np
import pytest
import torch
import worked_examples
from worked_examples import COMPAT_EXAMPLES, EXAMPLES, TOLERANCE, V5_BASE, V5_EXPERTS

from fusing import fuse
from fusionbench.config import MethodConfig
from fusionbench.registry import methods

OURS = ("simple_average", "weighted_average", "task_arithmetic", "ties")
CHOSEN = [(e.method, None, e) for e in EXAMPLES if e.method in OURS]
CHOSEN += [(e.method, e.compat, e) for e in COMPAT_EXAMPLES if e.method in OURS]


def named(item):
    return None if not isinstance(item, tuple) else str(item.params)


@pytest.mark.parametrize(("method", "compat", "example"), CHOSEN, ids=named)
def test_the_engine_gives_the_worked_numbers(method, compat, example):
    config = MethodConfig.read({"name": method, "compat": compat, **example.params})
    states = [{"w": torch.tensor(array, dtype=torch.float32)} for array in (example.base, *example.experts)]
    merged = fuse(method, states[0], {str(i): state for i, state in enumerate(states[1:])}, config.params)
    np.testing.assert_allclose(merged["w"].numpy(), example.expected, atol=TOLERANCE * 5, rtol=0)


@pytest.mark.parametrize(("method", "compat", "example"), CHOSEN, ids=named)
def test_the_function_gives_the_worked_numbers_in_double_precision(method, compat, example):
    config = MethodConfig.read({"name": method, "compat": compat, **example.params})
    inputs = [torch.tensor(array, dtype=torch.float64) for array in example.experts]
    base = [] if methods[method].base == "unused" else [torch.tensor(example.base, dtype=torch.float64)]
    result = methods[method].load()(*base, inputs, **config.params)
    np.testing.assert_allclose(result.numpy(), example.expected, atol=TOLERANCE, rtol=0)


def ties(**values):
    merged = fuse(
        "ties",
        {"w": torch.tensor(V5_BASE, dtype=torch.float32)},
        {str(i): {"w": torch.tensor(e, dtype=torch.float32)} for i, e in enumerate(V5_EXPERTS)},
        values,
    )
    return (merged["w"].double().numpy() - V5_BASE).round(5).tolist()


def test_random_places_are_kept_without_rescaling():
    """Two of five entries of each task vector stay, whichever; nothing else is in the sum."""
    deltas = [e - V5_BASE for e in V5_EXPERTS]
    for seed in range(5):
        merged = fuse(
            "ties",
            {"w": torch.tensor(V5_BASE, dtype=torch.float32)},
            {"x": {"w": torch.tensor(V5_EXPERTS[1], dtype=torch.float32)}},
            {"density": 0.4, "trim": "random"},
            seed=seed,
        )
        found = (merged["w"].double().numpy() - V5_BASE).round(5)
        kept = np.flatnonzero(found)
        assert len(kept) == 2
        assert found[kept].tolist() == deltas[1][kept].round(5).tolist()


def test_weights_enter_the_vote_the_mean_and_the_sum():
    """Deltas (.5, -.4, .1, 0, .3) weighed 1 and (-.2, -.6, .3, .1, -.9) weighed 2, nothing trimmed."""
    mean = ties(density=1.0, weights=[1.0, 2.0])
    assert mean == [0.5, round(-1.6 / 3, 5), round(0.7 / 3, 5), 0.1, -0.9]
    assert ties(density=1.0, weights=[1.0, 2.0], combine="sum") == [0.5, -1.6, 0.7, 0.2, -1.8]
    assert ties(density=1.0, weights=[1.0, 2.0], combine="max") == [0.5, -1.2, 0.6, 0.2, -1.8]


def cancelling(zero_sign, entries):
    base = {"w": torch.zeros(len(entries[0]))}
    experts = {str(i): {"w": torch.tensor(row)} for i, row in enumerate(entries)}
    return fuse("ties", base, experts, {"density": 1.0, "zero_sign": zero_sign, "combine": "sum"})["w"].tolist()


@pytest.mark.parametrize(
    ("zero_sign", "entries", "expected"),
    [
        ("zero", [[1.0, 2.0, 3.0], [-1.0, 2.0, -3.0]], [0.0, 4.0, 0.0]),
        ("positive", [[1.0, 2.0, 3.0], [-1.0, 2.0, -3.0]], [1.0, 4.0, 3.0]),
        # One entry elects plus, two are tied: plus is the majority's sign. In the second row it is minus.
        ("majority", [[1.0, 2.0, 3.0], [-1.0, 2.0, -3.0]], [1.0, 4.0, 3.0]),
        ("majority", [[1.0, -2.0, 3.0], [-1.0, -2.0, -3.0]], [-1.0, -4.0, -3.0]),
        # As many plus as minus: the authors' comparison then takes what is negative, and so does fusion-bench 0.2.33.
        ("majority", [[1.0, 2.0, -3.0], [-1.0, 2.0, -3.0]], [-1.0, 4.0, -6.0]),
    ],
)
def test_an_exact_tie_elects_what_it_is_told_to(zero_sign, entries, expected):
    assert cancelling(zero_sign, entries) == expected


def test_the_majority_is_of_the_whole_model():
    base = {"a": torch.zeros(1), "b": torch.zeros(3)}
    experts = {
        "x": {"a": torch.tensor([1.0]), "b": torch.tensor([-1.0, -1.0, -1.0])},
        "y": {"a": torch.tensor([-1.0]), "b": torch.tensor([-1.0, -1.0, -1.0])},
    }
    merged = fuse("ties", base, experts, {"density": 1.0, "zero_sign": "majority", "combine": "sum"})
    assert merged["a"].tolist() == [-1.0]


def test_the_largest_of_the_whole_model_may_empty_a_tensor():
    base = {"large": torch.zeros(4), "small": torch.zeros(4)}
    experts = {"x": {"large": torch.tensor([4.0, -3.0, 2.0, 1.0]), "small": torch.full((4,), 0.5)}}
    assert fuse("ties", base, experts, {"density": 0.5})["small"].tolist() == [0.0] * 4
    assert fuse("ties", base, experts, {"density": 0.5})["large"].tolist() == [4.0, -3.0, 2.0, 1.0]
    each = fuse("ties", base, experts, {"density": 0.5, "scope": "tensor"})
    assert (each["large"].tolist(), each["small"].tolist()) == ([4.0, -3.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0])


def test_an_example_is_there_for_each_of_the_first_methods():
    assert {method for method, _, _ in CHOSEN} == set(OURS)
    assert {e.method for e in worked_examples.EXAMPLES} <= set(methods)
