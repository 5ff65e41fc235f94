"""Where things that can be made again are kept: built suites, prepared data, compiled kernels. No torch here."""

import os
from pathlib import Path


def cache_folder(*parts: str) -> Path:
    """Return a folder under `$FUSIONBENCH_CACHE` (default `~/.cache/fusionbench`); it is made where it is missing."""
    root = os.environ.get("FUSIONBENCH_CACHE")
    folder = Path(root).expanduser() if root else Path.home() / ".cache" / "fusionbench"
    folder = folder.joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
