"""Random numbers that are functions of names and places, so that no order, chunk, thread or device can change them."""

import torch
from torch import Tensor

from fusionbench.kernels.streams import stream_key
from fusionbench.weights.plan import Site

_MASK = (1 << 64) - 1


def uniform(site: Site, expert: str, like: Tensor) -> Tensor:
    """Return numbers in [0, 1), of `like`'s shape and device, float32 with 24 random bits.

    Each is SplitMix64 of (seed and method, tensor, expert, flat index): the i-th entry from `site.start` on.
    """
    count = like.numel()
    index = torch.arange(site.start, site.start + count, dtype=torch.int64, device=like.device)
    state = index * _signed(0x9E3779B97F4A7C15) + _signed(stream_key(site.seed, site.name, expert))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ _shifted(state, shift)) * _signed(factor)
    state = state ^ _shifted(state, 31)
    return (_shifted(state, 40).to(torch.float32) * 2.0**-24).view(like.shape)


def _signed(number: int) -> int:
    """Return the signed 64-bit integer with the same bits; torch's products wrap as unsigned ones would."""
    number &= _MASK
    return number - (1 << 64) if number >> 63 else number


def _shifted(state: Tensor, bits: int) -> Tensor:
    """Shift right without the sign."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)
