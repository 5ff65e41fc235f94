"""Several models that answer together: their outputs are combined after each model's own head."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from fusionbench.errors import FusionBenchError
from fusionbench.families import Batch, Family, load_module
from fusionbench.mixing.fused import Device, FusedWeights, predictor
from fusionbench.tasks import Predictor, Task
from fusionbench.weights.headers import Source
from fusionbench.weights.partial import whole_folder
from fusionbench.weights.tensors import LazyWeights

Combine = Callable[[Sequence[Tensor]], Tensor]
"""From each member's outputs `(examples, classes)` to one such tensor."""


class Ensemble:
    """Models that predict together.

    Attributes:
        members: checkpoints by name.
    """

    kind = "ensemble"

    def __init__(
        self,
        members: Mapping[str, Source],
        family: Family,
        base: Source,
        combine: Combine,
        *,
        about: Mapping[str, object],
        resident: bool = True,
        device: Device = "cpu",
    ) -> None:
        """Remember the members; they are loaded when a task asks.

        Args:
            members: checkpoints by name, all of the family.
            family: how they run.
            base: what they lack comes from here.
            combine: makes one output of all.
            about: how they are combined, for the saved folder.
            resident: keep all members in memory; otherwise each batch loads one after the other, so that one is held.
            device: where they run.
        """
        self.members = members
        self._family, self._base, self._combine, self._device = family, base, combine, device
        self._about, self._resident = dict(about), resident

    @property
    def parameters(self) -> int:
        """Entries of all members."""
        return sum(self._saved(source).parameters for source in self.members.values())

    @property
    def bytes(self) -> int:
        """Bytes of all members."""
        return sum(self._saved(source).bytes for source in self.members.values())

    def _saved(self, source: Source) -> FusedWeights:
        return FusedWeights(LazyWeights(source), self._family, self._base)

    @cached_property
    def _modules(self) -> list[torch.nn.Module]:
        return [self._load(source) for source in self.members.values()]

    def _load(self, source: Source) -> torch.nn.Module:
        module = load_module(self._family, LazyWeights(source), self._base.config, rest=self._base)
        return module.to(self._device)

    def for_task(self, task: Task) -> Predictor:
        """Return the combination of all members' predictors for a task.

        Raises:
            Skipped: where the task is for another family.
            FusionBenchError: where a member's output is not one row of class scores an example.
        """
        bound = [self._bound(task, module) for module in self._modules] if self._resident else None

        def predict(batch: Batch) -> Tensor:
            if bound is not None:
                outputs = [member(batch) for member in bound]
            else:
                outputs = [self._bound(task, self._load(source))(batch) for source in self.members.values()]
            shapes = {tuple(output.shape) for output in outputs if isinstance(output, Tensor)}
            if len(shapes) != 1 or len(next(iter(shapes))) != 2 or not all(isinstance(o, Tensor) for o in outputs):
                raise FusionBenchError(
                    f"{task.name}: an ensemble combines class scores; the members gave {shapes or outputs}."
                )
            return self._combine(outputs)

        return predict

    def _bound(self, task: Task, module: torch.nn.Module) -> Predictor:
        return predictor(task, self._family, module, self._device)

    def save(self, folder: Path) -> None:
        """Write each member into `folder/members/<name>`, and `ensemble.json`, which says how they are combined.

        Raises:
            OutputError: where the folder exists.
        """
        with whole_folder(folder) as made:
            for name, source in self.members.items():
                self._saved(source).save(made / "members" / name)
            about = {"members": list(self.members), **self._about}
            (made / "ensemble.json").write_text(json.dumps(about, indent=1) + "\n")
