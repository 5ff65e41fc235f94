from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fusionbench.errors import ConfigError, MissingData, MissingHead, MissingPart, NotAdaptable, NotFinite
from fusionbench.families import family_named, load_module
from fusionbench.families.scene_encoder import SceneConfig, SceneEncoder
from fusionbench.tasks import Task, TaskSpec, build_task
from fusionbench.tasks.base import HasTrainedHead
from fusionbench.tasks.dense import DenseTask
from fusionbench.weights.sources import open_source

CLASSES = ["floor", "wall", "ball"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = tmp_path_factory.mktemp("scene") / "base"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = SceneConfig(stem_width=4, widths=[2, 2, 2, 2], depths=[1, 1, 1, 1], head_width=4, head_rates=[1, 2, 3])
        SceneEncoder(config).save_pretrained(folder)
    return folder


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    """Five scenes of 16 × 24 pixels, as arrays of splits."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        np.save(tmp_path / f"{split}_images.npy", rng.integers(0, 256, (5, 16, 24, 3), dtype=np.uint8))
        np.save(tmp_path / f"{split}_segmentation.npy", rng.integers(-1, 3, (5, 16, 24)).astype(np.int8))
        np.save(tmp_path / f"{split}_depth.npy", rng.uniform(0.5, 4, (5, 16, 24)).astype(np.float16))
        np.save(tmp_path / f"{split}_normals.npy", rng.normal(size=(5, 16, 24, 3)).astype(np.float16))
    return tmp_path


def make(kind: str, folder: Path, base: Path, **changes: Any) -> DenseTask:
    names = {"class_names": CLASSES} if kind == "segmentation" else {}
    spec = TaskSpec.read({"dataset": str(folder), "kind": kind, **names, **changes}, "The task")
    made = build_task(kind, spec, family_named("scene"), open_source(base))
    assert isinstance(made, DenseTask)
    return made


@pytest.mark.parametrize(
    ("kind", "shape", "dtype"),
    [
        ("segmentation", (4, 16, 24), torch.int64),
        ("depth", (4, 16, 24), torch.float32),
        ("normals", (4, 16, 24, 3), torch.float32),
    ],
)
def test_a_task_of_arrays_reads_batches_scores_and_trains(
    kind: str, shape: tuple[int, ...], dtype: torch.dtype, arrays: Path, base: Path
) -> None:
    made = make(kind, arrays, base)
    assert isinstance(made, Task)
    assert isinstance(made, HasTrainedHead)
    first, second = made.batches("test", size=4)
    assert first["pixel_values"].shape == (4, 3, 16, 24)
    assert (first["labels"].shape, first["labels"].dtype) == (shape, dtype)
    assert len(second["pixel_values"]) == 1
    task = made.with_head(made.fresh_head(0).eval())
    predict = task.bind(load_module(task.family, open_source(base)))
    assert predict(first).shape == (4, len(task.class_names), 16, 24)
    task.loss(predict, first).backward()
    assert all(parameter.grad is not None for parameter in task.head.parameters())
    with torch.inference_mode():
        rows = task.rows(predict, first)
    assert {len(column) for column in rows.values()} == {4}
    for metric in task.metrics:
        value, error = metric.compute(rows)
        assert np.isfinite(value)
        assert error >= 0


def test_a_single_reading_takes_fewer_images_at_a_time_where_they_are_large(
    arrays: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusionbench.tasks.dense.MOST_PIXELS", 2 * 16 * 24)
    task = make("depth", arrays, base)
    assert [len(batch["labels"]) for batch in task.batches("test", size=4)] == [2, 2, 1]
    assert len(next(task.batches("test", size=4, seed=0))["labels"]) == 4


def test_maps_are_enlarged_with_their_corners_in_the_corners(arrays: Path, base: Path) -> None:
    task = make("depth", arrays, base)

    class Corners(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(1))

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[[[0.0, 2.0], [4.0, 6.0]]]])

    predict = task.with_head(Corners()).bind(load_module(task.family, open_source(base)))
    maps = predict({"pixel_values": torch.zeros(1, 3, 16, 24)})[0, 0]
    assert maps[0, 0] == 0
    assert maps[-1, -1] == 6
    assert float(maps[0, 23]) == pytest.approx(2)
    assert float(maps[5, 0]) == pytest.approx(4 * 5 / 15)  # align_corners=True: linear from the first to the last row


def test_the_order_of_training_is_a_permutation_and_labels_can_be_left_out(arrays: Path, base: Path) -> None:
    task = make("depth", arrays, base)
    drawn = next(task.batches("train", size=5, seed=3, labels=False))
    assert set(drawn) == {"pixel_values"}
    plain = next(task.batches("train", size=5))["pixel_values"]
    assert not torch.equal(drawn["pixel_values"], plain)
    torch.testing.assert_close(drawn["pixel_values"].sum(), plain.sum())


def test_entropy_is_the_mean_over_pixels_and_only_segmentation_has_it(arrays: Path, base: Path) -> None:
    batch = {"pixel_values": torch.zeros(1, 3, 1, 2)}
    # One pixel certain of a class, one undecided between two: (0 + log 2) / 2.
    scores = torch.tensor([[100.0, 0.0], [0.0, 0.0], [-100.0, -100.0]]).view(1, 3, 1, 2)
    found = make("segmentation", arrays, base).objective(lambda _: scores, batch)
    assert float(found) == pytest.approx(np.log(2) / 2, abs=1e-6)
    for kind in ("depth", "normals"):
        with pytest.raises(NotAdaptable, match=r"no objective without labels: .* no distribution"):
            make(kind, arrays, base).objective(lambda _: scores, batch)


def test_without_a_head_there_is_one_clear_error(arrays: Path, base: Path) -> None:
    with pytest.raises(MissingHead, match="normals has no head"):
        make("normals", arrays, base).bind(lambda **_: None)


def test_outputs_that_are_no_numbers_are_an_error(arrays: Path, base: Path) -> None:
    task = make("depth", arrays, base)
    with pytest.raises(NotFinite, match="depth hold NaN"):
        task.rows(lambda _: torch.full((1, 1, 2, 2), torch.nan), {"labels": torch.ones(1, 2, 2)})


def packaged(folder: Path, count: int) -> Path:
    """NYUv2's packaging: a file a scene, floats, depth with a channel."""
    rng = np.random.default_rng(1)
    for split in ("train", "val"):
        for name, shape in (("image", (8, 12, 3)), ("label", (8, 12)), ("depth", (1, 8, 12)), ("normal", (8, 12, 3))):
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(count):
                values = np.full(shape, number, np.float64) if name == "depth" else rng.random(shape)
                np.save(place / f"{number}.npy", np.floor(3 * values) - 1 if name == "label" else values)
    return folder


def test_the_nyuv2_packaging_is_read_in_order_with_a_tenth_of_train_for_validation(tmp_path: Path, base: Path) -> None:
    folder = packaged(tmp_path, 12)
    task = make("depth", folder, base)
    assert [task.size(split) for split in ("train", "validation", "test")] == [12, 1, 12]
    labels = torch.cat([batch["labels"] for batch in task.batches("test", size=5)])
    assert labels[:, 0, 0].tolist() == list(range(12))  # 2 before 10
    pixels = next(task.batches("test", size=2))["pixel_values"]
    assert pixels.shape == (2, 3, 8, 12)
    assert float(pixels.max()) <= 1  # floats of 0 to 1 are taken as they are
    validation = next(task.batches("validation", size=1))["labels"][0, 0, 0]
    assert int(validation) in range(12)
    assert next(make("segmentation", folder, base).batches("test", size=2))["labels"].min() == -1


@pytest.mark.parametrize(
    ("kind", "part", "values", "message"),
    [
        ("segmentation", "segmentation", np.full((5, 16, 24), 3), "hold the label 3, but the task has 3 classes"),
        ("depth", "depth", np.full((5, 16, 24), -1.0), "negative"),
        ("normals", "normals", np.full((5, 16, 24, 3), np.nan), "NaN"),
        ("normals", "normals", np.ones((5, 16, 24)), r"takes \[examples, height, width, 3\]"),
        ("depth", "depth", np.ones((5, 16, 24, 1)), r"takes \[examples, height, width\]"),
    ],
)
def test_targets_that_are_none_of_the_tasks_are_refused(
    kind: str, part: str, values: np.ndarray, message: str, arrays: Path, base: Path
) -> None:
    np.save(arrays / f"test_{part}.npy", values)
    with pytest.raises(ConfigError, match=message):
        next(make(kind, arrays, base).batches("test", size=5))


def test_sizes_that_differ_missing_files_and_missing_splits_are_refused(arrays: Path, base: Path) -> None:
    task = make("depth", arrays, base)
    with pytest.raises(MissingData, match=r"no split 'validation'. It has: train, test"):
        task.size("validation")
    with pytest.raises(MissingData, match="no examples"):
        task.batches("test", size=2, limit=0)
    np.save(arrays / "test_depth.npy", np.ones((5, 8, 24)))
    with pytest.raises(ConfigError, match="each pixel needs a target"):
        make("depth", arrays, base)
    (arrays / "test_depth.npy").unlink()
    with pytest.raises(MissingData, match=r"test_depth\.npy cannot be read"):
        make("depth", arrays, base)
    with pytest.raises(MissingData, match="holds no split of scenes"):
        make("depth", arrays / "nowhere", base)


def test_an_image_without_targets_in_the_packaging_is_refused(tmp_path: Path, base: Path) -> None:
    folder = packaged(tmp_path, 3)
    (folder / "val" / "normal" / "1.npy").unlink()
    with pytest.raises(MissingData, match=r"lacks normal/1\.npy"):
        make("normals", folder, base)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("segmentation", {"class_names": None}, "List them"),
        ("depth", {"class_names": ["near", "far"]}, "leave class_names out"),
        ("depth", {"metrics": ["absolute_eror"]}, "no metric 'absolute_eror'.*absolute_error"),
        ("depth", {"columns": {"image": "x"}}, "takes no columns"),
    ],
)
def test_a_description_that_does_not_fit_the_kind_is_refused(
    kind: str, changes: dict[str, Any], message: str, arrays: Path, base: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        make(kind, arrays, base, **changes)


def test_metrics_can_be_chosen_and_the_first_is_the_primary_one(arrays: Path, base: Path) -> None:
    task = make("normals", arrays, base, metrics=["within_30", "angle_mean"])
    assert [metric.name for metric in task.metrics] == ["within_30", "angle_mean"]


def test_a_family_without_images_is_refused(arrays: Path, base: Path) -> None:
    spec = TaskSpec.read({"dataset": str(arrays), "kind": "depth"}, "The task")
    with pytest.raises(MissingPart, match="image input"):
        build_task("depth", spec, family_named("gpt2"), open_source(base))


def test_images_that_have_no_three_channels_at_the_end_are_refused(arrays: Path, base: Path) -> None:
    for shape in ((5, 16, 24), (5, 16, 24, 1)):
        np.save(arrays / "test_images.npy", np.zeros(shape, np.uint8))
        with pytest.raises(ConfigError, match=r"test_images\.npy is \[5, 16, 24.*\[examples, height, width, 3\]"):
            make("depth", arrays, base)
