"""`mini/t5_choices` and `mini/ia3`: a small T5 that chooses among given answers, in the shapes of the TIES papers.

Each is built once a size and seed and kept in the cache. What they are and are not: docs/suites-mini-choices.md. No
torch here until something is built.
"""

from fusionbench.suites.mini.assembly import build_key, built_here
from fusionbench.suites.mini.choices_recipe import IA3_NAME, NAME, ia3_recipes, recipes
from fusionbench.suites.model import ResolvedSuite
from fusionbench.suites.registration import Progress, suite

VERSION = 1
"""Raised by whoever changes what the same recipe builds, the code of the texts included."""
PARTS = "fusionbench.suites.mini.choices_parts:PARTS"
IA3_PARTS = "fusionbench.suites.mini.choices_parts:IA3_PARTS"


@suite(NAME, version=VERSION, method_defaults=recipes()[1])
def mini_t5_choices(*, size: str, seed: int, progress: Progress | None) -> ResolvedSuite:
    """Seven generated tasks of choices in the TIES papers' wordings, and a T5 trained here; needs no network.

    Args:
        size: "tiny" for tests, "small", or "large": a wider and deeper model.
        seed: of texts, weights and batches.
        progress: told how a build goes on.

    Raises:
        ConfigError: where there is no such size.
        Interrupted: on Ctrl-C; what was finished is kept, and the same call goes on.
    """
    return built_here(NAME, VERSION, recipes(), PARTS, size=size, seed=seed, progress=progress, inputs={})


@suite(IA3_NAME, version=VERSION, method_defaults=ia3_recipes()[1])
def mini_ia3(*, size: str, seed: int, progress: Progress | None) -> ResolvedSuite:
    """Eleven generated tasks of choices and (IA)³ experts on the base of `mini/t5_choices`; needs no network.

    Args:
        size: "tiny", "small" or "large", that of `mini/t5_choices`, which is built too where it is missing.
        seed: of texts, weights and batches.
        progress: told how a build goes on.

    Raises:
        ConfigError: where there is no such size.
        Interrupted: on Ctrl-C; what was finished is kept, and the same call goes on.
    """
    sizes, _ = recipes()
    inputs = {"base": build_key(sizes[size], VERSION, size, seed, {}) if size in sizes else ""}
    return built_here(
        IA3_NAME, VERSION, ia3_recipes(), IA3_PARTS, size=size, seed=seed, progress=progress, inputs=inputs
    )
