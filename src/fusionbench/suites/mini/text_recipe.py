"""What the suites of generated texts are made of, by size: every value is part of the build id. No torch here."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fusionbench.config import Config
from fusionbench.config.fields import Count, Names, Text
from fusionbench.errors import ConfigError
from fusionbench.suites.mini.assembly import MiniRecipe

if TYPE_CHECKING:
    from fusionbench.training import Steps


class Texts(Config):
    """Which tasks, and how many examples of each."""

    tasks: Names = (
        "acceptability",
        "inference",
        "paraphrase",
        "answerable",
        "duplicates",
        "entailment",
        "sentiment",
    )
    train: Count = 4000
    validation: Count = 300
    test: Count = 1000


class Transformer(Config):
    """Widths and depths of a small transformer, and the most entries of its vocabulary."""

    width: Count = 128
    depth: Count = 4
    heads: Count = 4
    vocabulary: Count = 512
    positions: Count = 64


class TextPretraining(Config):
    """How a base is trained from nothing on the tasks' unlabelled training texts: AdamW, a warm-up, then a cosine."""

    steps: int
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: int = 50
    floor: float = 0.05
    masked: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the tokens that a masked language model has to guess."""

    def course(self, seed: int) -> "Steps":
        """Return the steps for the training loop."""
        from fusionbench.training import Steps

        return Steps(self.steps, "cosine", self.warmup, self.floor, clip=1.0, seed=seed)


class MiniTextRecipe(MiniRecipe):
    """One size of a suite; its base is pretrained here, or comes with a package."""

    texts: Texts = Texts()
    transformer: Transformer = Transformer()
    pretraining: TextPretraining | None = None
    package: Text | None = None
    """A package on PyPI that holds a model, which is then the base; nothing is pretrained."""

    @property
    def training(self) -> TextPretraining:
        """How the base is pretrained.

        Raises:
            ConfigError: where the recipe does not say it.
        """
        if self.pretraining is None:
            raise ConfigError("The recipe has no pretraining. Say how many steps: pretraining: {steps: N}.")
        return self.pretraining
