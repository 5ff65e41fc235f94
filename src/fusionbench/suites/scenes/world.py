"""Rooms with furniture of spheres, boxes and cylinders: drawn at random, seen by a ray caster."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusionbench.suites.images.streams import stream
from fusionbench.suites.scenes.shading import sense, shade
from fusionbench.suites.scenes.solids import Rays, Seen, ball, box, column, panel

CLASSES = ("floor", "ceiling", "wall", "box", "ball", "column", "picture")
MISSES = 0.06
"""Share of pixels, in patches, of which the imitated sensor knows no depth."""
FIELD = 0.75
"""Tangent of half the horizontal angle of view."""
Floats = NDArray[np.float32]


class Scenes(NamedTuple):
    """Images and what is seen at each of their pixels.

    Attributes:
        images: `(scenes, h, w, 3)`, uint8.
        segmentation: `(scenes, h, w)`, int8: index in `CLASSES`; −1 at the edges of things, where nobody labels.
        depth: `(scenes, h, w)`, float16, metres along the camera's axis; 0 where the sensor missed.
        normals: `(scenes, h, w, 3)`, float16, unit vectors of the surface in the camera's axes (right, down, away), so
            that they look back at the camera; all zero where the sensor missed.
    """

    images: NDArray[np.uint8]
    segmentation: NDArray[np.int8]
    depth: NDArray[np.float16]
    normals: NDArray[np.float16]


def make_scenes(split: str, count: int, *, seed: int, height: int = 48, width: int = 64) -> Scenes:
    """Draw scenes: the same arguments give the same bits, and a scene does not depend on how many there are.

    Args:
        split: name of the split, part of the stream's key.
        count: how many, at least 1.
        seed: of everything.
        height: of the images, in pixels.
        width: of the images, in pixels.
    """
    views = [_view(stream(seed, "scenes", split, number), height, width) for number in range(count)]
    return Scenes(*(np.stack(parts) for parts in zip(*views, strict=True)))


def _view(
    rng: np.random.Generator, height: int, width: int
) -> tuple[NDArray[np.uint8], NDArray[np.int8], NDArray[np.float16], NDArray[np.float16]]:
    rays, turn = _camera(rng, height, width)
    seen = _room(rng, rays)
    image = sense(shade(seen, rays, rng), rng)
    # Rays have length 1 along the camera's axis before they are turned, so that the parameter is the depth.
    depth = np.minimum(seen.distance, 20.0).astype(np.float32)
    normals = seen.normal @ turn
    missed = _missed(rng, height, width)
    labels = np.where(_edges(seen.thing), -1, seen.kind).astype(np.int8)
    return (
        image,
        labels,
        np.where(missed, 0, depth).astype(np.float16),
        np.where(missed[..., None], 0, normals).astype(np.float16),
    )


def _camera(rng: np.random.Generator, height: int, width: int) -> tuple[Rays, Floats]:
    """Return the rays of a camera in a room, and its turn: columns are the camera's axes in the room."""
    yaw, pitch = rng.uniform(-0.6, 0.6), rng.uniform(-0.05, 0.3)
    right = np.array([np.cos(yaw), 0, -np.sin(yaw)])
    away = np.array([np.sin(yaw) * np.cos(pitch), -np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
    down = np.cross(right, away)
    turn = np.stack([right, down, away], axis=1).astype(np.float32)
    across = (np.arange(width, dtype=np.float32) + 0.5) / width * 2 - 1
    along = ((np.arange(height, dtype=np.float32) + 0.5) / height * 2 - 1) * height / width
    grid = np.stack([*np.meshgrid(across * FIELD, along * FIELD), np.ones((height, width))], axis=-1)
    place = np.array([rng.uniform(-0.6, 0.6), rng.uniform(1.2, 1.8), -rng.uniform(2.0, 3.0)])
    return Rays(place.astype(np.float32), (grid.astype(np.float32) @ turn.T).astype(np.float32)), turn


def _room(rng: np.random.Generator, rays: Rays) -> Seen:
    """Return what the camera sees of a room of random size with three to eight things in it; up is the second axis."""
    half, high, deep = rng.uniform(2.0, 3.2), rng.uniform(2.3, 3.2), rng.uniform(2.0, 4.5)
    seen = Seen.nothing(rays)
    floor, ceiling, wall = (CLASSES.index(name) for name in ("floor", "ceiling", "wall"))
    for number, (axis, offset, facing, kind) in enumerate(
        [(1, 0.0, 1, floor), (1, high, -1, ceiling), (2, deep, -1, wall), (0, -half, 1, wall), (0, half, -1, wall)]
    ):
        panel(seen, rays, axis, offset, facing, kind=kind, thing=number)
    for number in range(5, 5 + int(rng.integers(3, 9))):
        _furnish(rng, rays, seen, number, half, high, deep)
    return seen


def _furnish(
    rng: np.random.Generator, rays: Rays, seen: Seen, number: int, half: float, high: float, deep: float
) -> None:
    """Put one thing into the room: a box, a ball or a column on the floor, or a picture on the far wall."""
    name = CLASSES[3 + int(rng.integers(0, 4))]
    kind, size = CLASSES.index(name), rng.uniform(0.3, 0.8)
    x, z = rng.uniform(-half + size, half - size), rng.uniform(-0.7, deep - size)
    if name == "ball":
        ball(seen, rays, np.array([x, size, z]), size, kind=kind, thing=number)
    elif name == "column":
        column(seen, rays, np.array([x, z]), 0.5 * size, rng.uniform(0.6, high), kind=kind, thing=number)
    elif name == "box":
        extent = np.array([1.5 * size, rng.uniform(0.4, 1.7), rng.uniform(0.3, 0.9)])
        box(seen, rays, np.array([x - size, 0, z - 0.3]), extent, kind=kind, thing=number)
    else:
        y = rng.uniform(0.9, max(high - 0.9, 1.0))
        extent = np.array([2 * size, size, 0.03])
        box(seen, rays, np.array([x - size, y, deep - 0.03]), extent, kind=kind, thing=number)


def _edges(thing: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Return where a pixel belongs to another thing than the one to its right or below it."""
    edge = np.zeros(thing.shape, bool)
    edge[:, :-1] |= thing[:, :-1] != thing[:, 1:]
    edge[:-1] |= thing[:-1] != thing[1:]
    return edge


def _missed(rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
    """Return patches of 4 × 4 pixels that the sensor did not measure."""
    patches = rng.random((-(-height // 4), -(-width // 4))) < MISSES
    return np.repeat(np.repeat(patches, 4, axis=0), 4, axis=1)[:height, :width]
