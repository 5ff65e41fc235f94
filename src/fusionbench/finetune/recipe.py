"""How a model is fine-tuned: the numbers, and the settings that papers and their code used. No torch here."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from fusionbench.config import Config
from fusionbench.config.fields import WHOLE, Count, Names, Seed
from fusionbench.errors import ConfigError
from fusionbench.registry import suggestion

if TYPE_CHECKING:
    from fusionbench.training import Steps

Tuning = Literal["full", "lora", "l_lora", "ia3"]
Natural = Annotated[int, Field(ge=0), WHOLE]
Decay = Annotated[float, Field(ge=0, lt=1)]


class AdapterRecipe(Config):
    """What an adapter changes, and how much: r = 16 and α = 32 are the papers' for CLIP and Flan-T5."""

    r: Count = Field(default=16, description="rank of B·A (LoRA)")
    alpha: Annotated[float, Field(gt=0)] = Field(default=32.0, description="α; B·A is scaled by α/r (LoRA)")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.1, description="on the inputs of A (LoRA)")
    targets: Annotated[Names, Field(min_length=1)] | None = Field(
        default=None,
        description="linear maps that are adapted, by the ends of their names; null: the architecture's usual",
    )
    feedforward: Names | None = Field(
        default=None, description="those targets whose inputs, not outputs, are scaled ((IA)³); null: the usual"
    )


class DecayRecipe(Config):
    """How the rates fall by steps."""

    every: Count = Field(description="optimizer steps between falls")
    factor: Annotated[float, Field(gt=0, le=1)] = Field(default=0.5, description="of each fall")


class FinetuneRecipe(Config):
    """Optimizer, rates, steps and data order of one fine-tuning; the optimizer is AdamW."""

    steps: Natural = Field(default=4000, description="optimizer steps")
    batch: Count = Field(default=32, description="examples a step; with several tasks, of each")
    learning_rate: Annotated[float, Field(gt=0)] = Field(default=1e-5, description="the full rate")
    weight_decay: Annotated[float, Field(ge=0)] = Field(default=0.0, description="decoupled; 0 makes it Adam")
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    schedule: Literal["constant", "cosine", "linear", "step"] = "constant"
    warmup: Natural = Field(default=0, description="steps of rising rates")
    floor: Annotated[float, Field(ge=0, le=1)] = Field(default=0.0, description="share of the rate left at the end")
    accumulate: Count = Field(default=1, description="batches averaged into one step")
    clip: Annotated[float, Field(gt=0)] | None = Field(default=None, description="largest norm of all gradients")
    precision: Literal["no", "bf16"] = "no"
    seed: Seed = Field(default=0, description="of the data's order and of dropout")
    validate_every: Natural = Field(default=0, description="steps between validations on the validation split; 0: none")
    keep: Literal["last", "best"] = Field(default="last", description="best: the weights of the best validation")
    adapter: AdapterRecipe | None = Field(
        default=None, description="of tuning=lora, l_lora and ia3; null: the usual one"
    )
    only: Annotated[Names, Field(min_length=1)] | None = Field(
        default=None, description="words between the dots of the names of tensors that alone are trained; null: all"
    )
    balance: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="factor of the loss that balances a mixture's routers; Mixtral's code has 0.001"
    )

    decay: DecayRecipe | None = Field(default=None, description="of schedule=step")

    @model_validator(mode="after")
    def _decay_belongs_to_step(self) -> Self:
        if (self.schedule == "step") is (self.decay is None):
            raise ValueError("schedule=step needs decay.every, and no other schedule has a decay")
        return self

    @model_validator(mode="after")
    def _best_is_of_validations(self) -> Self:
        if self.keep == "best" and not self.validate_every:
            raise ValueError("keep=best needs validate_every, the steps between validations")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Say nothing of what came later and is not used: recipes are part of build ids."""
        document: dict[str, Any] = handler(self)
        for later in ("adapter", "only", "balance", "decay"):
            if not document.get(later):
                document.pop(later, None)
        return document

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
            decay=(self.decay.every, self.decay.factor) if self.decay is not None else None,
        )


PRESETS: dict[str, FinetuneRecipe] = {
    "clip/paper": FinetuneRecipe(steps=4000, batch=32, learning_rate=1e-5),
    "clip/fusion_bench": FinetuneRecipe(steps=4000, batch=128, learning_rate=1e-5, schedule="cosine", seed=42),
    "clip/task_vectors": FinetuneRecipe(
        steps=2000, batch=128, learning_rate=1e-5, weight_decay=0.1, schedule="cosine", warmup=200
    ),
    "clip/lora": FinetuneRecipe(
        steps=2000, batch=32, learning_rate=1e-5, schedule="cosine", adapter=AdapterRecipe(r=16, alpha=32, dropout=0.1)
    ),
    "t5/lora": FinetuneRecipe(
        steps=2000, batch=16, learning_rate=4e-5, seed=42, adapter=AdapterRecipe(r=16, alpha=32, dropout=0.1)
    ),
    "t5/ties": FinetuneRecipe(
        steps=75000, batch=256, accumulate=4, learning_rate=1e-4, precision="bf16", seed=42, validate_every=100,
        keep="best",
    ),
    "scene/nyuv2": FinetuneRecipe(
        steps=2000, batch=16, learning_rate=1e-4, schedule="step", decay=DecayRecipe(every=500, factor=0.5)
    ),
    "t5/ia3": FinetuneRecipe(steps=2000, batch=16, learning_rate=1e-4, seed=42, adapter=AdapterRecipe()),
}  # fmt: skip
"""By family and origin. CLIP: FusionBench (arXiv:2406.03280), the YAML of its code, task vectors (arXiv:2212.04089),
LoRA of FusionBench's documentation. T5: LoRA of Concrete Subspace (arXiv:2312.06173), T5-base of TIES
(arXiv:2306.01708: batches of 1024 as 4 × 256; how often it validates is not printed), (IA)³ at TIES' rate with LoRA's
steps. Scenes: NYUv2 of FusionBench, Adam at 1e-4, halved every 10 of 40 epochs; its 795 images are 50 batches of 16."""


def preset(name: str) -> FinetuneRecipe:
    """Return the settings that a paper or its code used.

    Raises:
        ConfigError: where there are none of that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"There is no fine-tuning preset {name!r}. {suggestion(name, list(PRESETS))}")
    return PRESETS[name]
