"""The tiny CLIP, and `mini/clip` at its smallest, as fixtures."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusionbench.suites import ResolvedSuite, load_suite
from tiny_clip import cache, clip_folder, other_clip_folder
from tiny_texts import bert_folder, gpt2_folder

__all__ = ["bert_folder", "cache", "clip_folder", "gpt2_folder", "other_clip_folder"]


@pytest.fixture(scope="session")
def tiny_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of the end-to-end tests: one for the session, and for all processes of pytest-xdist."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared-cache"


@pytest.fixture(scope="session")
def tiny(tiny_cache: Path) -> Iterator[ResolvedSuite]:
    """`mini/clip` of size tiny, seed 0, built once; not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSIONBENCH_CACHE", str(tiny_cache))
        yield load_suite("mini/clip", size="tiny", seed=0)
