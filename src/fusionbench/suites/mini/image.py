"""`mini/image`: a small ResNet with BatchNorm, closed image classification tasks, an expert each, and one of all.

It is built once a size and seed and kept in the cache. What it is and is not: docs/suites-mini-image.md. No torch here
until something is built.
"""

from pathlib import Path

from fusionbench.suites.mini.assembly import built_here, digest_of_file
from fusionbench.suites.mini.image_recipe import NAME, recipes
from fusionbench.suites.model import ResolvedSuite
from fusionbench.suites.registration import Progress, suite

VERSION = 1
"""Raised by whoever changes what the same recipe builds, the images' code included."""
PARTS = "fusionbench.suites.mini.image_parts:PARTS"


@suite(NAME, version=VERSION, method_defaults=recipes()[1])
def mini_image(*, size: str, seed: int, progress: Progress | None) -> ResolvedSuite:
    """Small image tasks with trained heads, and a ResNet with BatchNorm layers trained here; needs no network.

    Args:
        size: "tiny" for tests, "small", or "large".
        seed: of images, weights and batches.
        progress: told how a build goes on.

    Raises:
        ConfigError: where there is no such size.
        Interrupted: on Ctrl-C; what was finished is kept, and the same call goes on.
    """
    inputs = packaged_arrays()
    return built_here(NAME, VERSION, recipes(), PARTS, size=size, seed=seed, progress=progress, inputs=inputs)


def packaged_arrays() -> dict[str, str]:
    """Return a digest of each file of images that comes with the package, by name."""
    arrays = Path(__file__).resolve().parents[1] / "data"
    return {path.name: digest_of_file(path) for path in sorted(arrays.glob("*.npz"))}
