import numpy as np
import pytest

from fusionbench.errors import ConfigError, MissingData
from fusionbench.families import family_named
from fusionbench.suites.array_task import read_splits, write_split
from fusionbench.tasks import TaskSpec, build_task
from fusionbench.weights.sources import open_source
from tiny_clip import noise


def spec_of(folder, **changes) -> TaskSpec:
    fields = {"kind": "image_arrays", "dataset": str(folder), "class_names": ("cat", "dog"), "templates": ("a {}",)}
    return TaskSpec(**{**fields, **changes})


def test_arrays_become_a_task_with_their_bits_and_labels(tmp_path, cache, clip_folder):
    images, labels = noise(5), np.array([0, 1, 1, 0, 1])
    write_split(tmp_path / "pets", "test", images, labels)
    write_split(tmp_path / "pets", "train", images[:2], labels[:2])
    task = build_task("pets", spec_of(tmp_path / "pets"), family_named("clip"), open_source(clip_folder))
    assert (task.size("test"), task.size("train")) == (5, 2)
    (batch,) = task.batches("test", size=9)
    # the tiny CLIP's processor: mean .5, deviation .25
    expected = (images.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(batch["pixel_values"].numpy(), expected, atol=1e-5)
    assert batch["labels"].tolist() == [0, 1, 1, 0, 1]
    with pytest.raises(MissingData, match="validation"):
        task.size("validation")


def test_images_are_mapped_not_read(tmp_path):
    write_split(tmp_path, "test", noise(3), np.zeros(3, np.int64))
    images, _ = read_splits(tmp_path)["test"].read()
    assert isinstance(images, np.memmap)


def test_a_folder_without_arrays_is_an_error_that_says_what_it_needs(tmp_path):
    with pytest.raises(MissingData, match=r"holds no split.*test_images\.npy"):
        read_splits(tmp_path)


def test_images_without_labels_and_damaged_files_are_named(tmp_path):
    np.save(tmp_path / "test_images.npy", noise(3))
    with pytest.raises(MissingData, match=r"test_labels\.npy cannot be read"):
        read_splits(tmp_path)
    (tmp_path / "test_labels.npy").write_bytes(b"no array")
    with pytest.raises(MissingData, match=r"test_labels\.npy cannot be read"):
        read_splits(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"class_names": None}, "brings no class_names"), ({"config": "full"}, "takes no config")],
)
def test_keys_that_make_no_sense_for_arrays_are_refused(tmp_path, clip_folder, change, message):
    with pytest.raises(ConfigError, match=message):
        build_task("pets", spec_of(tmp_path, **change), family_named("clip"), open_source(clip_folder))
