"""Fast paths of hot methods on CPU blocks, without torch; each equals its method's torch function bit for bit.

A kernel is a primitive that several methods share. It sees float32 blocks; the engine widens what it reads and narrows
what it writes (`tiles`).
"""

from collections.abc import Callable, Container, Iterator
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

Block = np.ndarray[Any, np.dtype[np.float32]]
Place = tuple[str, int]
"""A tensor, and the flat index of the first entry at hand."""
State = dict[Any, Any]
Visit = Callable[[State, Place, Block], None]
"""What a first pass does with one tile: adds what it finds to a state. The block is `(experts, entries)`."""


class Scan(Protocol):
    """One more pass over all inputs, in threads: visits every tile, one state for some neighbours, yielded in order."""

    def __call__(self, visit: Visit, *, among: Container[str] | None = None) -> Iterator[State]:
        """Visit the tiles; where names are given, tensors that are not `among` them may be left out."""
        ...


class PartialScan(Scan, Protocol):
    """A scan that can also be a sample."""

    def __call__(
        self, visit: Visit, *, among: Container[str] | None = None, most: int | None = None
    ) -> Iterator[State]:
        """Visit the heads of the tiles, at `most` about so many entries of a model, or the tiles as `Scan` does.

        Where memory has no room for such a sample, nothing is visited.
        """
        ...


class Kernel(NamedTuple):
    """The torch-free form of a method.

    Attributes:
        apply: `(out, base, inputs, place, prepared, **parameters)`: fills `out` `(entries,)` from `base` `(entries,)`
            and `inputs` `(experts, entries)`, all float32; inputs may be overwritten.
        takes: whether `inputs` holds the experts' values, their deltas to the base, or all models' values, the base's
            first where there is one.
        prepare: `(scan, at, **parameters)`: a first look at the whole model, with each tensor's own parameters in `at`;
            what it returns comes back as `prepared`.
        serves: `(parameters) -> bool`: whether the kernel covers these values; else the torch function runs.
        compiled: whether it needs the compiler; then reading is compiled too.
        sited: whether `apply` is given the tensor's `site`.
        rows: whether tiles hold whole rows, one an output; such a kernel is not for matrices with the inputs first.
        whole: `(parameters) -> bool`: whether each tensor is ranked by itself: its first passes then see whole blocks,
            so that most tensors are at hand at once.
        apart: `(parameters) -> bool`: whether what its first passes find of a tensor depends on that tensor alone;
            where not, their states hold whole numbers, which several processes may count and add up in any order.
        check: `(experts, based)`: refuses a number of experts, with or without a base, that the method cannot take.
        direct: `(out, bits, place, prepared, **parameters) -> bool`: as `apply`, but straight from the bits of files of
            one kind (`compiled_tiles.Bits`; the base's first where deltas are taken), so that the entries of all
            models stay in the processor's cache. Tells whether all are finite; where not, `apply` runs and says which.
        state: `(experts) -> bytes`: what one state of its first passes takes at most, beside a few numbers a tile.
    """

    apply: Callable[..., None]
    takes: Literal["deltas", "values", "models"]
    prepare: Callable[..., Any] | None = None
    serves: Callable[[dict[str, Any]], bool] = lambda _: True
    compiled: bool = False
    sited: bool = False
    rows: bool = False
    whole: Callable[[dict[str, Any]], bool] = lambda _: False
    apart: Callable[[dict[str, Any]], bool] = lambda _: True
    state: Callable[[int], int] = lambda _: 0
    check: Callable[[int, bool], None] = lambda _, __: None
    direct: Callable[..., bool] | None = None
