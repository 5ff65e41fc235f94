"""What `fusionbench finetune` is asked for: which suite, which tasks, how, and with which settings. No torch here."""

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from fusionbench.config import Config, SuiteConfig
from fusionbench.config.fields import Count, Device, Names, Text
from fusionbench.config.runtime import TrackerName
from fusionbench.errors import ConfigError
from fusionbench.finetune.recipe import FinetuneRecipe, Natural, Tuning, preset
from fusionbench.overrides import apply, expand_shorthands


class FinetuneRequest(Config):
    """One call of `fusionbench finetune`; `recipe` has what is not at the preset's value."""

    suite: SuiteConfig
    tasks: Names | None = Field(default=None, description="which tasks; null: all of the suite")
    tuning: Tuning = Field(default="full", description="what is trained of the tower")
    mtl: bool = Field(default=False, description="one model on all tasks instead of one model each")
    init: Text | None = Field(
        default=None, description="a fused model, by its run's folder or its own, or a pool of them; null: the base"
    )
    teacher: Text | None = Field(
        default=None, description='whose logits are the target, not labels: "base", an expert, or a plain model'
    )
    rounds: Count | None = Field(default=None, description="of a pool: train each model, recombine, and so on")
    averaged: Natural = Field(default=0, description="of a pool: the first rounds that average instead")
    preset: Text | None = Field(default=None, description="settings of a paper or its code, such as clip/paper")
    recipe: dict[str, Any] = Field(default={}, description="settings that differ from the preset's or the defaults")
    device: Device = Field(default="cpu", description="where it is trained; auto: the first accelerator")
    checkpoint_every: Count = Field(default=500, description="steps between checkpoints")
    trackers: tuple[TrackerName, ...] = Field(default=(), description="who is sent the curves")

    @classmethod
    def load(cls, overrides: Sequence[str]) -> "FinetuneRequest":
        """Read a request from overrides.

        Raises:
            ConfigError: naming every wrong key and value.
        """
        document = expand_shorthands(apply({}, overrides))
        # In a recipe a bare list of tasks is its seen ones; here it is only a list.
        if isinstance(document.get("tasks"), dict):
            document["tasks"] = document["tasks"].get("seen")
        if "suite" not in document:
            raise ConfigError("Say whose tasks: add suite=NAME, such as suite=mini/clip.")
        request = cls.read(document, "The request")
        if request.init is None and (request.rounds is not None or request.averaged):
            raise ConfigError("rounds are for a pool of fused models. Name one: init=FOLDER, or leave them out.")
        if request.init is not None and request.device != "cpu":
            raise ConfigError(f"device={request.device}: what a fusion made is trained on the CPU. Leave device out.")
        request.settings()
        return request

    def settings(self) -> FinetuneRecipe:
        """Return the whole recipe of the training.

        Raises:
            ConfigError: naming every wrong setting.
        """
        start = (preset(self.preset) if self.preset is not None else FinetuneRecipe()).model_dump()
        adapter = self.recipe.get("adapter")
        if isinstance(adapter, dict):
            return FinetuneRecipe.read(
                {**start, **self.recipe, "adapter": {**start.get("adapter", {}), **adapter}}, "The fine-tuning recipe"
            )
        return FinetuneRecipe.read({**start, **self.recipe}, "The fine-tuning recipe")
