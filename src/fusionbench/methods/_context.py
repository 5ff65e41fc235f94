"""All that a method of the kind `whole` is given beside models and data, and through which it leaves something."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fusionbench.families import Family
from fusionbench.mixing import Fused
from fusionbench.training import Loop
from fusionbench.weights.tensors import Weights

Scores = Mapping[str, float]
"""Primary value of each task."""


@dataclass(frozen=True, slots=True)
class Context:
    """What the runner lends a method.

    Attributes:
        seed: of every random choice.
        device: where to compute.
        memory: bytes that may be used; None is no bound.
        family: how the pool's models run.
        loop: the one training loop, with the run's folder for checkpoints and its progress.
        save: keeps an artefact of the run (coefficients, masks, statistics) as safetensors, with text beside it.
        load: returns an artefact that an earlier attempt of the same run saved, or None.
        evaluate: scores a model on the validation split of the pool's tasks; the test split is out of reach.
        used: tells the report which data were looked at: `used("adapted", split=…, tasks=…, count=…)`.
        note: tells the report what a reader should know.
    """

    seed: int
    device: torch.device
    memory: int | None
    family: Family
    loop: Loop
    save: Callable[[str, Weights, Mapping[str, str]], None]
    load: Callable[[str], Weights | None]
    evaluate: Callable[[Fused], Scores]
    used: Callable[..., Any]
    note: Callable[[str], None]
