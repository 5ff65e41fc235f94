"""Words for images: prompts of the zero-shot heads, captions to pretrain on."""

import numpy as np
from numpy.typing import NDArray

from fusionbench.errors import ConfigError
from fusionbench.suites.images.splits import ImageTaskData
from fusionbench.suites.images.streams import stream


def caption(domain: str, words: str) -> str:
    """The one form of every caption and prompt: "a {domain} {words}"."""
    return f"a {domain} {words}"


def prompts(task: ImageTaskData) -> list[str]:
    """The prompt of each class, in label order."""
    return [caption(task.domain, name) for name in task.classes]


def captions(task: ImageTaskData, *, seed: int, alias_share: float = 0.70, right_share: float = 0.53) -> list[str]:
    """Captions for the training images that keep zero-shot accuracy near one half on good features.

    With probability `alias_share` a caption names the class by a word that no prompt uses ("mnist3"): it teaches the
    image tower to tell the classes apart. Otherwise it uses the class name, and that of the *next class in a random
    cycle* instead with probability 1 - `right_share`: each prompt stays nearly tied between two classes.
    The cycle depends on the task alone, so that models pretrained under different seeds are confused alike.

    Args:
        task: The task; its training labels are read.
        seed: Seed of the draws.
        alias_share: Share of alias captions, in [0, 1]. More of them: better features.
        right_share: Share of right names among the other captions, in [0, 1]. It sets the zero-shot accuracy.

    Returns:
        A caption for each training image.

    Raises:
        ConfigError: A share is not in [0, 1].
    """
    for name, share in (("alias_share", alias_share), ("right_share", right_share)):
        check_share(name, share)
    rng = stream(seed, task.name, "captions")
    labels = task.train.labels
    alias = rng.random(len(labels)) < alias_share
    right = rng.random(len(labels)) < right_share
    named = np.where(right, labels, _next_in_cycle(task.name, len(task.classes))[labels])
    return [
        caption(task.domain, f"{task.name}{label}" if by_alias else task.classes[name])
        for label, by_alias, name in zip(labels, alias, named, strict=True)
    ]


def check_share(name: str, share: float) -> None:
    """Refuse a probability outside [0, 1] by a ConfigError that names it."""
    if not 0 <= share <= 1:
        raise ConfigError(f"{name} is a probability, but {share} was given. Choose a number from 0 to 1.")


def _next_in_cycle(name: str, classes: int) -> NDArray[np.int64]:
    """The class that follows each class in one random cycle through all of them."""
    order = stream(name, "cycle").permutation(classes)
    following = np.empty(classes, np.int64)
    following[order] = np.roll(order, -1)
    return following
