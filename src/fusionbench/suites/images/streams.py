"""Random streams that depend on what they are for, and on nothing else."""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]
"""float32 at run time; the stubs of NumPy widen arithmetic with Python floats."""


def stream(*key: int | str) -> np.random.Generator:
    """A generator of its own for each key, the same in every process and on every machine.

    Args:
        *key: What the numbers are for, e.g. `(seed, "land", "test")`. Another task or split has another key, so none
            can shift the numbers of another.

    Returns:
        A PCG64 generator seeded with 128 bits of BLAKE2b of the key.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big"))


def uniform(rng: np.random.Generator, low: float, high: float, shape: tuple[int, ...]) -> Field:
    """Draw float32 numbers from [low, high)."""
    return rng.random(shape, dtype=np.float32) * np.float32(high - low) + np.float32(low)


def even_draw(count: int, choices: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw indices so that each choice comes equally often (±1), in random order.

    All choices are used once before one is used again: the first `choices` entries are all different.

    Args:
        count: How many indices.
        choices: The indices are in [0, choices).
        rng: Source of the order.

    Returns:
        Indices, shape (count,).
    """
    rounds = np.tile(np.arange(choices, dtype=np.int64), (-(-count // choices), 1))
    return rng.permuted(rounds, axis=1).ravel()[:count]
