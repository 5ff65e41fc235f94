"""Stored statistics of experts' data: what an earlier run collected, held against the models at hand. No torch here."""

from collections.abc import Mapping
from pathlib import Path

from fusionbench.errors import CheckpointError, ConfigError
from fusionbench.weights.headers import Source
from fusionbench.weights.sources import open_source

STATISTICS = "statistics"
"""The parameter of methods that look at data before the merge: a folder of what an earlier run saw."""


def open_statistics(folder: Path, experts: Mapping[str, Source], method: str) -> dict[str, Source]:
    """Return each expert's statistics from `<folder>/<expert>`.

    Raises:
        CheckpointError: where an expert's are missing.
        ConfigError: where they were collected for another method, or of another model.
    """
    return {name: _of_expert(folder, name, expert, method) for name, expert in experts.items()}


def _of_expert(folder: Path, name: str, expert: Source, method: str) -> Source:
    if not (folder / name).is_dir():
        raise CheckpointError(
            f"method.{STATISTICS}={folder} has none of the expert {name!r}: no folder {folder / name}. "
            "Give the folder that holds one a expert, such as <run>/artefacts/statistics."
        )
    source = open_source(folder / name)
    text = getattr(source, "metadata", {})
    for key, value in {"method": method, "model": expert.fingerprint()}.items():
        if text.get(key) != value:
            raise ConfigError(
                f"{folder / name} was collected for the {key} {text.get(key, 'unknown')}, here it is {value}. "
                f"Leave method.{STATISTICS} out to collect anew."
            )
    return source
