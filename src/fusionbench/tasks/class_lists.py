"""Class names and prompt templates of known image data sets, each list once, to be named in a task. No torch here."""

import json
from collections.abc import Sequence
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


def agreed_class_names(
    task: str, dataset: str, listed: Sequence[str] | None, brought: Sequence[str] | None
) -> tuple[str, ...]:
    """Return a task's class names: those that it lists, else those that its data set brings.

    Mirrors of one data set may number its classes differently, which no accuracy tells apart from a bad model.

    Args:
        task: its name.
        dataset: where its examples come from.
        listed: of the task, in the order of the labels.
        brought: of the data set.

    Raises:
        ConfigError: where there are none, where they are not as many, or where they are the same in another order.
    """
    names = listed or brought
    if names is None:
        raise ConfigError(f"{dataset} brings no class names. List them in class_names of the task {task}.")
    if brought is not None and len(brought) != len(names):
        raise ConfigError(
            f"The task {task} lists {len(names)} class names, {dataset} has {len(brought)} classes: "
            f"{', '.join(brought[:10])} …"
        )
    own, theirs = ([name.replace("_", " ").strip().casefold() for name in each] for each in (names, brought or names))
    if own != theirs and sorted(own) == sorted(theirs):
        index = next(index for index, pair in enumerate(zip(own, theirs, strict=True)) if pair[0] != pair[1])
        raise ConfigError(
            f"The class names of the task {task} are not in the order of the labels of {dataset}: class {index} is "
            f"{names[index]!r} in the list and {(brought or names)[index]!r} in the data. Put them in the order of "
            "the data, or take another mirror of it."
        )
    return tuple(names)
