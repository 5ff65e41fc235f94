"""Batched image operations in NumPy: place, blur, paint and capture.

Pictures are float32 in [0, 1], channels last, shape (images, 32, 32, channels), until `to_bytes` makes them uint8.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusionbench.suites.images.splits import SIDE
from fusionbench.suites.images.streams import Field, uniform

_CHUNK = 256


@dataclass(frozen=True)
class Pose:
    """How far `place` may move a picture: each quantity is drawn uniformly and independently for each image.

    Attributes:
        degrees: Largest turn either way.
        scale: Smallest and largest size.
        shift: Largest shift either way, as a share of the side.
        shear: Largest shear either way.
    """

    degrees: float
    scale: tuple[float, float]
    shift: float
    shear: float = 0.1


def upsample(pictures: Field, side: int = SIDE) -> Field:
    """Enlarge square pictures bilinearly, the edge held constant.

    Args:
        pictures: (images, cells, cells, channels).
        side: New height and width.

    Returns:
        (images, side, side, channels).
    """
    count, cells, _, channels = pictures.shape
    centres = np.clip((np.arange(side) + 0.5) * cells / side - 0.5, 0, cells - 1)
    below = np.minimum(np.floor(centres).astype(np.int64), max(cells - 2, 0))
    weights = np.zeros((side, cells), np.float32)
    weights[np.arange(side), below] = 1 - (centres - below)
    weights[np.arange(side), np.minimum(below + 1, cells - 1)] += centres - below
    rows = np.matmul(weights, pictures.reshape(count, cells, cells * channels))
    enlarged: Field = np.matmul(weights, rows.reshape(count, side, cells, channels))
    return enlarged


def smooth_noise(count: int, cells: int, channels: int, rng: np.random.Generator) -> Field:
    """Clouds in [0, 1]: uniform noise on `cells` × `cells`, enlarged to (count, 32, 32, channels)."""
    return upsample(uniform(rng, 0, 1, (count, cells, cells, channels)))


def pad_to_side(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey pictures (images, n, n) in the middle of a black frame, as RGB (images, 32, 32, 3)."""
    before = (SIDE - pictures.shape[1]) // 2
    after = SIDE - pictures.shape[1] - before
    framed = np.pad(pictures, ((0, 0), (before, after), (before, after)))
    return np.repeat(framed[..., None], 3, axis=3)


def place(bank: Field, choice: NDArray[np.int64], pose: Pose, rng: np.random.Generator) -> Field:
    """Turn, scale, shear and shift pictures of a bank; what comes in from outside a picture is zero.

    Args:
        bank: (pictures, height, width, channels).
        choice: Which picture each image shows, shape (images,).
        pose: Bounds of the movement.
        rng: Source of the movement.

    Returns:
        (images, 32, 32, channels), sampled bilinearly.
    """
    angle = np.deg2rad(uniform(rng, -pose.degrees, pose.degrees, choice.shape))
    zoom = 1 / uniform(rng, *pose.scale, choice.shape)
    shear = uniform(rng, -pose.shear, pose.shear, choice.shape)
    shift = uniform(rng, -2 * pose.shift, 2 * pose.shift, (len(choice), 2))
    matrix = np.empty((len(choice), 2, 3), np.float32)
    matrix[:, 0, 0] = matrix[:, 1, 1] = np.cos(angle) * zoom
    matrix[:, 0, 1] = shear - np.sin(angle) * zoom
    matrix[:, 1, 0] = shear + np.sin(angle) * zoom
    matrix[:, :, 2] = shift
    return sample(bank, choice, matrix)


def sample(bank: Field, choice: NDArray[np.int64], matrix: Field) -> Field:
    """Read pictures at affinely mapped coordinates, bilinearly, with zeros outside.

    Coordinates are those of `torch.nn.functional.affine_grid` and `grid_sample` with `align_corners=False`: -1 and 1
    are the outer edges of a picture.

    Args:
        bank: (pictures, height, width, channels).
        choice: Which picture each image reads, shape (images,).
        matrix: From output (x, y, 1) to picture (x, y), shape (images, 2, 3).

    Returns:
        (images, 32, 32, channels).
    """
    framed = np.pad(bank, ((0, 0), (1, 1), (1, 1), (0, 0)))
    read = np.empty((len(choice), SIDE, SIDE, bank.shape[3]), np.float32)
    for start in range(0, len(choice), _CHUNK):
        rows = slice(start, start + _CHUNK)
        read[rows] = _sample_framed(framed, choice[rows], matrix[rows])
    return read


def _sample_framed(framed: Field, choice: NDArray[np.int64], matrix: Field) -> Field:
    """`sample` from pictures that have a frame of one zero pixel, which coordinates outside are clipped to."""
    height, width = framed.shape[1] - 2, framed.shape[2] - 2
    line = ((2 * np.arange(SIDE) + 1) / SIDE - 1).astype(np.float32)
    grid = np.stack([*np.meshgrid(line, line), np.ones((SIDE, SIDE), np.float32)]).reshape(3, -1)
    x, y = np.moveaxis(np.matmul(matrix, grid), 1, 0)
    x = np.clip(((x + 1) * width - 1) / 2, -1, width) + 1
    y = np.clip(((y + 1) * height - 1) / 2, -1, height) + 1
    left, top = np.minimum(x.astype(np.int64), width), np.minimum(y.astype(np.int64), height)
    across, down = (x - left)[..., None], (y - top)[..., None]
    flat = framed.reshape(-1, framed.shape[3])
    corner = (choice[:, None] * framed.shape[1] + top) * framed.shape[2] + left
    upper = flat[corner] * (1 - across) + flat[corner + 1] * across
    corner += framed.shape[2]
    lower = flat[corner] * (1 - across) + flat[corner + 1] * across
    mixed: Field = upper * (1 - down) + lower * down
    return mixed.reshape(len(choice), SIDE, SIDE, -1)


def blur_some(pictures: Field, share: float, rng: np.random.Generator) -> Field:
    """Smooth each picture with probability `share` by the kernel (1, 2, 1)/4 in both directions; edges are repeated."""
    chosen = rng.random(len(pictures)) < share
    framed = np.pad(pictures[chosen], ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows = (framed[:, :-2] + 2 * framed[:, 1:-1] + framed[:, 2:]) / 4
    blurred = pictures.copy()
    blurred[chosen] = (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4
    return blurred


def to_bytes(pictures: Field, noise: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Add Gaussian noise of standard deviation `noise`, clip to [0, 1] and round to 0…255."""
    grainy = rng.standard_normal(pictures.shape, dtype=np.float32)
    grainy *= noise
    grainy += pictures
    np.clip(grainy, 0, 1, out=grainy)
    grainy *= 255
    return np.rint(grainy, out=grainy).astype(np.uint8)


def paint_bright_on_dark(masks: Field, noise: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Colour shapes: a bright colour (.75 to 1 in each channel) over a dark cloudy one (below .35).

    Args:
        masks: (images, 32, 32, 1), 1 where the shape is.
        noise: Standard deviation of the grain.
        rng: Source of colours and grain.

    Returns:
        (images, 32, 32, 3).
    """
    count = len(masks)
    ground = uniform(rng, 0, 1, (count, 1, 1, 3)) + 0.35 * (smooth_noise(count, 4, 3, rng) - 0.5)
    ground = 0.35 * np.clip(ground, 0, 1)
    ink = uniform(rng, 0.75, 1, (count, 1, 1, 3))
    return to_bytes(masks * ink + (1 - masks) * ground, noise, rng)


CAPTURE_POSE = Pose(degrees=18, scale=(0.8, 1.15), shift=0.10)


def capture(artwork: NDArray[np.uint8], choice: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Imitate snapshots of flat artwork: pose, cloudy coloured background, blur, light and grain.

    Args:
        artwork: Straight-alpha RGBA, (designs, height, width, 4).
        choice: The design each image shows, shape (images,).
        rng: Source of everything random.

    Returns:
        (images, 32, 32, 3).
    """
    count = len(choice)
    bank = artwork.astype(np.float32) / 255
    bank[..., :3] *= bank[..., 3:]
    placed = place(bank, choice, CAPTURE_POSE, rng)
    ground = uniform(rng, 0.1, 0.9, (count, 1, 1, 3)) + 0.5 * (smooth_noise(count, 5, 3, rng) - 0.5)
    shown = placed[..., :3] + (1 - placed[..., 3:]) * np.clip(ground, 0, 1)
    light = uniform(rng, 0.5, 1.15, (count, 1, 1, 1))
    return to_bytes(blur_some(shown, 0.5, rng) * light, 0.03, rng)
