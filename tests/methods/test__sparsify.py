"""Selection, ranks and draws that the sparsifiers share."""

import numpy as np
import torch
from arrays import tensor

from fusionbench.methods._random import uniform
from fusionbench.methods._sparsify import drawn, largest, norm_ratio, place_of, ranks, rescaled


def test_the_largest_of_each_row_ties_by_index():
    rows = tensor([[1, -3, 3, 2], [0, 0, 0, 0]])
    assert largest(rows, 1).tolist() == [[False, True, False, False], [True, False, False, False]]
    assert largest(rows, 2).tolist() == [[False, True, True, False], [True, True, False, False]]
    assert not largest(rows, 0).any()
    assert largest(rows, 4).all()


def test_the_largest_are_those_of_a_stable_sort():
    values = torch.randint(-4, 5, (6, 50), generator=torch.Generator().manual_seed(0)).float()
    for count in range(51):
        order = np.argsort(-np.abs(values.numpy()), axis=1, kind="stable")[:, :count]
        expected = np.zeros(values.shape, bool)
        np.put_along_axis(expected, order, values=True, axis=1)
        assert largest(values, count).numpy().tolist() == expected.tolist()


def test_ranks_count_from_the_smallest_ties_by_index():
    assert ranks(tensor([[4, -1, 3, 2], [1, 1, 0, -1]])).tolist() == [[3, 0, 2, 1], [1, 2, 0, 3]]
    assert ranks(torch.zeros(2, 0)).shape == (2, 0)
    many = torch.randint(-9, 10, (3, 5000), generator=torch.Generator().manual_seed(0)).float()
    order = np.argsort(np.abs(many.numpy()), axis=1, kind="stable")
    assert ranks(many).numpy().tolist() == np.argsort(order, axis=1).tolist()


def test_ranks_of_many_rows_are_ranks_of_each():
    rows = torch.randn(1100, 1000, generator=torch.Generator().manual_seed(2))
    assert torch.equal(ranks(rows)[1090:], ranks(rows[1090:]))


def test_draws_of_a_large_tensor_are_those_of_its_blocks():
    like = torch.zeros(1025, 1030)
    site = place_of(None, like, [like])
    assert torch.equal(drawn(site, "a", like), uniform(site, "a", like))


def test_rescaling_makes_up_for_what_was_dropped():
    delta, kept = tensor([1, 2, 3, 4]), tensor([1, 0, 3, 0])
    assert rescaled(kept, delta, 0.5, "inverse").tolist() == [2, 0, 6, 0]
    assert rescaled(kept, delta, 0.5, "norm").tolist() == [2.5, 0, 7.5, 0]
    assert rescaled(kept, delta, 0.5, "none").tolist() == [1, 0, 3, 0]


def test_where_nothing_is_left_there_is_nothing_to_rescale():
    zero = torch.zeros((), dtype=torch.float64)
    assert norm_ratio(zero, zero + 5).item() == 1
    assert rescaled(torch.zeros(3), torch.ones(3), 0.5, "norm").tolist() == [0, 0, 0]
