"""Corruptions of images, against the formulas of arXiv:1903.12261 worked out pixel by pixel."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from fusionbench.config.corruptions import CORRUPTIONS
from fusionbench.errors import ConfigError
from fusionbench.tasks.corruptions import corruption, motion_blurred
from fusionbench.tasks.spatter import canny, equalised, spattered
from tiny_clip import noise

NAMES = [f"{of}/{kind}" for of, kinds in CORRUPTIONS.items() for kind in kinds]
GREY = np.full((64, 64, 3), 128, np.uint8)
SOFT = ndimage.gaussian_filter(noise(1, 48)[0].astype(float), (3, 3, 0)).astype(np.uint8)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_depends_on_seed_and_index_alone_and_stays_as_it_was(name):
    image = SOFT.copy()
    first = corruption(name, 2).apply(image, 5)
    assert np.array_equal(image, SOFT)
    assert first.dtype == np.uint8
    assert np.array_equal(first, corruption(name, 2).apply(image, 5))
    random = name.rpartition("/")[2] in ("gaussian_noise", "impulse_noise", "motion_blur", "spatter")
    assert np.array_equal(first, corruption(name, 2).apply(image, 6)) != random
    assert np.array_equal(first, corruption(name, 2, seed=1).apply(image, 5)) != random


@pytest.mark.parametrize("name", [name for name in NAMES if "spatter" not in name])
def test_the_strongest_changes_more_than_the_weakest(name):
    sharp = noise(1, 32 if name.startswith("cifar") else 224)[0]
    changes = [np.abs(corruption(name, level).apply(sharp, 0).astype(float) - sharp).mean() for level in (1, 5)]
    assert 0 < changes[0] < changes[1]


def test_names_without_a_set_are_those_of_cifar_and_wrong_ones_are_refused():
    assert corruption("contrast", 2).label == "cifar10c/contrast/2/0"
    assert corruption("imagenet_c/contrast", 5, 3).label == "imagenet_c/contrast/5/3"
    for wrong in ("motionblur", "imagenet/contrast", "cifar10c/fog"):
        with pytest.raises(ConfigError, match="no corruption"):
            corruption(wrong, 2)


def test_contrast_halves_the_distance_from_each_channels_mean():
    """Channel 0 has 0 and 200: mean 100, so 50 and 150; channel 1 is flat; channel 2 has 20 and 60: 30 and 50."""
    image = np.array([[[0, 7, 20], [200, 7, 60]]], np.uint8)
    found = corruption("contrast", 2).apply(image, 0).astype(int)
    # Values are cut off, so a unit may be lost to rounding.
    assert np.abs(found - [[[50, 7, 30], [150, 7, 50]]]).max() <= 1


@pytest.mark.parametrize(("name", "level", "sigma"), [("", 2, 0.06), ("", 5, 0.10), ("imagenet_c/", 1, 0.08)])
def test_gaussian_noise_has_the_published_deviation(name, level, sigma):
    found = corruption(f"{name}gaussian_noise", level).apply(GREY, 0).astype(float) - 128
    assert found.std() / 255 == pytest.approx(sigma, rel=0.02)
    # Cut off, not rounded: half a unit less in the mean.
    assert found.mean() == pytest.approx(-0.5, abs=3 * 255 * sigma / np.sqrt(GREY.size))


@pytest.mark.parametrize(("name", "level", "amount"), [("", 2, 0.02), ("imagenet_c/", 5, 0.27)])
def test_impulse_noise_strikes_the_published_share_half_black_half_white(name, level, amount):
    found = corruption(f"{name}impulse_noise", level).apply(GREY, 1)
    black, white = (found == 0).mean(), (found == 255).mean()
    error = 4 * np.sqrt(amount / found.size)
    assert black + white == pytest.approx(amount, abs=error)
    assert black == pytest.approx(amount / 2, abs=error)
    assert set(np.unique(found)) == {0, 128, 255}


def test_jpeg_is_pillows_of_the_published_quality():
    buffer = BytesIO()
    Image.fromarray(SOFT).save(buffer, format="JPEG", quality=65)
    assert np.array_equal(corruption("jpeg_compression", 2).apply(SOFT, 0), np.array(Image.open(buffer)))


def test_pixelation_goes_through_the_sets_own_size():
    """64 × 64 at severity 2 of CIFAR: int(32 · 0.9) = 28, then 32; ImageNet's: int(224 · 0.5) = 112, then 224."""
    image = noise(1, 64)[0]
    found = corruption("pixelate", 2).apply(image, 0)
    box = Image.Resampling.BOX
    assert np.array_equal(found, np.array(Image.fromarray(image).resize((28, 28), box).resize((32, 32), box)))
    blocks = corruption("imagenet_c/pixelate", 2).apply(np.repeat(np.repeat(noise(1, 112)[0], 2, 0), 2, 1), 0)
    assert np.array_equal(blocks[::2, ::2], noise(1, 112)[0])


def test_motion_blur_spreads_a_point_along_its_angle_by_a_one_sided_gaussian():
    """At 0° out(x) = Σ k_i in(x + i): a point at 20 shows at 20 − i with k_i ∝ exp(−i²/2σ²), i = 0 … 12."""
    image = np.zeros((41, 41, 3), np.uint8)
    image[20, 20] = 255
    weights = np.exp(-(np.arange(13) ** 2) / (2 * 1.5**2))
    weights = np.rint(255 * weights / weights.sum())
    flat = motion_blurred(image, 6, 1.5, angle=0)
    assert np.array_equal(flat[20, 20 - np.arange(13), 0], weights)
    assert flat[..., 0].sum() == weights.sum()
    # At 45° a step goes ⌈0.7071·i − 0.5⌉ right and down: 0, 1, 1, 2, 3 …, so that steps 1 and 2 fall on one pixel.
    slant = motion_blurred(image, 6, 1.5, angle=45)
    exact = np.exp(-(np.arange(13) ** 2) / (2 * 1.5**2))
    exact *= 255 / exact.sum()
    assert slant[19, 19, 0] == round(exact[1] + exact[2])
    assert slant[18, 18, 0] == round(exact[3])
    # Beyond the edge the nearest pixel counts: a flat image stays flat.
    assert np.array_equal(motion_blurred(GREY, 9, 2.5, angle=-30), GREY)


def test_angles_lie_between_minus_45_and_45_degrees():
    """A point moves left by i·cos and up or down by i·sin: never farther up or down than left."""
    image = np.zeros((41, 41, 3), np.uint8)
    image[20, 20] = 255
    angles = []
    for index in range(40):
        rows, columns = np.nonzero(corruption("motion_blur", 5).apply(image, index)[..., 0])
        assert np.abs(rows - 20).max() <= (20 - columns).max() + 1
        angles.append(rows.mean() - 20)
    assert min(angles) < -1
    assert max(angles) > 1


def test_canny_finds_the_outline_of_a_square_one_pixel_wide():
    """Slope 4·200 on both sides of the step; the first of two equal slopes is not larger than the one before it."""
    image = np.zeros((12, 12), np.uint8)
    image[4:8, 4:8] = 200
    edges = canny(image, 50, 150)
    assert np.flatnonzero(edges[5]).tolist() == [3, 7]
    assert np.flatnonzero(edges[:, 5]).tolist() == [3, 7]
    assert not edges[5:7, 5:7].any()
    # Weak slopes (4·20 = 80, under 150) count only where they touch a strong one.
    assert not canny((image > 0).astype(np.uint8) * 20, 50, 150).any()


def test_a_histogram_is_spread_from_its_lowest_level():
    """Levels 10, 10, 20, 30 of 4 pixels: the lowest has 2, so 20 → 255·(3−2)/2 = 127.5, to even 128, and 30 → 255."""
    assert equalised(np.array([[10, 10], [20, 30]], np.uint8)).tolist() == [[0, 0], [128, 255]]
    assert equalised(np.full((2, 2), 9, np.uint8)).tolist() == [[9, 9], [9, 9]]


def test_mud_covers_where_the_liquid_is_thick_and_water_brightens_and_nothing_changes_where_it_is_dry():
    image = np.full((40, 40, 3), 0.5)
    layer = np.zeros((40, 40))
    layer[10:30, 10:30] = 1.0
    muddy = spattered(image, layer, 0.5, 0.68, 0.6, "mud")
    assert muddy[20, 20] == pytest.approx(np.array([63, 42, 20]) / 255)
    assert np.array_equal(muddy[2, 2], image[2, 2])
    # 0.2 above the threshold at 255 · height = 229, so there are edges, and the brightest point has the whole strength.
    watery = spattered(image, 0.9 * layer, 0.5, 0.7, 0.5, "water") - image
    assert watery.max(axis=(0, 1)) == pytest.approx(0.5 * np.array([175, 238, 238]) / 255)
    assert not watery[:8, :8].any()
    assert np.array_equal(spattered(image, np.zeros((40, 40)), 0.5, 0.7, 0.5, "water"), image)
