"""The eight tasks by name."""

from collections.abc import Callable
from difflib import get_close_matches

from fusionbench.errors import ConfigError
from fusionbench.suites.images.artwork import emoji, signs
from fusionbench.suites.images.glyphs import glyphs
from fusionbench.suites.images.land import land
from fusionbench.suites.images.real import digits, fashion, mnist
from fusionbench.suites.images.splits import SPLITS, ImageRecipe, ImageTaskData, SplitName
from fusionbench.suites.images.streams import stream
from fusionbench.suites.images.textures import textures

_RECIPES: dict[str, Callable[[], ImageRecipe]] = {
    "mnist": mnist,
    "digits": digits,
    "fashion": fashion,
    "emoji": emoji,
    "signs": signs,
    "glyphs": glyphs,
    "textures": textures,
    "land": land,
}
TASKS: tuple[str, ...] = tuple(_RECIPES)
"""Names of the tasks, in the order of the suite."""


def make_task(
    name: str, *, seed: int, train: int | None = None, validation: int | None = None, test: int | None = None
) -> ImageTaskData:
    """Make one task: the same arguments give the same bits, whatever else was made before.

    Which source image, scan or font belongs to which split does not depend on the seed; the seed decides looks,
    captures, procedural draws and order. A split depends on its own size alone; a smaller one of the same seed is
    another draw, not a prefix.

    Args:
        name: One of `TASKS`.
        seed: Seed of the draws.
        train: Training images; None is the full size, 4,000 (mnist: 3,500).
        validation: Validation images; None is 500.
        test: Test images; None is 1,000.

    Returns:
        The task. Its arrays are the caller's own.

    Raises:
        ConfigError: No such task, or a size is below 1 or, for mnist and fashion, above the full size.
        MissingExtra: The package that brings the images is not installed.
        MissingData: The installed package lacks the images.
    """
    if name not in _RECIPES:
        close = get_close_matches(name, TASKS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"There is no image task {name!r}.{hint} The image tasks are {', '.join(TASKS)}.")
    recipe = _RECIPES[name]()
    asked: dict[SplitName, int | None] = {"train": train, "validation": validation, "test": test}
    splits = {
        split: recipe.draw(split, _checked_size(name, split, asked[split], recipe), stream(seed, name, split))
        for split in SPLITS
    }
    return ImageTaskData(
        name=name,
        domain=recipe.domain,
        classes=recipe.classes,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        real=recipe.real,
        source=recipe.source,
        licence=recipe.licence,
    )


def _checked_size(name: str, split: SplitName, size: int | None, recipe: ImageRecipe) -> int:
    full = recipe.sizes[split]
    if size is None:
        return full
    if size < 1 or (recipe.bounded and size > full):
        most = f" to {full}, all that the source has" if recipe.bounded else ""
        raise ConfigError(f"{name}: {split}={size} images were asked for. Choose a number from 1{most}.")
    return size
