import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from fusionbench.kernels.tiles import BLOCK, LIMITS, TILE, WIDENED, fits, is_finite, narrow, widen

TORCH = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
patterns = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=200)
# Halfway between two bfloat16, just above and below it, the largest numbers, the smallest, both zeros.
EDGES = [0x3F808000, 0x3F808001, 0x3F807FFF, 0x3F818000, 0x7F7F7FFF, 0xFF7F0000, 1, 0x80000001, 0, 0x80000000, 0x8000]


def numbers(bits: list[int]) -> np.ndarray:
    values = np.array(bits, np.uint32).view(np.float32)
    return values[np.isfinite(values)]


def narrowed(values: np.ndarray, dtype: str) -> np.ndarray:
    out = np.empty(len(values), {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}[dtype])
    narrow(values.copy(), dtype, out, np.empty(len(values), np.uint32))
    return out


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_every_narrow_number_is_widened_exactly(dtype):
    raw = np.arange(2**16, dtype=np.uint16)
    expected = torch.from_numpy(raw.view(np.int16).copy()).view(TORCH[dtype]).float().numpy()
    out = np.empty(2**16, np.float32)
    widen(raw if dtype == "BF16" else raw.view(np.float16), dtype, out)
    same = out.view(np.uint32) == expected.view(np.uint32)
    assert bool((same | np.isnan(expected)).all())
    assert bool(np.isnan(out[np.isnan(expected)]).all())


@pytest.mark.parametrize("dtype", sorted(WIDENED))
@given(bits=patterns)
@example(bits=EDGES)
def test_narrowing_rounds_as_torch_does(dtype, bits):
    values = numbers(bits)
    assume(len(values) > 0)
    expected = torch.tensor(values).to(TORCH[dtype])
    assert narrowed(values, dtype).tobytes() == bytes(expected.view(torch.uint8).numpy())


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_what_was_widened_is_narrowed_to_itself(dtype):
    raw = np.arange(2**16, dtype=np.uint16)
    raw = raw[torch.from_numpy(raw.view(np.int16).copy()).view(TORCH[dtype]).isfinite().numpy()]
    wide = np.empty(len(raw), np.float32)
    widen(raw if dtype == "BF16" else raw.view(np.float16), dtype, wide)
    assert np.array_equal(narrowed(wide, dtype).view(np.uint16), raw)


@pytest.mark.parametrize("dtype", sorted(WIDENED))
@given(bits=patterns)
@example(bits=[0x477FEFFF])
@example(bits=[0x477FF000])
@example(bits=[0xC77FF000])
@example(bits=[0x7F7F7FFF])
@example(bits=[0x7F7F8000])
@example(bits=[0xFF7F8000])
@example(bits=[0x7FC00000])
@example(bits=[0xFF800000])
def test_numbers_fit_where_torch_casts_them_to_numbers(dtype, bits):
    values = np.array(bits, np.uint32).view(np.float32)
    cast = torch.from_numpy(values.copy()).to(TORCH[dtype])
    assert fits(values, dtype) == bool(torch.isfinite(cast).all())


def test_a_float16_overflows_half_a_step_above_the_largest():
    assert LIMITS["F16"] == 65504 + 32 / 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1, 98, 99])
def test_an_entry_that_is_not_finite_is_found_anywhere(value, place):
    values = np.zeros(100, np.float32)
    values[place] = value
    assert not is_finite(values)


def test_large_numbers_are_finite_although_their_sum_is_not():
    assert is_finite(np.full(10, 3e38, np.float32))
    assert is_finite(np.empty(0, np.float32))


def test_a_block_is_whole_tiles():
    assert BLOCK % TILE == 0
    assert BLOCK == 2**20
