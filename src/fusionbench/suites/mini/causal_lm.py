"""`mini/causal_lm`: a small Llama, an expert each for multiple choice, arithmetic and sentiment, and plain language.

It is built once a size and seed and kept in the cache. What it is and is not: docs/suites-mini-causal_lm.md. No torch
here until something is built.
"""

from fusionbench.suites.mini.assembly import built_here
from fusionbench.suites.mini.causal_lm_recipe import NAME, recipes
from fusionbench.suites.model import ResolvedSuite
from fusionbench.suites.registration import Progress, suite

VERSION = 1
"""Raised by whoever changes what the same recipe builds, the texts' code included."""
PARTS = "fusionbench.suites.mini.causal_lm_parts:PARTS"


@suite(NAME, version=VERSION, method_defaults=recipes()[1])
def mini_causal_lm(*, size: str, seed: int, progress: Progress | None) -> ResolvedSuite:
    """Choices, written answers and perplexity on generated texts, and a Llama trained here; needs no network.

    Args:
        size: "tiny" for tests, "small", or "large".
        seed: of texts, weights and batches.
        progress: told how a build goes on.

    Raises:
        ConfigError: where there is no such size.
        Interrupted: on Ctrl-C; what was finished is kept, and the same call goes on.
    """
    return built_here(NAME, VERSION, recipes(), PARTS, size=size, seed=seed, progress=progress, inputs={})
