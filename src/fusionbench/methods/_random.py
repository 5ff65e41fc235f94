"""Random numbers that are functions of names and places, so that no order, chunk, thread or device can change them."""

import torch
from torch import Tensor

from fusionbench.kernels.streams import stream_key
from fusionbench.weights.plan import Site

WORD = (1 << 32) - 1


def uniform(site: Site, expert: str, like: Tensor) -> Tensor:
    """Return numbers in [0, 1), of `like`'s shape and device, float32 with 24 random bits.

    Each is a hash of (seed, tensor, expert) and its flat index, from `site.start` on: the steps of Chris Wellons's
    `triple32` on the index's lower half plus the key's, with the upper halves added on the way.
    """
    key = stream_key(site.seed, site.name, expert)
    index = torch.arange(site.start, site.start + like.numel(), dtype=torch.int64, device=like.device)
    low, high = (index + (key & WORD)) & WORD, index >> 32
    state = _product(low ^ (low >> 17), 0xED5AD4BB)
    state = _product((state ^ (state >> 11)) + (key >> 32) + _product(high, 0x9E3779B9) & WORD, 0xAC4C1B51)
    state = _product(state ^ (state >> 15), 0x31848BAB)
    return ((state ^ (state >> 14)) >> 8).to(torch.float32).mul_(2.0**-24).view(like.shape)


def _product(words: Tensor, factor: int) -> Tensor:
    """Return the lower 32 bits of products; they fit, since a product of two words wraps in its upper bits only."""
    return (words * factor) & WORD
