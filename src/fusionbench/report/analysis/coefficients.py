"""Merging coefficients that a run learned, as matrices: each expert's λ by tensor, and its mean by block. No torch."""

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import numpy as np

from fusionbench.errors import MissingData
from fusionbench.report.analysis.square import Square
from fusionbench.weights.headers import Source
from fusionbench.weights.roles import places
from fusionbench.weights.sources import open_source

ARTEFACT = Path("artefacts") / "coefficients"
KEY = "coefficients"
OUTSIDE = "outside"


def coefficients(folder: Path) -> dict[str, Square]:
    """Return what AdaMerging or Concrete AdaMerging learned in a run (arXiv:2310.02575, figures 4 and 5).

    Args:
        folder: of a finished run.

    Returns:
        "coefficients": mean λ of each expert (rows) in each block (columns); and, where λ was learned by tensor,
        "coefficients-tensors": each λ, tensors (rows) in the model's order, experts as columns.

    Raises:
        MissingData: where the run learned no coefficients.
    """
    place = folder / ARTEFACT
    if not place.is_dir():
        raise MissingData(
            f"{folder} holds no learned coefficients ({ARTEFACT} is missing). Give the folder of a finished run of "
            "adamerging or concrete_adamerging."
        )
    source = open_source(place)
    metadata: dict[str, str] = getattr(source, "metadata", {})
    experts, names = (metadata[key].split("\n") for key in ("experts", "names"))
    values = _values(source)
    if values.shape[1] == 1:
        title = "λ of each expert, one for the whole model"
        return {KEY: Square(title, experts, ["all tensors"], values, None, None)}
    where = places(names)
    blocks: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        place_of = where[name]
        block = OUTSIDE if place_of.depth is None else f"{place_of.stack} block {place_of.depth}".strip()
        blocks.setdefault(block, []).append(index)
    means = np.stack([values[:, members].mean(axis=1) for members in blocks.values()], axis=1)
    return {
        KEY: Square("λ of each expert, mean over the tensors of a block", experts, list(blocks), means),
        f"{KEY}-tensors": Square("λ of each tensor and expert", _shortened(names), experts, values.T),
    }


def _values(source: Source) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return the coefficients, `(experts, groups)`."""
    shape = source.specs[KEY].shape
    read: np.ndarray[tuple[int, int], np.dtype[np.float64]] = (
        np.frombuffer(source.read(KEY), np.float32).astype(np.float64).reshape(shape)
    )
    return read


def _shortened(names: Sequence[str]) -> list[str]:
    """Return the names without the parts that all of them begin with."""
    parts = [name.split(".") for name in names]
    shared = sum(1 for _ in takewhile(lambda words: len(set(words)) == 1, zip(*parts, strict=False)))
    return [".".join(part[min(shared, len(part) - 1) :]) for part in parts]
