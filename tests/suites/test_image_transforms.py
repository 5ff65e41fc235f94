import numpy as np
import pytest
import torch

from fusionbench.suites.images.streams import stream
from fusionbench.suites.images.transforms import (
    Pose,
    blur_some,
    capture,
    pad_to_side,
    place,
    sample,
    to_bytes,
    upsample,
)


def test_upsampling_is_linear_between_cell_centres_and_constant_at_the_edge():
    cells = np.array([0.0, 1.0], np.float32).reshape(1, 1, 2, 1).repeat(2, axis=1)
    enlarged = upsample(cells, 4)
    np.testing.assert_allclose(enlarged[0, :, :, 0], [[0, 0.25, 0.75, 1]] * 4)


@pytest.mark.parametrize("side", [32, 48])
def test_sampling_agrees_with_torch_grid_sample(side: int):
    rng = np.random.default_rng(0)
    bank = rng.random((3, side, side, 2), dtype=np.float32)
    choice = np.array([2, 0, 1, 1, 2])
    matrix = (np.eye(2, 3) + rng.normal(0, 0.4, (5, 2, 3))).astype(np.float32)
    pictures = torch.from_numpy(bank[choice]).permute(0, 3, 1, 2)
    grid = torch.nn.functional.affine_grid(torch.from_numpy(matrix), [5, 2, 32, 32], align_corners=False)
    expected = torch.nn.functional.grid_sample(pictures, grid, align_corners=False).permute(0, 2, 3, 1)
    np.testing.assert_allclose(sample(bank, choice, matrix), expected.numpy(), atol=2e-5)


def test_a_pose_without_freedom_leaves_a_picture_as_it_is():
    bank = np.random.default_rng(0).random((2, 32, 32, 3), dtype=np.float32)
    placed = place(bank, np.array([1, 0]), Pose(degrees=0, scale=(1, 1), shift=0, shear=0), stream("test"))
    np.testing.assert_allclose(placed, bank[[1, 0]], atol=1e-5)


def test_a_scale_of_one_half_shrinks_a_picture_to_the_middle():
    placed = place(np.ones((1, 32, 32, 1), np.float32), np.array([0]), Pose(0, (0.5, 0.5), 0, 0), stream("test"))
    np.testing.assert_allclose(placed[0, 8:24, 8:24, 0].mean(), 1, atol=0.02)
    assert placed[0, :7].max() == placed[0, 25:].max() == placed[0, :, :7].max() == placed[0, :, 25:].max() == 0


def test_blur_spreads_a_dot_by_the_binomial_kernel():
    dot = np.zeros((1, 32, 32, 1), np.float32)
    dot[0, 5, 9] = 16
    blurred = blur_some(dot, 1.0, stream("test"))[0, 4:7, 8:11, 0]
    np.testing.assert_allclose(blurred, [[1, 2, 1], [2, 4, 2], [1, 2, 1]])
    np.testing.assert_array_equal(blur_some(dot, 0.0, stream("test")), dot)


def test_bytes_are_clipped_and_rounded():
    values = np.array([-0.5, 0, 0.1, 0.5004, 1, 3], np.float32)
    assert to_bytes(values, 0.0, stream("test")).tolist() == [0, 0, 26, 128, 255, 255]


def test_padding_puts_a_28_pixel_picture_in_the_middle():
    padded = pad_to_side(np.full((1, 28, 28), 7, np.uint8))
    assert padded.shape == (1, 32, 32, 3)
    assert (padded[0, 2:30, 2:30] == 7).all()
    assert padded.sum() == 7 * 28 * 28 * 3


def test_the_colour_of_transparent_pixels_does_not_show():
    hidden = np.zeros((1, 48, 48, 4), np.uint8)
    bright = hidden.copy()
    bright[..., :3] = 255
    choice = np.zeros(4, np.int64)
    np.testing.assert_array_equal(capture(hidden, choice, stream("test")), capture(bright, choice, stream("test")))
