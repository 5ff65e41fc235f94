from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock, Timeout
from PIL import Image

from fusionbench.errors import ConfigError
from fusionbench.families import ImageProcessor
from fusionbench.tasks import Corruption, RawSplit, from_arrays, prepare
from fusionbench.tasks.data import check_labels
from tiny_clip import noise

pytestmark = pytest.mark.usefixtures("cache")
LABELS = np.array([2, 0, 1])


def counted(raw: RawSplit) -> tuple[RawSplit, list[int]]:
    """The split, and a list that grows each time it is read."""
    reads: list[int] = []

    def read() -> tuple[Any, Any]:
        reads.append(1)
        return raw.read()

    return replace(raw, read=read), reads


def test_images_of_the_models_size_are_kept_byte_for_byte_and_mapped() -> None:
    images = noise(3)
    prepared = prepare(from_arrays(images, LABELS), ImageProcessor(32))
    assert np.array_equal(prepared.images, images)
    assert isinstance(prepared.images, np.memmap)
    assert prepared.labels.tolist() == [2, 0, 1]
    assert prepared.labels.dtype == np.int64


def test_images_of_other_sizes_are_prepared_one_by_one() -> None:
    raw = from_arrays(noise(3, side=48), LABELS)
    processor = ImageProcessor(16)
    prepared = prepare(raw, processor)
    assert prepared.images.shape == (3, 16, 16, 3)
    assert np.array_equal(prepared.images[1], processor.prepare(Image.fromarray(noise(3, side=48)[1])))


def test_a_split_is_read_once(cache: Path) -> None:
    raw, reads = counted(from_arrays(noise(3), LABELS))
    for _ in range(2):
        prepare(raw, ImageProcessor(32))
    assert len(reads) == 1
    assert len(list((cache / "splits").glob("*.npy"))) == 2  # images and labels


def test_while_a_split_is_read_others_who_want_it_are_locked_out(cache: Path) -> None:
    raw = from_arrays(noise(3), LABELS)

    def read() -> tuple[Any, Any]:
        (lock,) = (cache / "splits").glob("*.lock")
        with pytest.raises(Timeout):
            FileLock(lock).acquire(timeout=0)
        return raw.read()

    assert len(prepare(replace(raw, read=read), ImageProcessor(32)).images) == 3


def test_other_data_processors_and_corruptions_are_prepared_apart() -> None:
    raw = from_arrays(noise(3), LABELS)
    dark = Corruption("dark", lambda image, index: image // 2)
    kinds = [
        prepare(raw, ImageProcessor(32)),
        prepare(raw, ImageProcessor(16)),
        prepare(raw, ImageProcessor(32, settings="{}")),
        prepare(raw, ImageProcessor(32), dark),
        prepare(from_arrays(noise(3, seed=1), LABELS), ImageProcessor(32)),
        prepare(from_arrays(noise(3), LABELS[::-1]), ImageProcessor(32)),
    ]
    assert len({kind.images.filename for kind in kinds}) == 6  # type: ignore[attr-defined]


def test_a_corruption_sees_the_image_of_the_data_set_and_its_index() -> None:
    def add(image: Any, index: int) -> Any:
        # A grey image is given in three channels.
        assert image.shape == (8, 8, 3)
        return image + np.uint8(index)

    prepared = prepare(
        from_arrays(np.zeros((3, 8, 8), np.uint8), LABELS), ImageProcessor(4), Corruption("add index", add)
    )
    assert [int(image.max()) for image in prepared.images] == [0, 1, 2]
    assert prepared.images.shape[1:] == (4, 4, 3)


def test_an_interrupted_preparation_leaves_nothing_that_is_taken_for_whole() -> None:
    def broken() -> tuple[Iterator[Any], Any]:
        def images() -> Iterator[Any]:
            yield noise(1)[0]
            raise KeyboardInterrupt

        return images(), LABELS

    whole = from_arrays(noise(3), LABELS)
    with pytest.raises(KeyboardInterrupt):
        prepare(replace(whole, read=broken), ImageProcessor(32))
    assert np.array_equal(prepare(whole, ImageProcessor(32)).images, noise(3))


def test_a_source_with_fewer_images_than_it_said_is_an_error() -> None:
    raw = from_arrays(noise(3), LABELS)
    with pytest.raises(ValueError, match="shorter"):
        prepare(replace(raw, count=4), ImageProcessor(32))


def test_the_digest_is_of_the_content_alone() -> None:
    digest = from_arrays(noise(3), LABELS).digest
    assert from_arrays(noise(3).copy(), LABELS.astype(np.int32)).digest == digest
    assert from_arrays(noise(3)[:, ::-1], LABELS).digest != digest
    assert from_arrays(noise(3), np.array([2, 0, 2])).digest != digest


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (np.zeros((3, 4, 4, 3), np.float32), LABELS, r"Images of float32 \[3, 4, 4, 3\]"),
        (np.zeros((3, 4, 4, 4), np.uint8), LABELS, r"Images of uint8 \[3, 4, 4, 4\]"),
        (noise(2), LABELS, r"labels of int64 \[3\]"),
        (noise(3), LABELS.astype(np.float64), r"labels of float64 \[3\]"),
    ],
)
def test_arrays_that_make_no_split_are_refused_with_their_form(images: Any, labels: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        from_arrays(images, labels)


@pytest.mark.parametrize("wrong", [-1, 3])
def test_a_label_that_is_no_class_is_named_with_its_example(wrong: int) -> None:
    check_labels("digits", "test", LABELS, 3)
    with pytest.raises(
        ConfigError, match=rf"digits: example 1 of the split 'test' has the label {wrong}, .* \(0 to 2\)"
    ):
        check_labels("digits", "test", np.array([0, wrong, 1]), 3)
