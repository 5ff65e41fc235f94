"""Where the random numbers of one tensor of one expert begin; kernels and torch functions count on from there."""

import hashlib


def stream_key(seed: int, tensor: str, expert: str) -> int:
    """Return the 64-bit start of the stream of one tensor of one expert."""
    digest = hashlib.sha256(f"{seed}\0{tensor}\0{expert}".encode()).digest()
    return int.from_bytes(digest[:8], "little")
