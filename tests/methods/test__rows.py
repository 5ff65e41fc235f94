"""Tensors as rows and back."""

import pytest
import torch

from fusionbench.methods._rows import along, back_along, back_per_output, input_axis, per_output, whole
from fusionbench.weights.plan import Site

CONV1D = Site("h.0.attn.c_attn.weight", (2, 3), 0, "matrix", False, "", 0, 1, (), 0)
MATRIX = torch.arange(6.0).reshape(2, 3)


def test_a_row_of_a_matrix_holds_one_outputs_weights():
    assert per_output(MATRIX, None).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert per_output(MATRIX, CONV1D).tolist() == [[0, 3], [1, 4], [2, 5]]


def test_a_convolutions_row_is_a_whole_filter_and_a_vector_is_one_row():
    assert per_output(torch.zeros(4, 3, 2, 2), None).shape == (4, 12)
    assert per_output(torch.zeros(4, 3, 2, 2), CONV1D).shape == (4, 12)
    assert per_output(torch.zeros(5), None).shape == (1, 5)
    assert whole(torch.zeros(())).shape == (1, 1)


def test_lines_run_along_their_axis():
    assert along(MATRIX, 1).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert along(MATRIX, 0).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert (input_axis(MATRIX, None), input_axis(MATRIX, CONV1D)) == (1, 0)
    assert input_axis(torch.zeros(4, 3, 2, 2), None) == 3


@pytest.mark.parametrize("shape", [(2, 3), (4, 3, 2, 5), (0, 3), (3, 0), (1, 1)])
def test_back_is_where_it_came_from(shape):
    tensor = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    for axis in range(len(shape)):
        assert torch.equal(back_along(along(tensor, axis), shape, axis), tensor)
    for site in (None, CONV1D):
        assert torch.equal(back_per_output(per_output(tensor, site), shape, site), tensor)
