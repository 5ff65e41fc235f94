"""`mini/encoder`: a small BERT, seven tasks of generated texts in GLUE's form, an expert each, and one of all.

It is built once a size and seed and kept in the cache. What it is and is not: docs/suites-mini-encoder.md. No torch
here until something is built.
"""

from fusionbench.suites.mini.assembly import built_here, read_recipes
from fusionbench.suites.mini.packaged import PACKAGED, package_inputs
from fusionbench.suites.mini.text_recipe import MiniTextRecipe
from fusionbench.suites.model import ResolvedSuite
from fusionbench.suites.registration import Progress, suite

NAME = "mini/encoder"
VERSION = 1
"""Raised by whoever changes what the same recipe builds, the texts' code included."""
PARTS = "fusionbench.suites.mini.encoder_parts:PARTS"


@suite(NAME, version=VERSION, method_defaults=read_recipes(NAME, MiniTextRecipe)[1])
def mini_encoder(*, size: str, seed: int, progress: Progress | None) -> ResolvedSuite:
    """Seven tasks of generated texts in GLUE's form, and a BERT trained here; needs no network.

    Args:
        size: "tiny" for tests, "small", or "large".
        seed: of texts, weights and batches.
        progress: told how a build goes on.

    Raises:
        ConfigError: where there is no such size.
        MissingExtra: where it is to be built, and the package that holds this size's base is not installed.
        Interrupted: on Ctrl-C; what was finished is kept, and the same call goes on.
    """
    recipes = read_recipes(NAME, MiniTextRecipe)
    known = recipes[0].get(size)
    inputs = package_inputs(known.package if known is not None else None, PACKAGED)
    return built_here(NAME, VERSION, recipes, PARTS, size=size, seed=seed, progress=progress, inputs=inputs)
