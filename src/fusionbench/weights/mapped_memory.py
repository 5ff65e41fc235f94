"""Memory of mapped files: given back when what was read is used, it comes from the file again when asked. No torch."""

import mmap


def give_back(mapped: object, first: int, last: int) -> None:
    """Give back the memory that holds bytes `first` to `last` of a mapping; nothing where it is none, or not Linux."""
    if hasattr(mmap, "MADV_DONTNEED") and isinstance(mapped, mmap.mmap) and last > first:
        start = first // mmap.PAGESIZE * mmap.PAGESIZE
        mapped.madvise(mmap.MADV_DONTNEED, start, last - start)
