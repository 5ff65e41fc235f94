"""Corruptions of images and how strong they are: the parameters of two published sets. No torch here."""

from collections.abc import Mapping
from typing import Any

from fusionbench.errors import ConfigError
from fusionbench.registry import suggestion

VERSION = 1
"""Raised by whoever changes what the same corruption makes of an image; a part of the identity of runs that see it."""
CIFAR, IMAGENET = "cifar10c", "imagenet_c"
CORRUPTIONS: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    CIFAR: {
        "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
        "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
        "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
        "jpeg_compression": (80, 65, 58, 50, 40),
        "motion_blur": ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5)),
        "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
        "spatter": (
            (0.62, 0.1, 0.7, 0.7, 0.5, "water"),
            (0.65, 0.1, 0.8, 0.7, 0.5, "water"),
            (0.65, 0.3, 1.0, 0.69, 0.5, "water"),
            (0.65, 0.1, 0.7, 0.69, 0.6, "mud"),
            (0.65, 0.1, 0.5, 0.68, 0.6, "mud"),
        ),
    },
    IMAGENET: {
        "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
        "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
        "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
        "jpeg_compression": (25, 18, 15, 10, 7),
        "motion_blur": ((10, 3.0), (15, 5.0), (15, 8.0), (15, 12.0), (20, 15.0)),
        "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
        "spatter": (
            (0.65, 0.3, 4.0, 0.69, 0.6, "water"),
            (0.65, 0.3, 3.0, 0.68, 0.6, "water"),
            (0.65, 0.3, 2.0, 0.68, 0.5, "water"),
            (0.65, 0.3, 1.0, 0.65, 1.5, "mud"),
            (0.67, 0.4, 1.0, 0.65, 1.5, "mud"),
        ),
    },
}
"""By set and corruption, the parameters of severities 1 to 5 (arXiv:1903.12261 and its authors' code).

Standard deviation of the noise and share of struck entries, of values in [0, 1]; what is left of the contrast; quality
of JPEG; radius and standard deviation of the blur in pixels; share of the side that pixelation leaves; of the spatter
mean, standard deviation, blur, threshold, strength (for mud: blur of its edge) and liquid.
"""
SIDES: Mapping[str, int] = {CIFAR: 32, IMAGENET: 224}
"""Height and width of the images that a set was made for; pixelation goes through it."""
PUBLISHED_SEVERITY = 2
"""Of the corrupted splits that were published with the papers' data sets (arXiv:2406.03280)."""


def parse_corruption(name: str) -> tuple[str, str]:
    """Return set and corruption of a name: `motion_blur` is that of CIFAR-10-C, else `imagenet_c/motion_blur`.

    Raises:
        ConfigError: where there is none of that name, with the nearest.
    """
    first, slash, last = name.rpartition("/")
    of, kind = (first if slash else CIFAR), last
    if kind not in CORRUPTIONS.get(of, {}):
        known = [*CORRUPTIONS[CIFAR], *(f"{IMAGENET}/{kind}" for kind in CORRUPTIONS[IMAGENET])]
        raise ConfigError(f"There is no corruption {name!r}. {suggestion(name, known)}")
    return of, kind
