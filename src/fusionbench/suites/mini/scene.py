"""`mini/scene`: a small dilated ResNet; segmentation, depth and normals of ray-cast rooms, an expert each, one of all.

It is built once a size and seed and kept in the cache. What it is and is not: docs/suites-mini-scene.md. No torch here
until something is built.
"""

from fusionbench.suites.mini.assembly import built_here
from fusionbench.suites.mini.image import packaged_arrays
from fusionbench.suites.mini.scene_recipe import NAME, recipes
from fusionbench.suites.model import ResolvedSuite
from fusionbench.suites.registration import Progress, suite

VERSION = 1
"""Raised by whoever changes what the same recipe builds, the code of scenes and images included."""
PARTS = "fusionbench.suites.mini.scene_parts:PARTS"


@suite(NAME, version=VERSION, method_defaults=recipes()[1])
def mini_scene(*, size: str, seed: int, progress: Progress | None) -> ResolvedSuite:
    """Segmentation, depth and normals of ray-cast rooms, and a dilated ResNet trained here; needs no network.

    Args:
        size: "tiny" for tests, "small", or "large".
        seed: of scenes, images, weights and batches.
        progress: told how a build goes on.

    Raises:
        ConfigError: where there is no such size.
        Interrupted: on Ctrl-C; what was finished is kept, and the same call goes on.
    """
    inputs = packaged_arrays()
    return built_here(NAME, VERSION, recipes(), PARTS, size=size, seed=seed, progress=progress, inputs=inputs)
