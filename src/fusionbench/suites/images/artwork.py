"""Tasks of flat artwork under an imitated camera: twenty emoji and twenty road signs."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fusionbench.suites.images.arrays import load_arrays
from fusionbench.suites.images.splits import FULL_SIZES, ImageRecipe, ImageSplit, SplitName
from fusionbench.suites.images.streams import even_draw
from fusionbench.suites.images.transforms import capture

EMOJI_DOMAIN = "emoji"
SIGNS_DOMAIN = "road sign"


def _recipe(name: Literal["emoji", "signs"], domain: str, source: str, licence: str) -> ImageRecipe:
    arrays = load_arrays(name)
    designs = arrays["class_images"]

    def draw(_split: SplitName, count: int, rng: np.random.Generator) -> ImageSplit:
        labels = even_draw(count, len(designs), rng)
        return ImageSplit(capture(designs, labels, rng), labels)

    return ImageRecipe(
        domain=domain,
        classes=tuple(str(word) for word in arrays["class_names"]),
        draw=draw,
        real=False,
        source=source,
        licence=licence,
        sizes=FULL_SIZES,
    )


def emoji() -> ImageRecipe:
    """Twenty Noto emoji, one design a class, each image a new imitated snapshot."""
    return _recipe(
        "emoji",
        EMOJI_DOMAIN,
        "Noto emoji from the npm package emoji-datasource-google, imitated snapshots; the splits share the designs "
        "and differ in the captures",
        "Apache-2.0, © Google",
    )


def signs() -> ImageRecipe:
    """Twenty road signs of several countries, one design a class, each image a new imitated snapshot."""
    return _recipe(
        "signs",
        SIGNS_DOMAIN,
        "Road sign drawings from the npm package @rapideditor/mapillary_sprite_source, imitated snapshots; the splits "
        "share the designs and differ in the captures",
        "MIT, © 2015 mapillary",
    )


def capture_others(
    name: Literal["emoji", "signs"], count: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], list[str]]:
    """Snapshots of designs that belong to no class, with their names; each design once before one comes again.

    Returns:
        Images (count, 32, 32, 3) and as many names.
    """
    arrays = load_arrays(name)
    choice = even_draw(count, len(arrays["other_images"]), rng)
    return capture(arrays["other_images"], choice, rng), [str(word) for word in arrays["other_names"][choice]]
