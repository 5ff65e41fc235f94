"""`mini/smollm2`: the real SmolLM2-135M out of a package, the texts of `mini/causal_lm`, and LoRA experts.

It is opt-in: it needs two packages and minutes a step on a slow machine. What it is and is not:
docs/suites-mini-causal_lm.md. No torch here until something is built.
"""

from fusionbench.suites.mini.assembly import built_here
from fusionbench.suites.mini.smollm2_recipe import NAME, recipes
from fusionbench.suites.model import ResolvedSuite
from fusionbench.suites.registration import Progress, suite

VERSION = 1
"""Raised by whoever changes what the same recipe builds, the texts' code included."""
PARTS = "fusionbench.suites.mini.smollm2_parts:PARTS"


@suite(NAME, version=VERSION, method_defaults=recipes()[1])
def mini_smollm2(*, size: str, seed: int, progress: Progress | None) -> ResolvedSuite:
    """The tasks of `mini/causal_lm`, the real SmolLM2-135M and LoRA experts; needs two packages, and patience.

    Args:
        size: "tiny" to see that it runs, "small", or "large".
        seed: of texts, adapters and batches.
        progress: told how a build goes on.

    Raises:
        ConfigError: where there is no such size.
        MissingExtra: where the package that holds the weights, or the one that reads them, is not installed.
        Interrupted: on Ctrl-C; what was finished is kept, and the same call goes on.
    """
    return built_here(NAME, VERSION, recipes(), PARTS, size=size, seed=seed, progress=progress, inputs={})
