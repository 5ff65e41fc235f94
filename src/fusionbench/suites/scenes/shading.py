"""Colours of what is seen: each thing a colour and a pattern of its own, a lamp, and an imitated camera."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusionbench.suites.scenes.solids import Rays, Seen

Floats = NDArray[np.floating[Any]]
NOISE = 0.03
"""Deviation of the camera's noise, for values of 0 to 1."""


def shade(seen: Seen, rays: Rays, rng: np.random.Generator) -> Floats:
    """Return colours `(h, w, 3)` in [0, 1]: diffuse light of one lamp over a random colour and pattern a thing.

    Colours say little of the class: any thing may have any colour, so that form and place have to be seen.
    """
    at = rays.place + seen.distance[..., None] * rays.way
    things = int(seen.thing.max()) + 1
    colours, others = rng.uniform(0.15, 0.95, (2, things, 3))
    period, style = rng.uniform(0.15, 0.6, things), rng.integers(0, 3, things)
    number = np.maximum(seen.thing, 0)
    pattern = _pattern(at, period[number], style[number])
    colour = colours[number] + 0.5 * pattern[..., None] * (others[number] - colours[number])
    lamp = np.array([rng.uniform(-1.5, 1.5), rng.uniform(1.8, 2.4), rng.uniform(-2.0, 1.0)])
    to_lamp = lamp - at
    length = np.sqrt((to_lamp**2).sum(-1))
    facing = np.maximum((to_lamp * seen.normal).sum(-1) / np.maximum(length, 1e-6), 0)
    light: Floats = 0.35 + 0.75 * facing / (1 + 0.08 * length**2)
    lit: Floats = np.clip(colour * light[..., None], 0, 1)
    return lit


def sense(colours: Floats, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return what a camera of random exposure and tint makes of colours: bytes, with noise."""
    gain = rng.uniform(0.75, 1.15) * rng.uniform(0.9, 1.1, 3)
    noisy = colours * gain + rng.normal(0, NOISE, colours.shape)
    return (np.clip(noisy, 0, 1) * 255 + 0.5).astype(np.uint8)


def _pattern(at: Floats, period: Floats, style: NDArray[np.int64]) -> Floats:
    """Return 0 or 1: plain, stripes, or checks in space."""
    cells = np.floor(at / period[..., None]).astype(np.int64)
    stripes, checks = cells[..., 0] % 2, cells.sum(-1) % 2
    found = np.select([style == 1, style == 2], [stripes, checks], 0)
    drawn: Floats = found.astype(np.float64)
    return drawn
