"""Sums in float64 and in one order."""

import numpy as np
import pytest
import torch

from fusionbench.methods._sums import absolute_sum, gram, row_sums, weighted_rows


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("width", [0, 1, 1000, 1024, 1025, 5000])
def test_row_sums_are_the_sums_of_rows_of_any_width(width):
    values = drawn(3, width).double()
    np.testing.assert_allclose(row_sums(values).numpy(), values.numpy().sum(1), rtol=0, atol=1e-11)


def test_inner_products_of_one_row_of_several_blocks():
    vectors = [drawn(1, (1 << 20) + 77) * (i + 1) for i in range(2)]
    wide = np.concatenate([vector.double().numpy() for vector in vectors])
    np.testing.assert_allclose(gram(vectors).numpy()[0], wide @ wide.T, rtol=1e-12)


def test_inner_products_of_many_rows_of_several_blocks():
    vectors = [drawn(2100, 700), drawn(2100, 700).flip(0), drawn(2100, 700).flip(1)]
    wide = np.stack([vector.double().numpy() for vector in vectors], axis=1)
    np.testing.assert_allclose(gram(vectors).numpy(), wide @ wide.transpose(0, 2, 1), atol=1e-10)


def test_no_thread_count_changes_a_bit(threads):
    values = drawn(1, 300_000)
    found = []
    for count in (1, 2, 3):
        threads(count)
        found.append((gram([values, values.flip(1)]), absolute_sum(values)))
    for products, total in found[1:]:
        assert torch.equal(products, found[0][0])
        assert torch.equal(total, found[0][1])


def test_absolute_sum_of_any_shape_is_in_float64():
    assert absolute_sum(torch.tensor(-3.0)).item() == 3
    assert absolute_sum(torch.zeros(0, 4)).item() == 0
    tenth = torch.full(((1 << 20) + 1,), -0.1)
    assert absolute_sum(tenth).item() == pytest.approx(0.1 * ((1 << 20) + 1), rel=2e-8)
    assert absolute_sum(tenth).dtype == torch.float64


def test_rows_are_weighted_by_coefficients_of_their_own():
    one, two = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[10.0, 20.0], [30.0, 40.0]])
    coefficients = torch.tensor([[1.0, 0.5], [0.0, 2.0]], dtype=torch.float64)
    result = weighted_rows([one, two], coefficients)
    assert result.tolist() == [[6, 12], [60, 80]]
    assert result.dtype == torch.float32
