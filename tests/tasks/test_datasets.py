from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusionbench.errors import ConfigError, MissingData
from fusionbench.families import ImageProcessor
from fusionbench.tasks import from_dataset, prepare
from tiny_clip import noise

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two splits of four and two images, saved by the datasets library, under names that are not ours."""
    import datasets

    number, text = datasets.Value("int64"), datasets.Value("string")
    features = datasets.Features(
        {"img": datasets.Image(), "y": datasets.ClassLabel(names=["cat", "dog"]), "fine": number, "caption": text}
    )

    def split(count: int) -> datasets.Dataset:
        images = [Image.fromarray(image) for image in noise(count, seed=count)]
        rows = {"img": images, "y": [i % 2 for i in range(count)], "fine": list(range(count))}
        rows["caption"] = ["?"] * count
        return datasets.Dataset.from_dict(rows, features=features)

    folder = tmp_path_factory.mktemp("data") / "pets"
    datasets.disable_progress_bars()
    datasets.DatasetDict({"train": split(4), "valid": split(2)}).save_to_disk(folder)
    yield folder
    datasets.enable_progress_bars()


COLUMNS = {"image": "img", "label": "y"}


def test_a_saved_folder_is_read_by_its_splits_and_columns(saved: Path) -> None:
    found = from_dataset(str(saved), splits={"train": "train", "test": "valid"}, **COLUMNS)
    assert {split: raw.count for split, raw in found.splits.items()} == {"train": 4, "test": 2}
    assert found.class_names == ("cat", "dog")
    prepared = prepare(found.splits["test"], ImageProcessor(32))
    assert np.array_equal(prepared.images, noise(2, seed=2))  # PNG keeps every byte
    assert prepared.labels.tolist() == [0, 1]


def test_without_a_map_the_splits_that_have_our_names_are_taken(saved: Path) -> None:
    assert set(from_dataset(str(saved), **COLUMNS).splits) == {"train"}


def test_the_digest_is_the_same_when_the_folder_is_opened_again_and_differs_by_split(saved: Path) -> None:
    digests = [
        from_dataset(str(saved), splits={"train": "train", "test": "valid"}, **COLUMNS).splits[split].digest
        for split in ("train", "train", "test")
    ]
    assert digests[0] == digests[1] != digests[2]
    fine = from_dataset(str(saved), image="img", label="fine")
    assert fine.splits["train"].digest != digests[0]
    assert fine.class_names is None


def test_a_folder_of_a_single_split_and_a_folder_of_pictures_are_read(saved: Path, tmp_path: Path) -> None:
    alone = from_dataset(str(saved / "train"), **COLUMNS)
    assert {split: raw.count for split, raw in alone.splits.items()} == {"train": 4}
    for number, name in enumerate(("cat", "dog")):
        place = tmp_path / "pictures" / "train" / name
        place.mkdir(parents=True)
        Image.fromarray(noise(1, seed=number)[0]).save(place / "0.png")
    pictures = from_dataset(str(tmp_path / "pictures"))
    assert pictures.class_names == ("cat", "dog")
    prepared = prepare(pictures.splits["train"], ImageProcessor(32))
    assert np.array_equal(prepared.images[1], noise(1, seed=1)[0])


def test_a_missing_split_names_those_there_are(saved: Path) -> None:
    with pytest.raises(MissingData, match=r"pets has no split named holdout\. It has: train, valid\."):
        from_dataset(str(saved), splits={"test": "holdout"}, **COLUMNS)


def test_a_data_set_without_any_of_our_splits_says_how_to_name_them(saved: Path, tmp_path: Path) -> None:
    import datasets

    datasets.DatasetDict({"valid": datasets.load_from_disk(str(saved / "valid"))}).save_to_disk(tmp_path / "one")
    with pytest.raises(MissingData, match=r"no split named train, validation or test\. It has: valid.*\{test: valid\}"):
        from_dataset(str(tmp_path / "one"), **COLUMNS)


def test_a_missing_column_names_those_there_are(saved: Path) -> None:
    with pytest.raises(
        MissingData, match=r"'train' of .*pets has no column image and no column label\. It has: img, y"
    ):
        from_dataset(str(saved))


def test_labels_that_are_no_integers_are_refused_with_their_kind(saved: Path) -> None:
    with pytest.raises(ConfigError, match=r"column 'caption' of .* holds string; labels must be integers"):
        from_dataset(str(saved), image="img", label="caption")


def test_a_data_set_that_is_nowhere_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match=r"There is no data set at \./nowhere/at/all"):
        from_dataset("./nowhere/at/all")
    with pytest.raises(MissingData, match=r"The data set someone/nothing cannot be had: .*someone/nothing"):
        from_dataset("someone/nothing")


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("nothing here")
    with pytest.raises(MissingData, match="cannot be had"):
        from_dataset(str(tmp_path))


def test_a_share_of_a_split_is_drawn_once_for_all_and_the_split_stays_whole(saved: Path) -> None:
    splits = {"train": "train", "validation": "train[50%]", "test": "valid"}
    found = from_dataset(str(saved), splits=splits, image="img", label="fine").splits  # type: ignore[arg-type]
    assert {split: raw.count for split, raw in found.items()} == {"train": 4, "validation": 2, "test": 2}
    drawn = [prepare(found["validation"], ImageProcessor(32)).labels.tolist() for _ in range(2)]
    # NumPy's PCG64 of seed 0 puts 0 … 3 in the order 2, 0, 1, 3.
    assert drawn == [[0, 2], [0, 2]]
    again = from_dataset(str(saved), splits=splits, image="img", label="fine").splits["validation"]  # type: ignore[arg-type]
    assert again.digest == found["validation"].digest != found["train"].digest
    for wrong in ("trian[50%]", "train[0%]", "train[100%]"):
        with pytest.raises(MissingData, match="has no split named"):
            from_dataset(str(saved), splits={"test": wrong}, **COLUMNS)


@pytest.mark.parametrize(
    ("count", "sizes"), [(56, (32, 24)), (104, (32, 72)), (33, (32, 1)), (32, (16, 16)), (5, (2, 3))]
)
def test_a_shuffled_split_falls_into_its_first_examples_and_the_rest(count: int, sizes: tuple[int, int]) -> None:
    import random

    import datasets

    from fusionbench.tasks.datasets import _part

    held = {"validation": datasets.Dataset.from_dict({"number": list(range(count))})}
    parts = [_part(held, f"validation[{side} 32 of seed 42]")["number"][:] for side in ("first", "after")]
    assert tuple(len(part) for part in parts) == sizes
    # As the papers' code draws them: the whole list is shuffled by Python's generator, then cut.
    rows = list(range(count))
    random.seed(42)
    random.shuffle(rows)
    assert [*parts[0], *parts[1]] == rows
    assert _part(held, "test[first 32 of seed 42]") is None
