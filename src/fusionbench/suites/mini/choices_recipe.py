"""What `mini/t5_choices` and `mini/ia3` are made of, by size: every value is part of the build id."""

from functools import cache
from typing import Any

from fusionbench.suites.mini.assembly import read_recipes
from fusionbench.suites.mini.t5_recipe import MiniT5AdapterRecipe, MiniT5Recipe

NAME, IA3_NAME = "mini/t5_choices", "mini/ia3"
TIES = ("rewording", "science", "comparison", "ending", "response", "blank", "pronoun")
"""Kinds of the tasks on which the TIES papers fine-tune T5 (arXiv:2306.01708, Table 1), in that order."""
IA3 = (
    "consequence",
    "commitment",
    "blank",
    "sense",
    "pronoun",
    "cause",
    "continuation",
    "ending",
    "round1",
    "round2",
    "round3",
)
"""Kinds of the tasks of their (IA)³ models, in that order."""
WORDINGS = {NAME: 1, IA3_NAME: 3}
"""How many of a task's wordings a suite asks; the papers ask T5 the first, and take the median over all for (IA)³."""


@cache
def recipes() -> tuple[dict[str, MiniT5Recipe], dict[str, dict[str, Any]]]:
    """Return the recipe of each size, and the parameters of methods that suit this suite, by method."""
    return read_recipes(NAME, MiniT5Recipe)


@cache
def ia3_recipes() -> tuple[dict[str, MiniT5AdapterRecipe], dict[str, dict[str, Any]]]:
    """Return the same of the suite of (IA)³ experts."""
    return read_recipes(IA3_NAME, MiniT5AdapterRecipe)
