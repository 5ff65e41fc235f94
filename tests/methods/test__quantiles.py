import numpy as np
import pytest

from fusionbench.errors import ConfigError
from fusionbench.methods._quantiles import one_for_all, order_statistics, rank_above, rank_below

NUMBERS = np.array([[3.5, -1.0, 0.0, -0.25, 3.5, 1e-40], [-7.0, -7.0, -6.5, -1e30, 2.0, 2.000001]], np.float32)


@pytest.mark.parametrize("width", [1, 4, 6])
def test_every_rank_is_what_sorting_finds_whatever_the_blocks(width):
    def read():
        return (NUMBERS[:, start : start + width] for start in range(0, 6, width))

    found = order_statistics(read, lambda size: range(size))
    np.testing.assert_array_equal(found, np.sort(NUMBERS, axis=1))


def test_ranks_are_asked_for_when_the_size_is_known():
    found = order_statistics(lambda: iter([NUMBERS, NUMBERS]), lambda size: (size - 1,))
    np.testing.assert_array_equal(found, NUMBERS[:, [4, 5]].diagonal()[:, None])


def test_order_statistics_take_two_passes():
    passes = []

    def read():
        passes.append(1)
        return iter([NUMBERS])

    order_statistics(read, lambda _: (0, 5))
    assert len(passes) == 2


def test_a_stream_without_entries_has_zeros():
    assert order_statistics(lambda: iter([np.zeros((2, 0), np.float32)]), lambda _: (0, 1)).shape == (2, 2)
    assert order_statistics(lambda: iter([]), lambda _: (0, 1)).shape == (0, 2)


def test_ranks_of_shares_are_not_those_of_binary_fractions():
    assert 0.29 * 100 < 29
    assert rank_below(0.29, 100) == 29
    assert (1 - 0.9) * 10 < 1
    assert rank_above(0.9, 10) == 1
    assert rank_above(0.71, 100) == 29
    assert rank_below(1.0, 5) == 4
    assert rank_above(1.0, 5) == 0
    assert rank_above(0.0, 5) == 5


def test_a_value_that_differs_between_tensors_is_refused():
    assert one_for_all({"a": {"density": 0.2}, "b": {"density": 0.2}}, "density") == 0.2
    with pytest.raises(ConfigError, match=r"method\.density is 0\.2, 0\.3 in different tensors"):
        one_for_all({"a": {"density": 0.2}, "b": {"density": 0.3}}, "density")
