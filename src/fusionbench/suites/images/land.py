"""Ten procedural kinds of land seen from above."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusionbench.suites.images.splits import FULL_SIZES, SIDE, ImageRecipe, ImageSplit, SplitName
from fusionbench.suites.images.streams import Field, even_draw, uniform
from fusionbench.suites.images.transforms import blur_some, smooth_noise, to_bytes

_FULL_TURN = 2 * np.pi


@dataclass(frozen=True)
class _Ground:
    """A piece of ground, for several images at once.

    Attributes:
        across: Coordinate in [-.71, .71], turned by a random angle; (images, 32, 32).
        down: The other axis, likewise.
        colour: Base colour, (images, 3).
        rng: Source of all that a kind of land draws.
    """

    across: Field
    down: Field
    colour: Field
    rng: np.random.Generator

    @property
    def count(self) -> int:
        return len(self.across)

    def draw(self, low: float, high: float) -> Field:
        """One number an image, (images, 1, 1)."""
        return uniform(self.rng, low, high, (self.count, 1, 1))

    def clouds(self, cells: int) -> Field:
        """Smooth noise, (images, 32, 32)."""
        return smooth_noise(self.count, cells, 1, self.rng)[..., 0]


_Layer = tuple[NDArray[np.bool_] | Field, Field]
"""What lies on the ground: where (images, 32, 32), 0 to 1, and in which colour, (images, 3) or (3,)."""


def _rgb(red: int, green: int, blue: int) -> Field:
    return np.array([red, green, blue], np.float32) / 255


def _river(ground: _Ground) -> _Layer:
    bend = ground.draw(0.08, 0.2) * np.sin(ground.down * ground.draw(4, 9) + ground.draw(0, _FULL_TURN))
    return np.abs(ground.across + bend + ground.draw(-0.2, 0.2)) < ground.draw(0.05, 0.11), _rgb(50, 70, 105)


def _highway(ground: _Ground) -> _Layer:
    return np.abs(ground.across + ground.draw(-0.25, 0.25)) < ground.draw(0.04, 0.08), _rgb(150, 150, 155)


def _residential(ground: _Ground) -> _Layer:
    blocks = ground.draw(5, 8)
    return (blocks * ground.across % 1 < 0.55) & (blocks * ground.down % 1 < 0.55), _rgb(170, 110, 95)


def _industrial(ground: _Ground) -> _Layer:
    halls = np.zeros(ground.across.shape, np.bool_)
    for _ in range(3):
        long = np.abs(ground.across - ground.draw(-0.4, 0.4)) < ground.draw(0.1, 0.2)
        halls |= long & (np.abs(ground.down - ground.draw(-0.4, 0.4)) < ground.draw(0.06, 0.16))
    return halls, _rgb(205, 205, 210)


def _forest(ground: _Ground) -> _Layer:
    return ground.clouds(16) > 0.55, 0.55 * ground.colour


def _annual_crop(ground: _Ground) -> _Layer:
    """Large fields: broad strips, some of them cut across."""
    width = ground.draw(0.2, 0.45)
    strips, cuts = np.floor((ground.across + 1) / width) % 2, np.floor((ground.down + 1) / width) % 2
    return strips * (0.5 + 0.5 * cuts), ground.colour + uniform(ground.rng, -0.2, 0.2, ground.colour.shape)


def _permanent_crop(ground: _Ground) -> _Layer:
    """Rows of trees."""
    return np.sin(_FULL_TURN * ground.draw(6, 10) * ground.across) > 0.2, _rgb(55, 85, 45)


def _pasture(ground: _Ground) -> _Layer:
    return ground.clouds(3), ground.colour + 0.12


def _water(ground: _Ground) -> _Layer:
    phase = ground.draw(0, _FULL_TURN)
    return 0.5 + 0.5 * np.sin(25 * ground.across + phase + 3 * ground.clouds(3)), ground.colour + 0.06


def _desert(ground: _Ground) -> _Layer:
    return 0.5 + 0.5 * np.sin(12 * ground.across + 8 * ground.clouds(4)), ground.colour + 0.1


_KINDS: dict[str, tuple[Field, Callable[[_Ground], _Layer]]] = {
    "river": (_rgb(80, 110, 60), _river),
    "highway": (_rgb(105, 115, 75), _highway),
    "residential area": (_rgb(110, 120, 85), _residential),
    "industrial buildings": (_rgb(120, 115, 105), _industrial),
    "forest": (_rgb(40, 75, 40), _forest),
    "annual crop": (_rgb(150, 130, 80), _annual_crop),
    "permanent crop": (_rgb(110, 105, 65), _permanent_crop),
    "pasture": (_rgb(100, 140, 70), _pasture),
    "sea lake": (_rgb(35, 60, 95), _water),
    "desert": (_rgb(185, 160, 115), _desert),
}


def _ground(colour: Field, rng: np.random.Generator) -> _Ground:
    line = ((np.arange(SIDE) + 0.5) / SIDE - 0.5).astype(np.float32)
    x, y = np.meshgrid(line, line)
    angle = uniform(rng, 0, _FULL_TURN, (len(colour), 1, 1))
    return _Ground(x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle), colour, rng)


def _base_colours(labels: NDArray[np.int64], rng: np.random.Generator) -> Field:
    """The kind's own colour, a little of another kind's, and some scatter: colour alone does not tell the kind."""
    palette = np.stack([colour for colour, _ in _KINDS.values()])
    other = palette[rng.integers(0, len(palette), len(labels))]
    scatter = 0.05 * rng.standard_normal((len(labels), 3), dtype=np.float32)
    mixed: Field = 0.8 * palette[labels] + 0.12 * other + 0.032 + scatter
    return mixed


def _draw_images(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.uint8]:
    count = len(labels)
    colours = _base_colours(labels, rng)
    pictures = np.empty((count, SIDE, SIDE, 3), np.float32)
    for label, (_, kind) in enumerate(_KINDS.values()):
        rows = np.flatnonzero(labels == label)
        ground = _ground(colours[rows], rng)
        where, colour = kind(ground)
        cover = where.astype(np.float32)[..., None]
        below, above = (np.broadcast_to(c, (len(rows), 3))[:, None, None, :] for c in (ground.colour, colour))
        pictures[rows] = below * (1 - cover) + above * cover
    pictures = blur_some(pictures, 0.5, rng)
    pictures += 0.16 * (smooth_noise(count, 8, 1, rng) - 0.5) + 0.12 * (smooth_noise(count, 3, 3, rng) - 0.5)
    return to_bytes(pictures * uniform(rng, 0.65, 1.25, (count, 1, 1, 1)), 0.03, rng)


def land() -> ImageRecipe:
    """Ten kinds of land made by formula, at any angle, in mixed colours and under varying light."""

    def draw(_split: SplitName, count: int, rng: np.random.Generator) -> ImageSplit:
        labels = even_draw(count, len(_KINDS), rng)
        return ImageSplit(_draw_images(labels, rng), labels)

    return ImageRecipe(
        domain="land view",
        classes=tuple(_KINDS),
        draw=draw,
        real=False,
        source="Procedural, made by this package; the splits are independent draws",
        licence="Apache-2.0 (this package)",
        sizes=FULL_SIZES,
    )
