"""What `mini/image` is made of, by size: every value is part of the build id. No torch here."""

from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from fusionbench.config import Config
from fusionbench.config.fields import Count, Names
from fusionbench.suites.mini.assembly import MiniRecipe, read_recipes
from fusionbench.suites.mini.recipe import TaskImages

if TYPE_CHECKING:
    from fusionbench.training import Steps

NAME = "mini/image"


class Mixture(Config):
    """The images on which a base is pretrained, all classes together."""

    emoji: int = Field(default=4500, description="captures of 300 emoji that belong to no task, a class each")
    signs: int = Field(default=2250, description="captures of 150 road signs that belong to no task, a class each")
    share: float = Field(default=0.5, ge=0, le=1, description="of each task's training images, under coarse labels")
    coarse: Count = Field(default=2, description="how many neighbouring classes of a task share a coarse label")


class Backbone(Config):
    """Widths and depths of the ResNet."""

    embedding: Count = 24
    widths: tuple[int, ...] = (24, 48, 96, 192)
    depths: tuple[int, ...] = (1, 1, 1, 1)
    layer: Literal["basic", "bottleneck"] = "basic"


class Supervised(Config):
    """How a base is trained from nothing to tell the classes of the mixture apart: AdamW, a warm-up, then a cosine."""

    steps: int
    batch: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup: int = 50
    floor: float = 0.02
    smoothing: float = Field(default=0.1, ge=0, lt=1, description="share of each label spread over all classes")

    def course(self, seed: int) -> "Steps":
        """Return the steps for the training loop."""
        from fusionbench.training import Steps

        return Steps(self.steps, "cosine", self.warmup, self.floor, seed=seed)


class MiniImageRecipe(MiniRecipe):
    """One size of the suite."""

    tasks: Names
    images: TaskImages = TaskImages()
    mixture: Mixture = Mixture()
    backbone: Backbone = Backbone()
    pretraining: Supervised


@cache
def recipes() -> tuple[dict[str, MiniImageRecipe], dict[str, dict[str, Any]]]:
    """Return the recipe of each size, and the parameters of methods that suit this suite, by method."""
    return read_recipes(NAME, MiniImageRecipe)
