"""What `mini/scene` is made of, by size: every value is part of the build id. No torch here."""

from functools import cache
from typing import Any

from fusionbench.config import Config
from fusionbench.config.fields import Count, Names
from fusionbench.suites.mini.assembly import MiniRecipe, read_recipes
from fusionbench.suites.mini.image_recipe import Mixture, Supervised
from fusionbench.suites.mini.recipe import TaskImages

NAME = "mini/scene"


class Views(Config):
    """How many scenes are drawn, and how large their images are."""

    train: Count = 1200
    validation: Count = 150
    test: Count = 300
    height: Count = 64
    width: Count = 80


class Encoder(Config):
    """The encoder and its heads; see `fusionbench.families.scene_encoder.SceneConfig`."""

    stem_width: Count = 16
    widths: tuple[int, ...] = (8, 16, 24, 32)
    depths: tuple[int, ...] = (1, 1, 2, 1)
    output_stride: Count = 8
    head_width: Count = 32
    head_rates: tuple[int, ...] = (1, 2, 4)
    head_dropout: float = 0.1


class MiniSceneRecipe(MiniRecipe):
    """One size of the suite; the base sees `images` of the named image tasks and the mixture, and no scene."""

    scenes: Views = Views()
    tasks: Names
    images: TaskImages = TaskImages()
    mixture: Mixture = Mixture(share=1, coarse=1)
    encoder: Encoder = Encoder()
    pretraining: Supervised


@cache
def recipes() -> tuple[dict[str, MiniSceneRecipe], dict[str, dict[str, Any]]]:
    """Return the recipe of each size, and the parameters of methods that suit this suite, by method."""
    return read_recipes(NAME, MiniSceneRecipe)
