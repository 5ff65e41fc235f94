"""Captioned images beside the tasks, so that the image tower does not see the eight tasks alone."""

import numpy as np
from numpy.typing import NDArray

from fusionbench.errors import ConfigError
from fusionbench.suites.images.artwork import EMOJI_DOMAIN, SIGNS_DOMAIN, capture_others
from fusionbench.suites.images.captions import caption, check_share
from fusionbench.suites.images.real import FASHION_DOMAIN, FASHION_WORDS, fashion_rest
from fusionbench.suites.images.streams import stream


def make_broad(
    *, seed: int, emoji: int = 300, signs: int = 150, fashion: int | None = None, generic_share: float = 0.90
) -> tuple[NDArray[np.uint8], list[str]]:
    """The wider part of the pretraining mixture: designs and images that belong to no task split.

    Args:
        seed: Seed of the captures and captions.
        emoji: Snapshots of 300 other emoji, captioned by name; beyond 300 a design comes again.
        signs: Snapshots of 150 other road signs, captioned by name; beyond 150 a design comes again.
        fashion: Fashion-MNIST images outside the splits, at most 900; None takes all.
        generic_share: Share of these whose caption is just "a clothes item", in [0, 1]; the others name the class.

    Returns:
        Images (emoji + signs + fashion, 32, 32, 3) in this order, and a caption for each.

    Raises:
        ConfigError: A count is negative or larger than its source, or the share is not in [0, 1].
    """
    check_share("generic_share", generic_share)
    rest = fashion_rest()
    fashion = len(rest.labels) if fashion is None else fashion
    if min(emoji, signs, fashion) < 0 or fashion > len(rest.labels):
        raise ConfigError(
            f"make_broad was asked for emoji={emoji}, signs={signs}, fashion={fashion} images. "
            f"Counts start at 0, and fashion has {len(rest.labels)}."
        )
    emoji_images, emoji_names = capture_others("emoji", emoji, stream(seed, "broad", "emoji"))
    sign_images, sign_names = capture_others("signs", signs, stream(seed, "broad", "signs"))
    rng = stream(seed, "broad", "fashion")
    chosen = rng.permutation(len(rest.labels))[:fashion]
    generic = rng.random(fashion) < generic_share
    return np.concatenate([emoji_images, sign_images, rest.images[chosen]]), [
        *(caption(EMOJI_DOMAIN, name) for name in emoji_names),
        *(caption(SIGNS_DOMAIN, name) for name in sign_names),
        *(
            f"a {FASHION_DOMAIN}" if plain else caption(FASHION_DOMAIN, FASHION_WORDS[label])
            for plain, label in zip(generic, rest.labels[chosen], strict=True)
        ),
    ]
