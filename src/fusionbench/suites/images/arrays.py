"""The arrays that come with the package; origin and licences are in `suites/data/NOTICE.md`."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusionbench.errors import MissingData

_FOLDER = Path(__file__).resolve().parents[1] / "data"


@cache
def load_arrays(name: str) -> dict[str, NDArray[Any]]:
    """Read `suites/data/<name>.npz` once; the arrays are read-only.

    Raises:
        MissingData: The installation lacks the file.
    """
    path = _FOLDER / f"{name}.npz"
    if not path.is_file():
        raise MissingData(f"The image array {path} is missing from this installation. Reinstall fusionbench.")
    with np.load(path, allow_pickle=False) as file:
        arrays: dict[str, NDArray[Any]] = {key: file[key] for key in file.files}
    for array in arrays.values():
        array.flags.writeable = False
    return arrays
