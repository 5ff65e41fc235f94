"""Each kernel gives the bits of its method's torch function."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from values import rows

from fusionbench.errors import ConfigError
from fusionbench.kernels.combine import ADD_DELTAS, AVERAGE, WEIGHTED_AVERAGE, divisor
from fusionbench.kernels.compiled_tiles import bits_of
from fusionbench.methods.averages import simple_average, weighted_average
from fusionbench.methods.task_arithmetic import task_arithmetic

factors = st.floats(-3, 3, allow_nan=False).filter(lambda weight: abs(weight) > 1e-3)


def arrays(lists):
    base, *experts = (np.array(row, np.float32) for row in lists)
    return base, np.stack(experts)


def bits(result) -> bytes:
    return np.ascontiguousarray(result).tobytes()


def run(kernel, base, inputs, **parameters):
    out = np.full(len(base), np.nan, np.float32)
    kernel.apply(out, base, inputs.copy(), ("t", 0), None, **parameters)
    if kernel.takes == "values":
        direct = np.full(len(base), np.nan, np.float32)
        assert kernel.direct(direct, bits_of(inputs, "F32"), ("t", 0), None, **parameters)
        assert bits(direct) == bits(out)
    return out


@given(rows())
def test_the_average_equals_torch(lists):
    base, experts = arrays(lists)
    assert bits(run(AVERAGE, base, experts)) == bits(simple_average([torch.from_numpy(e) for e in experts]).numpy())


@given(rows(), st.data(), st.booleans())
def test_the_weighted_average_equals_torch(lists, data, normalize):
    base, experts = arrays(lists)
    weights = tuple(data.draw(st.lists(factors, min_size=len(experts), max_size=len(experts))))
    if abs(sum(weights)) < 1e-3:
        weights = (1.0,) * len(experts)
    parameters = {"weights": weights, "normalize": normalize, "relative_to_base": False}
    expected = weighted_average(None, [torch.from_numpy(e) for e in experts], **parameters)
    assert bits(run(WEIGHTED_AVERAGE, base, experts, **parameters)) == bits(expected.numpy())


@given(rows(), st.data(), factors | st.just(0.0))
def test_deltas_are_added_as_torch_adds_them(lists, data, scale):
    base, experts = arrays(lists)
    weights = tuple(data.draw(st.lists(factors | st.just(0.0), min_size=len(experts), max_size=len(experts))))
    expected = task_arithmetic(
        torch.from_numpy(base), [torch.from_numpy(e) for e in experts], weights=weights, scale=scale
    )
    assert bits(run(ADD_DELTAS, base, experts - base, weights=weights, scale=scale)) == bits(expected.numpy())


def test_the_kernel_of_the_weighted_average_serves_where_no_base_is_read():
    assert WEIGHTED_AVERAGE.serves({"relative_to_base": False})
    assert not WEIGHTED_AVERAGE.serves({"relative_to_base": True})


@pytest.mark.parametrize("weights", [(1.0, -1.0), (0.0,), (0.1, 0.2, -0.3)])
def test_weights_that_sum_to_nothing_divide_nothing(weights):
    with pytest.raises(ConfigError, match=r"method\.weights sum to .*normalize=false"):
        divisor(weights)
    assert divisor((2.0, -0.5)) == 1.5
