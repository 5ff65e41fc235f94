"""How long a training is and how its learning rate moves: a pure function of the step, so nothing of it is kept."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from fusionbench.errors import ConfigError

Schedule = Literal["constant", "cosine", "linear", "step"]


@dataclass(frozen=True, slots=True)
class Steps:
    """The course of one training, apart from its data and its loss.

    Attributes:
        count: optimizer steps, 0 or more.
        schedule: what the rates do after the warm-up.
        warmup: steps over which the rates rise linearly; the first step has 1 / warmup of the full rate.
        floor: share of the full rate that is left after the last step, in [0, 1]; of "cosine" and "linear".
        accumulate: batches whose gradients are averaged into one optimizer step.
        clip: largest Euclidean norm of all gradients together; None leaves them alone.
        seed: of torch's generator while the steps run (dropout); the data has seeds of its own.
        validate_every: steps between validations, of which there is one after the last step too; 0 is never.
        keep: "best" puts the tensors of the best validation back at the end.
        better: which way the first number of a validation is good.
        decay: of "step": steps between falls of the rates, and the factor of each, in (0, 1].
    """

    count: int
    schedule: Schedule = "constant"
    warmup: int = 0
    floor: float = 0.0
    accumulate: int = 1
    clip: float | None = None
    seed: int = 0
    validate_every: int = 0
    keep: Literal["last", "best"] = "last"
    better: Literal["higher", "lower"] = "higher"
    decay: tuple[int, float] | None = None

    def __post_init__(self) -> None:
        if self.schedule not in get_args(Schedule):
            raise ConfigError(f"There is no schedule {self.schedule!r}. Choose {', '.join(get_args(Schedule))}.")
        wrong = {name: getattr(self, name) for name in ("count", "warmup", "validate_every") if getattr(self, name) < 0}
        if wrong or self.accumulate < 1:
            raise ConfigError(
                f"Steps cannot be negative, and accumulate is 1 or more; given: {wrong or self.accumulate}."
            )
        if not 0 <= self.floor <= 1:
            raise ConfigError(f"floor is a share of the rate; {self.floor} was given. Choose a number from 0 to 1.")

        if (self.schedule == "step") is (self.decay is None):
            raise ConfigError(
                'schedule="step" needs decay=(steps between falls, factor), and no other schedule has it.'
            )
        if self.decay is not None and (self.decay[0] < 1 or not 0 < self.decay[1] <= 1):
            raise ConfigError(
                f"decay is (steps between falls, factor); {self.decay} was given. Choose at least 1 step, and a factor "
                "above 0 and at most 1."
            )

    def factor(self, step: int) -> float:
        """Return the factor on every learning rate at a step, counted from 0.

        With w warm-up steps of n: (step + 1) / w while step < w; after that, with p = (step − w) / (n − w), 1 for
        "constant", floor + (1 − floor) · (1 + cos πp) / 2 for "cosine", floor + (1 − floor) · (1 − p) for "linear", and
        γ^⌊(step − w) / m⌋ for "step" with decay (m, γ).
        """
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.decay is not None:
            every, falls = self.decay
            return float(falls ** ((step - self.warmup) // every))
        part = (step - self.warmup) / max(self.count - self.warmup, 1)
        falling = {"constant": 1.0, "cosine": (1 + math.cos(math.pi * part)) / 2, "linear": 1 - part}[self.schedule]
        return falling if self.schedule == "constant" else self.floor + (1 - self.floor) * falling
