"""What `mini/t5` and `mini/t5_lora` are made of, by size: every value is part of the build id."""

from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import Field

from fusionbench.config import Config
from fusionbench.suites.mini.assembly import MiniRecipe, read_recipes
from fusionbench.suites.mini.text_recipe import Texts

if TYPE_CHECKING:
    from fusionbench.training import Steps

NAME, LORA_NAME = "mini/t5", "mini/t5_lora"


class Network(Config):
    """Widths and depths of the T5; its feed-forward networks have a gate, as Flan-T5's."""

    width: int = 64
    depth: int = 2
    heads: int = 4
    feedforward: int = 128
    dropout: float = 0.0


class Mixture(Config):
    """What the base reads in its pretraining, as shares of the examples; the rest is span corruption.

    Attributes:
        aliases: questions in a form of their own, answered by words that no prompt uses, always rightly: they teach
            what the tasks are about without teaching to answer the prompts.
        prompts: the papers' prompts.
        right: of these, the share with the right answer; the others have another one of the task's.
    """

    aliases: float = 0.5
    prompts: float = 0.3
    right: float = 0.6


class T5Pretraining(Config):
    """How the base is trained from nothing: AdamW, a warm-up, then a cosine down to `floor`."""

    steps: int
    batch: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup: int = 100
    floor: float = 0.05
    clip: float = 1.0

    def course(self, seed: int) -> "Steps":
        """Return the steps for the training loop."""
        from fusionbench.training import Steps

        return Steps(self.steps, "cosine", self.warmup, self.floor, clip=self.clip, seed=seed)


class MiniT5Recipe(MiniRecipe):
    """One size of the suite of fully fine-tuned experts."""

    texts: Texts
    network: Network = Network()
    mixture: Mixture = Mixture()
    pretraining: T5Pretraining


class MiniT5AdapterRecipe(MiniRecipe):
    """One size of a suite of adapters, on the data and the base of the suite of fully fine-tuned experts."""

    base_size: str = Field(description="the size of that suite whose base is adapted")


@cache
def recipes() -> tuple[dict[str, MiniT5Recipe], dict[str, dict[str, Any]]]:
    """Return the recipe of each size, and the parameters of methods that suit this suite, by method."""
    return read_recipes(NAME, MiniT5Recipe)


@cache
def lora_recipes() -> tuple[dict[str, MiniT5AdapterRecipe], dict[str, dict[str, Any]]]:
    """Return the same of the suite of LoRA experts."""
    return read_recipes(LORA_NAME, MiniT5AdapterRecipe)
