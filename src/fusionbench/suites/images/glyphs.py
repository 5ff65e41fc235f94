"""The letters A to J in 120 display fonts."""

import numpy as np

from fusionbench.suites.images.arrays import load_arrays
from fusionbench.suites.images.splits import FULL_SIZES, ImageRecipe, ImageSplit, SplitName, partition
from fusionbench.suites.images.streams import even_draw
from fusionbench.suites.images.transforms import Pose, paint_bright_on_dark, place

_FONTS: dict[SplitName, int] = {"train": 83, "validation": 12, "test": 25}
_POSE = Pose(degrees=4, scale=(0.95, 1.05), shift=0.025)


def glyphs() -> ImageRecipe:
    """Letters of the most regular Ænigma fonts, bright on dark; no font family is in two splits."""
    shapes = load_arrays("glyphs")["images"]
    fonts, letters, side, _ = shapes.shape
    parts = partition("glyphs", fonts, _FONTS)
    bank = np.pad(shapes.reshape(-1, side, side, 1), ((0, 0), (2, 2), (2, 2), (0, 0))).astype(np.float32) / 255

    def draw(split: SplitName, count: int, rng: np.random.Generator) -> ImageSplit:
        looks = even_draw(count, len(parts[split]) * letters, rng)
        font, labels = np.divmod(looks, letters)
        masks = place(bank, parts[split][font] * letters + labels, _POSE, rng)
        return ImageSplit(paint_bright_on_dark(masks, 0.03, rng), labels)

    return ImageRecipe(
        domain="letter",
        classes=tuple("abcdefghij"),
        draw=draw,
        real=False,
        source="Letters of the 120 most regular font families of Debian's fonts-aenigma, coloured here; 83 / 12 / 25 "
        "families to train / validation / test, several looks at each letter",
        licence="Fonts by Brian Kent (aenigmafonts.com): free to redistribute and change with attribution",
        sizes=FULL_SIZES,
    )
