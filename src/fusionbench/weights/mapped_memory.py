"""When the system moves pages of files: mapped ones are given back after use, written ones sent off early. No torch."""

import ctypes
import mmap
from functools import cache
from typing import Any

SEND_OFF = 2
"""`SYNC_FILE_RANGE_WRITE` of Linux: begin to write dirty pages, wait for none."""


def give_back(mapped: object, first: int, last: int) -> None:
    """Give back the memory that holds bytes `first` to `last` of a mapping; nothing where it is none, or not Linux."""
    if hasattr(mmap, "MADV_DONTNEED") and isinstance(mapped, mmap.mmap) and last > first:
        start = first // mmap.PAGESIZE * mmap.PAGESIZE
        mapped.madvise(mmap.MADV_DONTNEED, start, last - start)


def begin_writing_back(descriptor: int, start: int, count: int) -> None:
    """Let the system begin to put bytes of a file on disk; nothing where it is not Linux.

    That is no sync: what goes wrong is told by the sync that must follow.
    """
    send_off = _sync_file_range()
    if send_off is not None:
        send_off(descriptor, start, count, SEND_OFF)


@cache
def _sync_file_range() -> Any:
    found = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if found is not None:
        found.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return found
