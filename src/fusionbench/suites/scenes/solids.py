"""Where rays meet planes, boxes, balls and columns; the nearest meeting is kept with its normal."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
FAR = 1e6
NEAR = 1e-4


@dataclass(frozen=True, slots=True)
class Rays:
    """Rays from one place.

    Attributes:
        place: `(3,)`.
        way: `(h, w, 3)`; a ray is place + t·way, t > 0.
    """

    place: Floats
    way: Floats


@dataclass(frozen=True, slots=True)
class Seen:
    """What each ray meets first; filled in place by the solids.

    Attributes:
        distance: `(h, w)`, t of the meeting.
        normal: `(h, w, 3)`, of the surface there, outwards.
        kind: `(h, w)`, class of the thing.
        thing: `(h, w)`, its number in the scene.
    """

    distance: Floats
    normal: Floats
    kind: NDArray[np.int8]
    thing: NDArray[np.int8]

    @classmethod
    def nothing(cls, rays: Rays) -> Self:
        """Return a view of emptiness."""
        shape = rays.way.shape[:2]
        return cls(np.full(shape, FAR), np.zeros((*shape, 3)), np.full(shape, -1, np.int8), np.full(shape, -1, np.int8))

    def keep(self, distance: Floats, normal: Floats, *, kind: int, thing: int) -> None:
        """Take over the meetings that are nearer than what was seen so far."""
        nearer = (distance > NEAR) & (distance < self.distance)
        self.distance[nearer] = distance[nearer]
        self.normal[nearer] = normal[nearer]
        self.kind[nearer] = kind
        self.thing[nearer] = thing


def panel(seen: Seen, rays: Rays, axis: int, offset: float, facing: int, *, kind: int, thing: int) -> None:
    """Add an endless plane across an axis; `facing` is the sign of its normal along it."""
    along = rays.way[..., axis]
    distance = np.where(along * facing < 0, (offset - rays.place[axis]) / np.where(along == 0, 1, along), FAR)
    normal = np.zeros_like(rays.way)
    normal[..., axis] = facing
    seen.keep(distance, normal, kind=kind, thing=thing)


def ball(seen: Seen, rays: Rays, centre: Floats, radius: float, *, kind: int, thing: int) -> None:
    """Add a sphere."""
    distance = _nearer_root(rays.way, rays.place - centre, radius)
    normal = (rays.place + distance[..., None] * rays.way - centre) / radius
    seen.keep(distance, normal, kind=kind, thing=thing)


def column(seen: Seen, rays: Rays, centre: Floats, radius: float, high: float, *, kind: int, thing: int) -> None:
    """Add an upright cylinder on the floor, `centre` being its first and third coordinate, with a lid."""
    flat = rays.way[..., [0, 2]]
    distance = _nearer_root(flat, rays.place[[0, 2]] - centre, radius)
    at = rays.place + distance[..., None] * rays.way
    within = (at[..., 1] >= 0) & (at[..., 1] <= high)
    normal = np.zeros_like(rays.way)
    normal[..., [0, 2]] = (at[..., [0, 2]] - centre) / radius
    seen.keep(np.where(within, distance, FAR), normal, kind=kind, thing=thing)
    along = rays.way[..., 1]
    lid = np.where(along < 0, (high - rays.place[1]) / np.where(along == 0, 1, along), FAR)
    away = rays.place[[0, 2]] + lid[..., None] * flat - centre
    lid = np.where((away**2).sum(-1) <= radius**2, lid, FAR)
    up = np.zeros_like(rays.way)
    up[..., 1] = 1
    seen.keep(lid, up, kind=kind, thing=thing)


def box(seen: Seen, rays: Rays, corner: Floats, extent: Floats, *, kind: int, thing: int) -> None:
    """Add a box along the axes (the slab method)."""
    way = np.where(rays.way == 0, 1e-9, rays.way)
    to = np.stack([(corner - rays.place) / way, (corner + extent - rays.place) / way])
    enter, leave = to.min(0), to.max(0)
    axis = enter.argmax(-1)
    distance = enter.max(-1)
    met = distance <= leave.min(-1)
    normal = np.zeros_like(rays.way)
    np.put_along_axis(normal, axis[..., None], -np.sign(np.take_along_axis(way, axis[..., None], -1)), -1)
    seen.keep(np.where(met, distance, FAR), normal, kind=kind, thing=thing)


def _nearer_root(way: Floats, start: Floats, radius: float) -> Floats:
    """Return the smaller t of |start + t·way| = radius, or FAR."""
    a = (way**2).sum(-1)
    b = way @ start
    inside = b**2 - a * ((start**2).sum() - radius**2)
    return np.where(inside >= 0, (-b - np.sqrt(np.maximum(inside, 0))) / np.maximum(a, 1e-12), FAR)
