import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusionbench.kernels.compiled_tiles import STRIP, bits_of, read_deltas, read_values, weighted_sum, write_bf16
from fusionbench.kernels.tiles import fits, narrow, widen


def deltas(raw, base):
    out = np.empty((1, len(raw)), np.float32)
    return read_deltas([raw], "BF16", base, out), out[0]


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


def test_memory_that_may_not_be_written_is_read_and_what_is_not_aligned_is_left_to_others():
    content = b"\0\0" + np.array([0x3F80, 0x4000, 0xC000], np.uint16).tobytes()
    raw = np.frombuffer(memoryview(content)[2:], np.uint16)
    done, out = deltas(raw, np.ones(3, np.float32))
    assert done
    assert out.tolist() == [0.0, 1.0, -3.0]
    assert not deltas(np.frombuffer(memoryview(content)[1:-1], np.uint16), np.ones(3, np.float32))[0]


def test_each_model_has_its_row_whatever_the_distance_of_rows():
    raws = [np.array([1, 2, 3], np.float32), np.array([4, 5, 6], np.float32)]
    out = np.zeros((2, 5), np.float32)
    assert read_deltas(raws, "F32", np.array([1, 1, 2], np.float32), out[:, 1:4])
    assert out.tolist() == [[0, 0, 1, 1, 0], [0, 3, 4, 4, 0]]
    raws[1][2] = np.inf
    assert not read_deltas(raws, "F32", np.array([1, 1, 2], np.float32), out[:, 1:4])


def test_kinds_without_a_compiled_form_are_left_to_others():
    assert not read_deltas([np.zeros(3)], "F64", np.zeros(3, np.float32), np.zeros((1, 3), np.float32))
    assert not read_values([np.zeros(3)], "F64", np.zeros((1, 3), np.float32))


def test_every_half_is_read_as_numpy_reads_it():
    raw = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = raw[np.isfinite(raw)]
    out = np.empty((2, len(finite)), np.float32)
    assert read_values([finite, finite[::-1].copy()], "F16", out)
    assert out[0].tobytes() == finite.astype(np.float32).tobytes()
    assert out[1].tobytes() == finite[::-1].astype(np.float32).tobytes()
    base = np.linspace(-3, 3, len(finite), dtype=np.float32)
    assert read_deltas([finite], "F16", base, out[:1])
    assert out[0].tobytes() == (finite.astype(np.float32) - base).tobytes()


@pytest.mark.parametrize("pattern", [0x7C00, 0xFC00, 0x7C01, 0xFFFF])
def test_halves_that_are_no_numbers_are_told(pattern):
    raw = np.array([1, pattern, 2], np.uint16).view(np.float16)
    assert not read_values([raw], "F16", np.empty((1, 3), np.float32))
    assert not read_deltas([raw], "F16", np.zeros(3, np.float32), np.empty((1, 3), np.float32))


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


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_values_are_widened_and_what_is_no_number_is_told(dtype):
    kind = {"BF16": np.uint16, "F32": np.float32}[dtype]
    raws = [np.random.default_rng(seed).integers(0, 0x7F00, 2 * STRIP + 5).astype(kind) for seed in (0, 1)]
    out, expected = np.empty((2, len(raws[0])), np.float32), np.empty((2, len(raws[0])), np.float32)
    assert read_values(raws, dtype, out)
    for raw, row in zip(raws, expected, strict=True):
        widen(raw, dtype, row)
    assert out.tobytes() == expected.tobytes()
    raws[1][STRIP + 1] = 0x7F80 if dtype == "BF16" else np.nan
    assert not read_values(raws, dtype, out)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
def test_rounding_to_bfloat16_is_that_of_the_plain_form(patterns):
    values = np.array(patterns, np.uint32).view(np.float32)
    out, expected = np.empty(len(values), np.uint16), np.empty(len(values), np.uint16)
    good = write_bf16(values, out)
    with np.errstate(invalid="ignore", over="ignore"):
        assert good == fits(values, "BF16")
        narrow(values.copy(), "BF16", expected, np.empty(len(values), np.uint32))
    if good:
        assert out.tolist() == expected.tolist()


def test_the_largest_numbers_round_to_infinity_and_are_told():
    largest = np.array([0x7F7F7FFF, 0xFF7F7FFF], np.uint32).view(np.float32)
    assert write_bf16(largest, np.empty(2, np.uint16))
    for pattern in (0x7F7F8000, 0xFF7F8000, 0x7FFFFFFF, 0x7F800000):
        assert not write_bf16(np.array([1, pattern], np.uint32).view(np.float32), np.empty(2, np.uint16))


def test_what_a_kernel_will_read_lives_as_long_as_the_addresses_of_it():
    """As of a source that makes its numbers when it is asked, and hands them over."""
    made = np.arange(8, dtype=np.uint16)
    alive = weakref.ref(made)
    bits = bits_of([made], "BF16")
    del made
    assert bits is not None
    assert alive() is not None
    del bits
    assert alive() is None
