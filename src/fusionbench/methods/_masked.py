"""One task vector for all tasks and a bit mask for each: models that differ in what of it they switch on."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, FiniteFloat, StrictStr
from torch import Tensor

from fusionbench.config import Config
from fusionbench.errors import CheckpointError
from fusionbench.families import Family
from fusionbench.merge import Pool
from fusionbench.mixing import FusedWeights, PerTask
from fusionbench.mixing.blueprint import read_description
from fusionbench.mixing.build import family_of
from fusionbench.registry import methods
from fusionbench.tasks import Predictor, Task
from fusionbench.weights.checks import fit
from fusionbench.weights.headers import Source, TensorSpec
from fusionbench.weights.plan import Input, Plan, Step, build_plan
from fusionbench.weights.safetensors import open_safetensors
from fusionbench.weights.tensors import SAFETENSORS, TORCH, LazyWeights, Weights, as_bytes, as_tensor, finite
from fusionbench.weights.writer import CheckpointWriter

ABOUT = "per_task.json"
SCALE_BYTES = 8


class _Expert(Config):
    task: StrictStr | None
    scale: FiniteFloat


class _About(Config):
    """`per_task.json`: whose masks lie beside it, and over which base; the first format did not say by which method."""

    format: Literal[1, 2] = 2
    method: StrictStr | None = None
    base: StrictStr
    experts: dict[StrictStr, _Expert] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Masks:
    """What the tasks share and what each has of its own.

    Attributes:
        unified: τ, by canonical name, float32.
        bits: by expert, by name: the mask of each tensor, eight entries a byte, the first in the highest bit.
        scales: λₜ, by expert.
        own: by expert, running statistics of batch normalisation, which no mask can switch.
    """

    unified: Weights
    bits: Mapping[str, Mapping[str, Tensor]]
    scales: Mapping[str, float]
    own: Mapping[str, Weights]

    @property
    def bytes(self) -> int:
        """Bytes that these take beside the base: of τ, of the packed masks, of the factors and the statistics."""
        each = (self.unified, *self.bits.values(), *self.own.values())
        held = sum(tensor.numel() * tensor.element_size() for tensors in each for tensor in tensors.values())
        return held + SCALE_BYTES * len(self.scales)


def pack(mask: Tensor) -> Tensor:
    """Return a mask as `(⌈entries/8⌉,)` uint8, eight entries a byte."""
    return torch.from_numpy(np.packbits(mask.reshape(-1).numpy()))


def unpack(bits: Tensor, shape: Sequence[int]) -> Tensor:
    """Return what `pack` packed, as booleans of a shape."""
    count = int(np.prod(shape, dtype=np.int64))
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=count)).bool().view(tuple(shape))


class MaskedModels:
    """Models θ₀ + λₜ·Mₜ⊙τ, one a task.

    Attributes:
        masks: what they are made of.
        method: by which they were; None where an early file does not say.
        kind: as a report names it.
    """

    kind = "per_task"

    def __init__(
        self, masks: Masks, pool: Pool, family: Family, *, method: str | None, device: torch.device | str = "cpu"
    ) -> None:
        """Hold the parts; a model is made when its task asks, and is not kept."""
        assert pool.base is not None
        self.method = method
        self.masks, self._base, self._family, self._tasks = masks, pool.base, family, pool.tasks
        made = {task: partial(self.weights, expert) for expert, task in pool.tasks.items() if task is not None}
        self._models = PerTask(made, family, pool.base, device=device)

    @property
    def parameters(self) -> int:
        """Entries of the base and of τ."""
        shared = sum(tensor.numel() for tensor in self.masks.unified.values())
        return shared + sum(spec.size for spec in self._base.specs.values())

    @property
    def bytes(self) -> int:
        """Bytes of the base and of what stands beside it."""
        return self.masks.bytes + sum(spec.nbytes for spec in self._base.specs.values())

    def weights(self, expert: str) -> dict[str, Tensor]:
        """Return the fused tensors of one expert's task by canonical name, in the base's kinds of number."""
        base, made = LazyWeights(self._base), dict(self.masks.own[expert])
        for name, vector in self.masks.unified.items():
            kind = TORCH[self._base.specs[name].dtype]
            chosen = unpack(self.masks.bits[expert][name], vector.shape) * vector
            made[name] = (base[name].float() + self.masks.scales[expert] * chosen).to(kind)
        return made

    def for_task(self, task: Task) -> Predictor:
        """Return the predictor of the task's own model.

        Raises:
            Skipped: where no expert was trained on the task.
        """
        return self._models.for_task(task)

    def save_task(self, expert: str, folder: Path) -> None:
        """Write one task's model as a folder that plain transformers loads.

        Raises:
            OutputError: where it exists, or cannot be written.
        """
        FusedWeights(self.weights(expert), self._family, self._base).save(folder)

    def save(self, folder: Path | str) -> None:
        """Write what stands beside the base: τ, packed masks and statistics in one file; factors in `per_task.json`.

        Raises:
            OutputError: where the folder exists, or cannot be written.
        """
        tensors = {f"unified/{name}": tensor for name, tensor in self.masks.unified.items()}
        for expert, bits in self.masks.bits.items():
            tensors |= {f"masks/{expert}/{name}": packed for name, packed in bits.items()}
            tensors |= {f"own/{expert}/{name}": tensor for name, tensor in self.masks.own[expert].items()}
        specs = [TensorSpec(name, SAFETENSORS[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()]
        about = {
            "format": 2,
            "method": self.method,
            "base": self._base.fingerprint(),
            "experts": {name: {"task": self._tasks.get(name), "scale": s} for name, s in self.masks.scales.items()},
        }

        def finish(place: Path) -> None:
            (place / ABOUT).write_text(json.dumps(about, indent=1) + "\n")

        with CheckpointWriter(Path(folder), specs, metadata={}, shard_bytes=2**62, finish=finish) as writer:
            for name, tensor in tensors.items():
                writer.write(name, as_bytes(tensor))


def load_masks(folder: Path, base: Source) -> Masks:
    """Return what `MaskedModels.save` wrote.

    Raises:
        CheckpointError: where the folder holds no such thing, it is damaged, or the base is another one.
    """
    source = open_safetensors(folder.name, folder) if (folder / ABOUT).is_file() else None
    if source is None:
        raise CheckpointError(f"{folder} holds no masked models: there is no {ABOUT} with a file of masks beside it.")
    about = read_description(folder / ABOUT, _About)
    if about.base != base.fingerprint():
        raise CheckpointError(f"{folder} was made over another base than {base.label}: give the one it was made of.")
    stored, experts = LazyWeights(source), about.experts

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): stored[name] for name in stored if name.startswith(prefix)}

    masks = Masks(
        part("unified/"),
        {name: part(f"masks/{name}/") for name in experts},
        {name: expert.scale for name, expert in experts.items()},
        {name: part(f"own/{name}/") for name in experts},
    )
    problems = list(_damages(masks, base))
    if problems:
        raise CheckpointError("\n".join([f"The masks in {folder} are damaged; fuse again:", *problems]))
    return masks


def _damages(masks: Masks, base: Source) -> Iterator[str]:
    """Yield what is wrong with masks that were read, a line for each tensor."""
    for expert, bits in masks.bits.items():
        for name in bits.keys() - masks.unified.keys():
            yield f"  unified/{name}: is missing, masks/{expert}/{name} is of it"
    for name, vector in masks.unified.items():
        if name not in base.specs or base.specs[name].shape != tuple(vector.shape):
            yield f"  unified/{name}: {list(vector.shape)}, of which {base.label} has no tensor"
        for expert, bits in masks.bits.items():
            held, count = bits.get(name), -(-vector.numel() // 8)
            if held is None or held.dtype != torch.uint8 or held.shape != (count,):
                found = "is missing" if held is None else f"is {list(held.shape)} {held.dtype}"
                yield f"  masks/{expert}/{name}: {found}, expected [{count}] torch.uint8"
    statistics = sorted({name for tensors in masks.own.values() for name in tensors})
    for expert, tensors in masks.own.items():
        for name in statistics:
            expected = base.specs[name].shape if name in base.specs else None
            if name not in tensors or tuple(tensors[name].shape) != expected:
                yield f"  own/{expert}/{name}: expected statistics as the base and each expert have, {expected}"


def open_masked(folder: Path, pool: Pool, device: torch.device | str = "cpu") -> MaskedModels:
    """Return the models that `MaskedModels.save` wrote, over a pool's base; experts and tasks are those of the folder.

    Raises:
        CheckpointError: see `load_masks`; also where the pool has no base.
    """
    if pool.base is None:
        raise CheckpointError(f"{folder} holds masks over a base model, and there is none: name it with base=REF.")
    masks = load_masks(folder, pool.base)
    about = read_description(folder / ABOUT, _About)
    tasks = {name: expert.task for name, expert in about.experts.items()}
    return MaskedModels(masks, replace(pool, tasks=tasks), family_of(pool), method=about.method, device=device)


def plan_for(pool: Pool, method: str, values: Mapping[str, Any], seed: int) -> Plan:
    """Return what a method that goes tensor by tensor is to read: checked inputs, sites and parameters in force there.

    Raises:
        CheckpointError: where there is no base.
        IncompatibleModels: with every difference between the models.
    """
    if pool.base is None:
        raise CheckpointError(f"{method} works on deltas to a base model: name one with base=REF.")
    found = fit(pool.base, pool.experts, tower=pool.tower)
    return build_plan(
        pool.base, pool.experts, found, method=method, parameters=methods[method].parameters, values=values, seed=seed
    )


def read_merged(plan: Plan) -> Iterator[tuple[Step, Tensor, list[Tensor]]]:
    """Yield the step, the base's tensor and the experts' of everything that is fused, in float32, one at a time.

    Raises:
        NotFinite: where a model holds NaN or Inf.
    """
    for step in plan:
        if step.action == "merge" and step.base is not None:
            yield step, _read(plan, step.base), [_read(plan, place) for place in step.experts]


def own_statistics(plan: Plan, experts: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """Return each expert's running statistics of batch normalisation, by canonical name."""
    steps = [step for step in plan if step.action == "batch_norm"]
    return {
        expert: {
            step.output.name: as_tensor(_content(plan, step.experts[row]), step.experts[row].spec.dtype,
                                        step.output.shape)
            for step in steps
        }
        for row, expert in enumerate(experts)
    }  # fmt: skip


def _read(plan: Plan, place: Input) -> Tensor:
    tensor = as_tensor(_content(plan, place), place.spec.dtype, place.spec.shape).float()
    return finite(tensor, plan.sources[place.source].label, place.spec)


def _content(plan: Plan, place: Input) -> memoryview:
    return plan.sources[place.source].read(place.spec.name)
