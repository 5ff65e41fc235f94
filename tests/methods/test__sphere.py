"""Coefficients of arcs and means, from inner products."""

import math

import pytest
import torch

from fusionbench.methods._sphere import arc, frechet_mean, mean_direction


def products(*vectors):
    wide = torch.tensor(vectors, dtype=torch.float64)
    return (wide @ wide.T).unsqueeze(0)


def test_arcs_of_several_rows_are_taken_row_by_row():
    both = torch.cat([products([1, 0], [0, 3]), products([1, 0], [2, 0])])
    found = arc(both, 1 / 3)
    assert found[0].tolist() == pytest.approx([math.sin(math.pi / 3), 0.5])
    assert found[1].tolist() == pytest.approx([2 / 3, 1 / 3])


def test_the_ends_of_an_arc_are_exact():
    assert arc(products([1, 2], [-2, 3]), 0.0).tolist() == [[1, 0]]
    assert arc(products([1, 2], [-2, 3]), 1.0).tolist() == [[0, 1]]


def test_nearly_opposite_vectors_are_joined_by_a_line():
    assert arc(products([1, 0], [-1, 0.001]), 0.25).tolist() == [[0.75, 0.25]]


def test_directions_that_cancel_but_for_rounding_have_no_mean():
    shares = torch.tensor([0.5, 0.5], dtype=torch.float64)
    assert mean_direction(products([1, 0], [-3, 1e-6]), shares).tolist() == [[0.5, 0.5]]


def test_beyond_the_ends_the_arc_goes_on():
    first, second = arc(products([1, 0], [0, 1]), 1.5).squeeze(0).tolist()
    assert (first, second) == pytest.approx((-math.sqrt(0.5), math.sqrt(0.5)))


def test_the_mean_direction_does_not_depend_on_norms_but_the_norm_does():
    shares = torch.tensor([0.5, 0.5], dtype=torch.float64)
    coefficients = mean_direction(products([1, 0], [0, 3]), shares).squeeze(0)
    assert (coefficients * torch.tensor([1.0, 3.0])).tolist() == pytest.approx([math.sqrt(2), math.sqrt(2)])


def test_equal_directions_are_their_own_frechet_mean():
    shares = torch.tensor([0.25, 0.75], dtype=torch.float64)
    found = frechet_mean(products([1, 1], [3, 3]), shares, max_iterations=10, tolerance=1e-9).squeeze(0)
    assert (found[0] + 3 * found[1]).item() == pytest.approx(0.25 + 0.75 * 3)


def test_where_all_weight_is_on_a_zero_vector_the_weighted_sum_is_taken():
    shares = torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert frechet_mean(products([0, 0], [1, 2]), shares, max_iterations=3, tolerance=1e-9).tolist() == [[1, 0]]
