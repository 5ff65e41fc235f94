"""Class names and prompt templates of known image data sets, each list once, to be named in a task. No torch here."""

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

from fusionbench.errors import ConfigError
from fusionbench.registry import suggestion


class ClassList(NamedTuple):
    """What the classes of a data set are called, and how an image of one is described.

    The lists are those of CLIP (arXiv:2103.00020) as the task arithmetic papers use them (arXiv:2212.04089).

    Attributes:
        templates: prompts with `{}` where the class name goes.
        class_names: in the order of the labels.
    """

    templates: tuple[str, ...]
    class_names: tuple[str, ...]


@cache
def class_lists() -> dict[str, ClassList]:
    """Return all lists by name."""
    stored = json.loads(Path(__file__).with_name("class_lists.json").read_text(encoding="utf-8"))
    return {name: ClassList(tuple(of["templates"]), tuple(of["class_names"])) for name, of in stored.items()}


def class_list(name: str) -> ClassList:
    """Return one list.

    Raises:
        ConfigError: where there is none of that name, with the nearest.
    """
    known = class_lists()
    if name not in known:
        raise ConfigError(f"There is no list of classes {name!r}. {suggestion(name, list(known))}")
    return known[name]
