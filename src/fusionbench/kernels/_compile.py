"""The compiler of the kernels' inner loops: compiled once a machine, kept in the cache, free of Python's lock."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

from fusionbench.cache import cache_folder

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Return `function` compiled by Numba: strict arithmetic (no fast-math, no parallel loops), lock released."""
    # Site-packages may be read-only, and the cache of one user must not serve another.
    os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_folder("numba")))
    from numba import njit

    result: F = njit(nogil=True, cache=True)(function)
    return result
