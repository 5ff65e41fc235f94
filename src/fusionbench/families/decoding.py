"""Writing a text token by token, the most probable one each time."""

from collections.abc import Callable

import torch
from torch import Tensor


def greedy(following: Callable[[Tensor], Tensor], first: Tensor, tokens: int, *, end: int, pad: int) -> Tensor:
    """Return what greedy decoding writes after `first`.

    Args:
        following: from all tokens so far, `(examples, positions)`, to the next one's logits, `(examples, vocabulary)`.
        first: `(examples, 1 or more)`, int64; not part of the result.
        tokens: the most that are written.
        end: the token that ends a text.
        pad: what stands after it.

    Returns:
        `(examples, n)` int64 with n ≤ `tokens`: it stops when every text has ended.
    """
    written = first
    ended = torch.zeros(len(first), dtype=torch.bool, device=first.device)
    for _ in range(tokens):
        chosen = following(written).argmax(dim=-1).to(first.device).masked_fill(ended, pad)
        written = torch.cat([written, chosen[:, None]], dim=1)
        ended |= chosen == end
        if bool(ended.all()):
            break
    return written[:, first.shape[1] :]
