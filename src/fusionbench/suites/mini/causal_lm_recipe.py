"""What `mini/causal_lm` is made of, by size: every value is part of the build id. No torch here."""

from functools import cache
from typing import Annotated, Any

from pydantic import Field

from fusionbench.config import Config
from fusionbench.config.fields import Count
from fusionbench.suites.mini.assembly import MiniRecipe, read_recipes
from fusionbench.suites.mini.text_recipe import TextPretraining

NAME = "mini/causal_lm"


class Examples(Config):
    """How many examples each task has, and how many plain texts the base reads."""

    train: Count = 2000
    validation: Count = 200
    test: Count = 500
    plain: Count = Field(default=6000, description="training texts of `language`, whose other splits are as large")


class Decoder(Config):
    """Widths and depths of the Llama; several query heads share one head of keys and values."""

    width: Count = 64
    depth: Count = 3
    heads: Count = 4
    key_value_heads: Count = 2
    feedforward: Count = 160


class MiniCausalLmRecipe(MiniRecipe):
    """One size of the suite."""

    texts: Examples = Examples()
    network: Decoder = Decoder()
    pretraining: TextPretraining
    right: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Of the questions in the pretraining, the share with the right answer; the others have another one."""


@cache
def recipes() -> tuple[dict[str, MiniCausalLmRecipe], dict[str, dict[str, Any]]]:
    """Return the recipe of each size, and the parameters of methods that suit this suite, by method."""
    return read_recipes(NAME, MiniCausalLmRecipe)
