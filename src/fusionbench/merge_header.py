"""What each file of a merged model says of its making: recipe, identity of the inputs, versions. No torch here."""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from fusionbench.config import Recipe, identity
from fusionbench.registry import Entry


def header(recipe: Recipe, entry: Entry, inputs: Mapping[str, str]) -> dict[str, Any]:
    """Return what each file of the output says of its making."""
    document = recipe.dump()
    document.pop("runtime")
    return {
        "schema": 1,
        "identity": identity(recipe, inputs=inputs, versions={entry.name: entry.version}, build=None),
        "recipe": document,
        "inputs": dict(inputs),
        "versions": {
            "fusionbench": version("fusionbench"),
            "python": platform.python_version(),
            entry.name: entry.version,
        },
    }
