"""How a model is fine-tuned: the numbers, and the settings that papers and their code used. No torch here."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from fusionbench.config import Config
from fusionbench.config.fields import WHOLE, Count, Seed
from fusionbench.errors import ConfigError
from fusionbench.registry import suggestion

if TYPE_CHECKING:
    from fusionbench.training import Steps

Tuning = Literal["full"]
Natural = Annotated[int, Field(ge=0), WHOLE]


class FinetuneRecipe(Config):
    """Optimizer, rates, steps and data order of one fine-tuning; the optimizer is AdamW."""

    steps: Natural = Field(default=4000, description="optimizer steps")
    batch: Count = Field(default=32, description="examples a step; with several tasks, of each")
    learning_rate: Annotated[float, Field(gt=0)] = Field(default=1e-5, description="the full rate")
    weight_decay: Annotated[float, Field(ge=0)] = Field(default=0.0, description="decoupled; 0 makes it Adam")
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup: Natural = Field(default=0, description="steps of rising rates")
    floor: Annotated[float, Field(ge=0, le=1)] = Field(default=0.0, description="share of the rate left at the end")
    accumulate: Count = Field(default=1, description="batches averaged into one step")
    clip: Annotated[float, Field(gt=0)] | None = Field(default=None, description="largest norm of all gradients")
    precision: Literal["no", "bf16"] = "no"
    seed: Seed = Field(default=0, description="of the data's order and of dropout")
    validate_every: Natural = Field(default=0, description="steps between validations on the validation split; 0: none")
    keep: Literal["last", "best"] = Field(default="last", description="best: the weights of the best validation")

    def course(self) -> "Steps":
        """Return the steps for the training loop."""
        from fusionbench.training import Steps

        return Steps(
            self.steps,
            self.schedule,
            self.warmup,
            self.floor,
            self.accumulate,
            self.clip,
            self.seed,
            self.validate_every,
            self.keep,
        )


PRESETS: dict[str, FinetuneRecipe] = {
    "clip/paper": FinetuneRecipe(steps=4000, batch=32, learning_rate=1e-5),
    "clip/fusion_bench": FinetuneRecipe(steps=4000, batch=128, learning_rate=1e-5, schedule="cosine", seed=42),
    "clip/task_vectors": FinetuneRecipe(
        steps=2000, batch=128, learning_rate=1e-5, weight_decay=0.1, schedule="cosine", warmup=200
    ),
}
"""By family and origin: FusionBench (arXiv:2406.03280), the YAML of its code, task vectors (arXiv:2212.04089)."""


def preset(name: str) -> FinetuneRecipe:
    """Return the settings that a paper or its code used.

    Raises:
        ConfigError: where there are none of that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"There is no fine-tuning preset {name!r}. {suggestion(name, list(PRESETS))}")
    return PRESETS[name]
