"""`mini/clip`: a small CLIP, eight image tasks, eight experts, and one model trained on all of them.

It is built once a size and seed and kept in the cache. What it is and is not: docs/suites-mini-clip.md. No torch here
until something is built.
"""

from pathlib import Path

from fusionbench.suites.mini.assembly import built_here, digest_of_file
from fusionbench.suites.mini.recipe import NAME, recipes
from fusionbench.suites.model import ResolvedSuite
from fusionbench.suites.registration import Progress, suite

VERSION = 1
"""Raised by whoever changes what the same recipe builds, the images' code included."""
PARTS = "fusionbench.suites.mini.clip_parts:PARTS"


@suite(NAME, version=VERSION, method_defaults=recipes()[1])
def mini_clip(*, size: str, seed: int, progress: Progress | None) -> ResolvedSuite:
    """Eight small image tasks, real and rendered, and a CLIP of two towers trained here; needs no network.

    Args:
        size: "tiny" for tests, "small", or "large".
        seed: of images, captions, weights and batches.
        progress: told how a build goes on.

    Raises:
        ConfigError: where there is no such size.
        Interrupted: on Ctrl-C; what was finished is kept, and the same call goes on.
    """
    arrays = Path(__file__).resolve().parents[1] / "data"
    inputs = {path.name: digest_of_file(path) for path in sorted(arrays.glob("*.npz"))}
    return built_here(NAME, VERSION, recipes(), PARTS, size=size, seed=seed, progress=progress, inputs=inputs)
