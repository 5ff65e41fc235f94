"""What `mini/t5_choices` and `mini/ia3` are made of, by size: every value is part of the build id."""

from functools import cache
from typing import Any

from pydantic import Field

from fusionbench.suites.mini.assembly import read_recipes
from fusionbench.suites.mini.t5_recipe import MiniT5AdapterRecipe, MiniT5Recipe, Mixture, T5Pretraining

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


class ChoicesMixture(Mixture):
    """What the base reads: wordings and span corruption, no questions in a form of their own."""

    aliases: float = Field(default=0.0, le=0.0)
    prompts: float = 0.8
    right: float = 0.5


class ChoicesPretraining(T5Pretraining):
    """How the base is trained.

    Attributes:
        bias_rate: times the learning rate, that of T5's biases by distance. They start near zero and, at the common
            rate, take thousands of steps until a word can look at its neighbour, without which nothing can be looked
            up in a text.
    """

    bias_rate: float


class MiniChoicesRecipe(MiniT5Recipe):
    """One size of the suite of fully fine-tuned experts."""

    mixture: ChoicesMixture = ChoicesMixture()
    pretraining: ChoicesPretraining


@cache
def recipes() -> tuple[dict[str, MiniChoicesRecipe], dict[str, dict[str, Any]]]:
    """Return the recipe of each size, and the parameters of methods that suit this suite, by method."""
    return read_recipes(NAME, MiniChoicesRecipe)


@cache
def ia3_recipes() -> tuple[dict[str, MiniT5AdapterRecipe], dict[str, dict[str, Any]]]:
    """Return the same of the suite of (IA)³ experts."""
    return read_recipes(IA3_NAME, MiniT5AdapterRecipe)
