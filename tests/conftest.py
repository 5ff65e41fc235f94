"""What every test runs under: no network, one thread, the same examples each time."""

import os

# Both are read when the library that obeys them is imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "repeatable",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("repeatable")


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Make the engine's tiles and blocks so small that small tensors are cut: `small_tiles(tile, block)`."""
    from fusionbench.kernels import passes, tiles
    from fusionbench.weights import arrays, engine, jobs

    def resize(tile: int, block: int) -> None:
        for module in (arrays, engine, jobs, tiles, passes):
            monkeypatch.setattr(module, "BLOCK", block)
        for module in (arrays, tiles, passes):
            monkeypatch.setattr(module, "TILE", tile)

    return resize
