"""Ten procedural textures, two tones each."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusionbench.suites.images.splits import FULL_SIZES, SIDE, ImageRecipe, ImageSplit, SplitName
from fusionbench.suites.images.streams import Field, even_draw, uniform
from fusionbench.suites.images.transforms import blur_some, smooth_noise, to_bytes

_LARGEST_TURN = 0.3


@dataclass(frozen=True)
class _Plane:
    """Coordinates of the pixels, for several images at once.

    Attributes:
        across: Turned and shifted coordinate, a period is 1/frequency; (images, 32, 32).
        down: The other axis, likewise.
        frequency: Periods to an image side, 3.5 to 5.5; (images, 1, 1).
        rng: Source of all that a texture draws.
    """

    across: Field
    down: Field
    frequency: Field
    rng: np.random.Generator

    @property
    def count(self) -> int:
        return len(self.across)


def _wave(turns: Field) -> Field:
    """1 in the first half of each turn, 0 in the second."""
    return (turns % 1 < 0.5).astype(np.float32)


def _striped(plane: _Plane) -> Field:
    return _wave(plane.frequency * plane.across)


def _checkered(plane: _Plane) -> Field:
    return (_wave(plane.frequency * plane.across) + _wave(plane.frequency * plane.down)) % 2


def _dotted(plane: _Plane) -> Field:
    x, y = plane.frequency * plane.across % 1 - 0.5, plane.frequency * plane.down % 1 - 0.5
    return (x**2 + y**2 < 0.09).astype(np.float32)


def _brick(plane: _Plane) -> Field:
    course = 1.6 * plane.frequency * plane.down
    along = 0.8 * plane.frequency * plane.across + 0.5 * (np.floor(course) % 2)
    return ((along % 1 >= 0.16) & (course % 1 >= 0.22)).astype(np.float32)


def _zigzag(plane: _Plane) -> Field:
    return _wave(plane.frequency * plane.across + 1.05 * np.abs(0.7 * plane.frequency * plane.down % 1 - 0.5))


def _wavy(plane: _Plane) -> Field:
    turn = 2 * np.pi * plane.frequency
    return 0.5 + 0.5 * np.sin(turn * plane.across + 2.2 * np.sin(0.5 * turn * plane.down))


def _grainy(plane: _Plane) -> Field:
    return uniform(plane.rng, 0, 1, plane.across.shape)


def _marbled(plane: _Plane) -> Field:
    clouds = smooth_noise(plane.count, 4, 1, plane.rng) + 0.5 * smooth_noise(plane.count, 8, 1, plane.rng)
    return 0.5 + 0.5 * np.sin(9 * clouds[..., 0] + 4 * plane.across)


def _cracked(plane: _Plane) -> Field:
    """Borders of the Voronoi cells of 14 points."""
    line = ((np.arange(SIDE) + 0.5) / SIDE - 0.5).astype(np.float32)
    points = uniform(plane.rng, -0.6, 0.6, (plane.count, 14, 2, 1, 1))
    x, y = line[None, :] - points[:, :, 0], line[:, None] - points[:, :, 1]
    nearest = np.partition(np.sqrt(x**2 + y**2), 1, axis=1)
    inside: Field = (nearest[:, 1] - nearest[:, 0] > 0.05).astype(np.float32)
    return inside


def _woven(plane: _Plane) -> Field:
    x, y = plane.frequency * plane.across, plane.frequency * plane.down
    over = (np.floor(x) + np.floor(y)) % 2
    woven: Field = np.where(over == 1, np.abs(np.sin(np.pi * x)), np.abs(np.sin(np.pi * y)))
    return woven


_TEXTURES: dict[str, Callable[[_Plane], Field]] = {
    "striped": _striped,
    "checkered": _checkered,
    "dotted": _dotted,
    "brick": _brick,
    "zigzag": _zigzag,
    "wavy": _wavy,
    "grainy": _grainy,
    "marbled": _marbled,
    "cracked": _cracked,
    "woven": _woven,
}


def _plane(count: int, rng: np.random.Generator) -> _Plane:
    line = ((np.arange(SIDE) + 0.5) / SIDE - 0.5).astype(np.float32)
    x, y = np.meshgrid(line, line)
    angle = uniform(rng, -_LARGEST_TURN, _LARGEST_TURN, (count, 1, 1))
    return _Plane(
        across=x * np.cos(angle) - y * np.sin(angle) + uniform(rng, -1, 1, (count, 1, 1)),
        down=x * np.sin(angle) + y * np.cos(angle) + uniform(rng, -1, 1, (count, 1, 1)),
        frequency=uniform(rng, 3.5, 5.5, (count, 1, 1)),
        rng=rng,
    )


def _draw_images(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.uint8]:
    count = len(labels)
    tone = np.empty((count, SIDE, SIDE, 1), np.float32)
    for label, texture in enumerate(_TEXTURES.values()):
        rows = np.flatnonzero(labels == label)
        tone[rows, :, :, 0] = texture(_plane(len(rows), rng))
    dark = uniform(rng, 0, 0.4, (count, 1, 1, 3))
    bright = np.clip(dark + uniform(rng, 0.3, 0.5, (count, 1, 1, 3)), 0, 1)
    pictures = blur_some(tone * bright + (1 - tone) * dark, 0.3, rng)
    return to_bytes(pictures + 0.15 * (smooth_noise(count, 3, 1, rng) - 0.5), 0.03, rng)


def textures() -> ImageRecipe:
    """Ten textures made by formula, turned by up to 17 degrees, the brighter tone of a pair where the pattern is 1."""

    def draw(_split: SplitName, count: int, rng: np.random.Generator) -> ImageSplit:
        labels = even_draw(count, len(_TEXTURES), rng)
        return ImageSplit(_draw_images(labels, rng), labels)

    return ImageRecipe(
        domain="texture",
        classes=tuple(_TEXTURES),
        draw=draw,
        real=False,
        source="Procedural, made by this package; the splits are independent draws",
        licence="Apache-2.0 (this package)",
        sizes=FULL_SIZES,
    )
