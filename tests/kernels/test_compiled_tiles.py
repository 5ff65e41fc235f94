import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusionbench.kernels.compiled_tiles import STRIP, deltas_of_bf16, weighted_sum
from fusionbench.kernels.tiles import widen


def deltas(raw, base):
    out = np.empty(len(raw), np.float32)
    return deltas_of_bf16(raw, base, out.view(np.uint32), out), out


@given(st.lists(st.tuples(st.integers(0, 2**16 - 1), st.floats(-(2.0**100), 2.0**100, width=32)), max_size=100))
def test_widening_and_subtracting_at_once_equals_one_after_the_other(pairs):
    raw = np.array([pattern for pattern, _ in pairs], np.uint16)
    base = np.array([value for _, value in pairs], np.float32)
    raw[(raw & 0x7F80) == 0x7F80] = 0x3F80
    finite, out = deltas(raw, base)
    expected = np.empty(len(raw), np.float32)
    widen(raw, "BF16", expected)
    with np.errstate(over="ignore"):
        expected -= base
    assert finite
    assert out.tobytes() == expected.tobytes()


@pytest.mark.parametrize("pattern", [0x7F80, 0xFF80, 0x7FC0, 0xFFFF, 0x7F81])
def test_patterns_that_are_no_numbers_are_told(pattern):
    raw = np.full(50, 0x7F7F, np.uint16)
    assert deltas(raw, np.zeros(50, np.float32))[0]
    for place in (0, 31, 49):
        wild = raw.copy()
        wild[place] = pattern
        assert not deltas(wild, np.zeros(50, np.float32))[0]


def test_memory_that_may_not_be_written_or_is_not_aligned_is_read():
    content = b"\0" + np.array([0x3F80, 0x4000, 0xC000], np.uint16).tobytes()
    raw = np.frombuffer(memoryview(content)[1:], np.uint16)
    finite, out = deltas(raw, np.ones(3, np.float32))
    assert finite
    assert out.tolist() == [0.0, 1.0, -3.0]


def test_strips_are_joined_without_a_seam():
    raw = np.random.default_rng(0).integers(0, 0x7F80, 2 * STRIP + 5, dtype=np.uint16)
    base = np.arange(len(raw), dtype=np.float32)
    finite, out = deltas(raw, base)
    assert finite
    assert out.tobytes() == ((raw.astype(np.uint32) << 16).view(np.float32) - base).tobytes()
    raw[STRIP + 1] = 0x7F80
    assert not deltas(raw, base)[0]


@pytest.mark.parametrize("size", [0, 1, STRIP, 2 * STRIP + 5])
@pytest.mark.parametrize("rows", [1, 3])
def test_terms_of_a_weighted_sum_are_rounded_and_added_in_their_order(rows, size):
    inputs = np.random.default_rng(0).standard_normal((rows, size)).astype(np.float32)
    weights = np.array([0.3, -1.7, 0.1][:rows], np.float32)
    expected = inputs[0] * weights[0]
    for row, weight in zip(inputs[1:], weights[1:], strict=True):
        expected = expected + row * weight
    out, before = np.empty(size, np.float32), inputs.copy()
    weighted_sum(out, inputs, weights)
    assert out.tobytes() == expected.tobytes()
    assert inputs.tobytes() == before.tobytes()
