"""What `mini/clip` is made of, by size: every value is part of the build id."""

from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import Field

from fusionbench.config import Config
from fusionbench.suites.mini.assembly import MiniRecipe, read_recipes

if TYPE_CHECKING:
    from fusionbench.training import Steps

NAME = "mini/clip"


class TaskImages(Config):
    """How many images are made."""

    train: int | None = Field(default=None, description="of each task; null: the task's full size")
    validation: int | None = Field(default=None, description="of each task; null: the task's full size")
    test: int | None = Field(default=None, description="of each task; null: the task's full size")


class Images(TaskImages):
    """How many images are made beside those of the tasks, and how they are captioned."""

    emoji: int = Field(default=300, description="other emoji in the pretraining mixture")
    signs: int = Field(default=150, description="other road signs in the pretraining mixture")
    fashion: int | None = Field(default=None, description="other clothes in the pretraining mixture; null: all")
    alias_share: float = Field(default=0.70, description="captions that name the class by a word which no prompt uses")
    right_share: float = Field(default=0.53, description="of the other captions, those that name the right class")


class Towers(Config):
    """Widths and depths of the two towers."""

    width: int = 64
    depth: int = 4
    mlp: int = 128
    heads: int = 4
    patch: int = 8
    projection: int = 64
    text_width: int = 64
    text_depth: int = 1


class Pretraining(Config):
    """How both towers are trained from nothing: AdamW, a warm-up, then a cosine down to `floor`."""

    steps: int
    batch: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    warmup: int = 50
    floor: float = 0.05
    logit_scale: float = Field(default=20.0, description="at the start; it is learned")

    def course(self, seed: int) -> "Steps":
        """Return the steps for the training loop."""
        from fusionbench.training import Steps

        return Steps(self.steps, "cosine", self.warmup, self.floor, seed=seed)


class MiniClipRecipe(MiniRecipe):
    """One size of the suite."""

    images: Images = Images()
    towers: Towers = Towers()
    pretraining: Pretraining


@cache
def recipes() -> tuple[dict[str, MiniClipRecipe], dict[str, dict[str, Any]]]:
    """Return the recipe of each size, and the parameters of methods that suit this suite, by method."""
    return read_recipes(NAME, MiniClipRecipe)
