"""Corruptions of images after Hendrycks and Dietterich (arXiv:1903.12261), a pure function of seed and example.

They follow the published formulas, with NumPy, SciPy and Pillow in place of ImageMagick, OpenCV and scikit-image, and
with noise of our own seeds: images are alike, not equal bit by bit, to those of published corrupted splits.
"""

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from io import BytesIO
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusionbench.config.corruptions import CORRUPTIONS, SIDES, parse_corruption
from fusionbench.tasks.base import Task
from fusionbench.tasks.data import Corruption
from fusionbench.tasks.spatter import spattered

Pixels = NDArray[np.uint8]
Values = NDArray[np.float64]
ANGLE = 45.0
"""Largest angle of a motion, in degrees, to either side of the horizontal."""


def corruption(name: str, severity: int, seed: int = 0) -> Corruption:
    """Return a corruption of images `(height, width, 3)`.

    Args:
        name: `motion_blur`, …, with the parameters made for CIFAR-10-C, or `imagenet_c/motion_blur`, ….
        severity: 1 to 5.
        seed: of its random choices, which also depend on the example's index and on nothing else.

    Raises:
        ConfigError: where there is none of that name.
    """
    of, kind = parse_corruption(name)
    parameter = CORRUPTIONS[of][kind][severity - 1]
    if kind == "pixelate":
        parameter = (parameter, SIDES[of])

    def apply(image: Pixels, index: int) -> Pixels:
        return _CHANGES[kind](image, parameter, partial(_generator, seed, index))

    return Corruption(f"{of}/{kind}/{severity}/{seed}", apply)


@runtime_checkable
class Corruptible(Protocol):
    """A task whose inputs can be changed."""

    def corrupted(self, change: Corruption) -> Task:
        """Return the task with changed images, but for those of training."""
        ...


def _generator(seed: int, index: int, purpose: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed} {index} {purpose}".encode()).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(digest[:16], "little")))


Draw = Callable[[str], np.random.Generator]
Change = Callable[[Pixels, Any, Draw], Pixels]


def _unit(image: Pixels) -> Values:
    return image.astype(np.float64) / 255


def _bytes(values: Values) -> Pixels:
    """Return values in [0, 1], clipped to it, as bytes; cut off like the authors' cast, not rounded."""
    return (np.clip(values, 0, 1) * 255).astype(np.uint8)


def _gaussian_noise(image: Pixels, deviation: float, draw: Draw) -> Pixels:
    return _bytes(_unit(image) + draw("noise").normal(scale=deviation, size=image.shape))


def _impulse_noise(image: Pixels, amount: float, draw: Draw) -> Pixels:
    """Set a share of the entries, channel by channel, to 0 or 255, each as probable."""
    struck = draw("where").random(image.shape) <= amount
    salt = draw("salt").random(image.shape) <= 0.5
    return np.where(struck, np.where(salt, 255, 0), image).astype(np.uint8)


def _contrast(image: Pixels, kept: float, draw: Draw) -> Pixels:  # noqa: ARG001
    values = _unit(image)
    mean = values.mean(axis=(0, 1), keepdims=True)
    return _bytes((values - mean) * kept + mean)


def _jpeg_compression(image: Pixels, quality: int, draw: Draw) -> Pixels:  # noqa: ARG001
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def _pixelate(image: Pixels, parameter: tuple[float, int], draw: Draw) -> Pixels:  # noqa: ARG001
    """Return an image of the set's own side, whatever the given size: for CIFAR-10-C 32, as the papers' splits are."""
    share, side = parameter
    small = int(side * share)
    box = Image.Resampling.BOX
    return np.asarray(Image.fromarray(image).resize((small, small), box).resize((side, side), box))


def _motion_blur(image: Pixels, parameter: tuple[int, float], draw: Draw) -> Pixels:
    angle = draw("angle").uniform(-ANGLE, ANGLE)
    return motion_blurred(image, *parameter, angle=angle)


def motion_blurred(image: Pixels, radius: int, deviation: float, *, angle: float) -> Pixels:
    """Return an image as of a camera that moved, as ImageMagick's `motion_blur` makes it.

    out(p) = Σ_i k_i · in(p + i·(cos angle, sin angle), rounded), with k_i ∝ exp(−i² / 2σ²) for i = 0 … 2·radius; beyond
    the edge the nearest pixel counts.

    Args:
        image: `(height, width, 3)`.
        radius: in pixels.
        deviation: σ, in pixels.
        angle: in degrees; positive points down.
    """
    steps = np.arange(2 * radius + 1)
    kernel = np.exp(-(steps**2) / (2 * deviation**2))
    kernel /= kernel.sum()
    turn = np.deg2rad(angle)
    across, down = (np.ceil(steps * part - 0.5).astype(int) for part in (np.cos(turn), np.sin(turn)))
    rows, columns = np.arange(image.shape[0]), np.arange(image.shape[1])
    total = np.zeros(image.shape)
    for weight, right, below in zip(kernel, across, down, strict=True):
        row = np.clip(rows + below, 0, image.shape[0] - 1)
        total += weight * image[row][:, np.clip(columns + right, 0, image.shape[1] - 1)]
    return np.rint(total).astype(np.uint8)


def _spatter(image: Pixels, parameter: tuple[float, float, float, float, float, str], draw: Draw) -> Pixels:
    mean, deviation, blur, threshold, strength, liquid = parameter
    layer = draw("liquid").normal(mean, deviation, size=image.shape[:2])
    return _bytes(spattered(_unit(image), layer, blur, threshold, strength, liquid))


_CHANGES: Mapping[str, Change] = {
    "contrast": _contrast,
    "gaussian_noise": _gaussian_noise,
    "impulse_noise": _impulse_noise,
    "jpeg_compression": _jpeg_compression,
    "motion_blur": _motion_blur,
    "pixelate": _pixelate,
    "spatter": _spatter,
}
