import numpy as np
import pytest

from fusionbench.errors import ConfigError
from fusionbench.report.analysis import overlap

EYE = np.eye(4)


def matrix(*outer: tuple[int, int]) -> np.ndarray:
    """A sum of |row><column|, the first the strongest."""
    return sum((len(outer) - index) * np.outer(EYE[i], EYE[j]) for index, (i, j) in enumerate(outer))


def test_shared_input_directions_count_and_output_directions_do_not(make_pool):
    pool = make_pool(
        {"layers.0.weight": np.zeros((4, 4))},
        a={"layers.0.weight": matrix((0, 0), (1, 1), (2, 2))},
        b={"layers.0.weight": matrix((3, 1), (2, 3), (0, 0))},
    )
    found = overlap(pool, rank=2)
    # a reads inputs 0 and 1, b reads 1 and 3: one of two is shared
    assert found.mean.values == pytest.approx(np.array([[1, 0.5], [0.5, 1]]), abs=1e-9)
    assert found.chance == 0.5
    assert found.matrices == 1


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_it_equals_the_definition_by_singular_vectors(make_pool, shape):
    generator = np.random.default_rng(1)
    deltas = {name: generator.normal(size=shape).astype(np.float32) for name in "ab"}
    pool = make_pool(
        {"layers.0.weight": np.zeros(shape)}, **{name: {"layers.0.weight": d} for name, d in deltas.items()}
    )
    first, second = (np.linalg.svd(delta.astype(np.float64))[2][:3] for delta in deltas.values())
    assert overlap(pool, rank=3).mean.values[0, 1] == pytest.approx(np.sum((first @ second.T) ** 2) / 3, rel=1e-6)


def test_matrices_of_the_conv1d_kind_are_read_the_other_way_round(make_pool):
    base = {"h.0.mlp.c_fc.weight": np.zeros((4, 4))}
    one, two = matrix((0, 0), (1, 1)), matrix((0, 2), (1, 3))
    gpt2 = make_pool(base, {"model_type": "gpt2"}, a={"h.0.mlp.c_fc.weight": one}, b={"h.0.mlp.c_fc.weight": two})
    # (in, out): both read inputs 0 and 1, and write to different outputs
    assert overlap(gpt2, rank=2).mean.values[0, 1] == pytest.approx(1.0)


def test_a_rank_that_no_matrix_has_is_refused(make_pool):
    pool = make_pool({"layers.0.weight": np.zeros((4, 4))}, a={})
    with pytest.raises(ConfigError, match="rank=5"):
        overlap(pool, rank=5)
    with pytest.raises(ConfigError, match="at least one"):
        overlap(pool, rank=0)


def test_an_expert_without_a_delta_overlaps_with_nothing(make_pool):
    pool = make_pool({"layers.0.weight": np.zeros((4, 4))}, a={}, b={"layers.0.weight": matrix((0, 0))})
    assert overlap(pool, rank=1).mean.values.tolist() == [[0, 0], [0, 1]]
