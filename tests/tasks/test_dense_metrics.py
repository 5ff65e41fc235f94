"""Hand-computed numbers of the specification, and torchmetrics where it has the metric."""

import math

import numpy as np
import pytest
import torch

from fusionbench.tasks.dense_kinds import (
    IGNORED,
    depth_loss,
    depth_rows,
    normals_loss,
    normals_rows,
    segmentation_loss,
    segmentation_rows,
)
from fusionbench.tasks.dense_metrics import DEPTH, NORMALS, SEGMENTATION, mean_iou

VALUES = {metric.name: metric.compute for metric in (*SEGMENTATION, *DEPTH, *NORMALS)}


def value(name: str, rows: dict[str, np.ndarray]) -> float:
    return VALUES[name](rows)[0]


def test_iou_and_pixel_accuracy_of_a_confusion_worked_by_hand() -> None:
    rows = {"confusion": np.array([[[3, 1], [1, 3]]])}
    assert value("mean_iou", rows) == pytest.approx(0.6)  # 3 / (4 + 4 − 3), twice
    assert value("pixel_accuracy", rows) == pytest.approx(0.75)


def test_a_confusion_is_summed_over_examples_before_the_ratio_and_absent_classes_are_left_out() -> None:
    rows = {"confusion": np.array([[[2, 0, 0], [1, 0, 0], [0, 0, 0]], [[1, 1, 0], [0, 3, 0], [0, 0, 0]]])}
    # class 0: 3 / (4 + 4 − 3); class 1: 3 / (4 + 4 − 3); class 2 is nowhere
    assert value("mean_iou", rows) == pytest.approx(0.6)


def test_depth_errors_worked_by_hand_leave_out_pixels_without_a_depth() -> None:
    rows = depth_rows(torch.tensor([2.0, 4.0, 3.0]).view(1, 1, 1, 3), torch.tensor([1.0, 0.0, 4.0]).view(1, 1, 3))
    assert rows["pixels"].tolist() == [2]
    assert value("absolute_error", rows) == pytest.approx(1.0)
    assert value("relative_error", rows) == pytest.approx(0.625)
    assert float(
        depth_loss(torch.tensor([2.0, 4.0, 3.0]).view(1, 1, 1, 3), torch.tensor([1.0, 0.0, 4.0]).view(1, 1, 3))
    ) == pytest.approx(1.0)


def test_depth_errors_weigh_pixels_not_examples() -> None:
    rows = {"absolute": np.array([6.0, 1.0]), "relative": np.array([3.0, 1.0]), "pixels": np.array([3, 1])}
    assert value("absolute_error", rows) == pytest.approx(7 / 4)


def angles(*degrees: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps whose directions are so many degrees from the truth, and the truth: one row of pixels."""
    turned = [[math.sin(math.radians(a)), 0.0, math.cos(math.radians(a))] for a in degrees]
    maps = torch.tensor(turned, dtype=torch.float64).T.view(1, 3, 1, -1)
    return maps, torch.tensor([[0.0, 0.0, 1.0]] * len(degrees)).view(1, 1, -1, 3)


def test_angles_worked_by_hand() -> None:
    maps, truth = angles(0, 45, 90, 11.3099)
    rows = normals_rows(7 * maps, truth)  # of any length
    assert value("angle_mean", rows) == pytest.approx(36.577, abs=1e-3)
    assert value("angle_median", rows) == pytest.approx(11.3099, abs=0.01)  # the lower one, in bins of 0.01°
    assert [value(f"within_{d}", rows) for d in ("11_25", "22_5", "30")] == [0.25, 0.5, 0.5]
    assert float(normals_loss(maps, truth)) == pytest.approx(1 - (1 + 0.70711 + 0 + 0.98058) / 4, abs=1e-5)


def test_an_angle_of_180_degrees_and_the_median_of_an_odd_number_are_counted() -> None:
    rows = normals_rows(*angles(180, 180, 10.5))
    assert value("angle_median", rows) == pytest.approx(180, abs=0.01)
    assert int(rows["angles"].sum()) == 3


def test_a_normal_whose_components_cancel_is_valid_and_one_of_zeros_is_not() -> None:
    truth = torch.tensor([[0.70711, -0.70711, 0.0], [0.0, 0.0, 0.0]]).view(1, 1, 2, 3)
    rows = normals_rows(torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]).T.view(1, 3, 1, 2), truth)
    assert rows["pixels"].tolist() == [1]
    assert value("angle_mean", rows) == pytest.approx(45, abs=1e-3)


def test_truths_that_were_rounded_to_half_precision_are_brought_to_length_one() -> None:
    truth = torch.nn.functional.normalize(torch.tensor([[0.3, -0.5, -0.8]]), dim=-1)
    rows = normals_rows(truth.view(1, 3, 1, 1), truth.half().float().view(1, 1, 1, 3))
    assert value("angle_mean", rows) < 0.05  # without it, a length of 0.9997 alone would make 1.4°


@pytest.mark.parametrize("name", ["absolute_error", "angle_mean", "angle_median", "within_30", "pixel_accuracy"])
def test_where_nothing_is_valid_there_is_no_value(name: str) -> None:
    rows = {
        **depth_rows(torch.ones(1, 1, 2, 2), torch.zeros(1, 2, 2)),
        **normals_rows(torch.ones(1, 3, 2, 2), torch.zeros(1, 2, 2, 3)),
        **segmentation_rows(torch.ones(1, 2, 2, 2), torch.full((1, 2, 2), IGNORED)),
    }
    assert math.isnan(value(name, rows))


def test_losses_of_batches_without_a_valid_pixel_are_numbers() -> None:
    assert float(depth_loss(torch.ones(1, 1, 2, 2), torch.zeros(1, 2, 2))) == 0
    assert float(normals_loss(torch.ones(1, 3, 2, 2), torch.zeros(1, 2, 2, 3))) == 1
    assert float(segmentation_loss(torch.ones(1, 2, 2, 2), torch.full((1, 2, 2), IGNORED))) == 0


def test_segmentation_agrees_with_torchmetrics() -> None:
    from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassJaccardIndex

    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(4, 5, 6, 7, generator=generator)
    labels = torch.randint(-1, 5, (4, 6, 7), generator=generator)
    rows = segmentation_rows(maps, labels)
    options = {"num_classes": 5, "ignore_index": IGNORED}
    assert np.array_equal(rows["confusion"].sum(0), MulticlassConfusionMatrix(**options)(maps, labels).numpy())
    assert value("mean_iou", rows) == pytest.approx(float(MulticlassJaccardIndex(**options)(maps, labels)), abs=1e-6)
    micro = MulticlassAccuracy(**options, average="micro")(maps, labels)
    assert value("pixel_accuracy", rows) == pytest.approx(float(micro), abs=1e-6)


def test_depth_agrees_with_torchmetrics_on_the_valid_pixels() -> None:
    from torchmetrics import MeanAbsoluteError, MeanAbsolutePercentageError

    generator = torch.Generator().manual_seed(1)
    maps = torch.rand(3, 1, 6, 7, generator=generator) * 4
    labels = (torch.rand(3, 6, 7, generator=generator) * 5).relu() * (torch.rand(3, 6, 7, generator=generator) > 0.3)
    valid = labels != 0
    pair = maps[:, 0][valid], labels[valid]
    rows = depth_rows(maps, labels)
    assert value("absolute_error", rows) == pytest.approx(float(MeanAbsoluteError()(*pair)), rel=1e-5)
    assert value("relative_error", rows) == pytest.approx(float(MeanAbsolutePercentageError()(*pair)), rel=1e-4)


def test_normals_agree_with_torchmetrics_cosine_similarity() -> None:
    from torchmetrics import CosineSimilarity

    generator = torch.Generator().manual_seed(2)
    maps = torch.randn(2, 3, 1, 1, generator=generator)
    truth = torch.randn(2, 1, 1, 3, generator=generator)
    cosine = CosineSimilarity(reduction="none")(maps.view(2, 3), truth.view(2, 3))
    expected = torch.rad2deg(torch.arccos(cosine))
    assert np.allclose(normals_rows(maps, truth)["degrees"], expected.numpy(), atol=1e-3)


def test_the_standard_error_is_that_of_resampled_examples() -> None:
    # Equal images of 10 pixels of which k are right: the share is the mean of k / 10 over examples.
    right = np.random.default_rng(0).integers(0, 11, 400)
    rows = {"confusion": np.stack([np.diag([k, 0]) + np.array([[0, 10 - k], [0, 0]]) for k in right])}
    found, error = VALUES["pixel_accuracy"](rows)
    assert found == pytest.approx(right.mean() / 10)
    assert error == pytest.approx((right / 10).std() / math.sqrt(400), rel=0.15)


def test_one_example_or_equal_examples_have_no_standard_error() -> None:
    assert mean_iou({"confusion": np.array([[[3, 1], [1, 3]]] * 3)}) == (pytest.approx(0.6), pytest.approx(0))
    assert mean_iou({"confusion": np.array([[[3, 1], [1, 3]]])})[1] == pytest.approx(0)


def test_metrics_say_unit_and_direction() -> None:
    directions = {metric.name: (metric.unit, metric.better) for metric in (*SEGMENTATION, *DEPTH, *NORMALS)}
    assert directions == {
        "mean_iou": ("fraction", "higher"),
        "pixel_accuracy": ("fraction", "higher"),
        "absolute_error": ("metres", "lower"),
        "relative_error": ("ratio", "lower"),
        "angle_mean": ("degrees", "lower"),
        "angle_median": ("degrees", "lower"),
        "within_11_25": ("fraction", "higher"),
        "within_22_5": ("fraction", "higher"),
        "within_30": ("fraction", "higher"),
    }


def test_examples_are_drawn_a_thousand_times() -> None:
    right = np.random.default_rng(0).integers(0, 11, 30)
    rows = {"confusion": np.stack([np.array([[k, 10 - k], [0, 0]]) for k in right])}
    drawn = (np.random.Philox(key=0).random_raw(1000 * 30) % np.uint64(30)).astype(int).reshape(1000, 30)
    expected = (right[drawn].mean(axis=1) / 10).std(ddof=1)
    assert VALUES["pixel_accuracy"](rows)[1] == pytest.approx(expected, rel=1e-9)


def test_the_median_of_resampled_examples_is_that_of_their_pixels() -> None:
    """Against the pixels themselves, taken as often as their examples are drawn."""
    generator = np.random.default_rng(3)
    degrees = [generator.uniform(low, low + 3, 7) for low in (0, 0.5, 20, 21.2, 22.9, 176.9)]
    rows = {"angles": np.stack([np.bincount((100 * one).astype(int), minlength=18001) for one in degrees])}
    bins = (np.floor(100 * np.stack(degrees)) + 0.5) / 100
    drawn = (np.random.Philox(key=0).random_raw(1000 * 6) % np.uint64(6)).astype(int).reshape(1000, 6)
    lower = np.sort(bins[drawn].reshape(1000, -1), axis=1)[:, 20]  # number ⌈42 / 2⌉
    found, error = VALUES["angle_median"](rows)
    assert found == pytest.approx(np.sort(bins.ravel())[20])
    assert error == pytest.approx(lower.std(ddof=1))
