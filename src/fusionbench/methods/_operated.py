"""What surgery gives: merged weights, and for each task an adapter between its features and its head."""

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import StrictBool, StrictStr
from torch import Tensor
from torch.nn.functional import normalize as unit_length

from fusionbench.config import Config
from fusionbench.errors import CheckpointError, NotAdaptable
from fusionbench.families import Backbone, Batch, Family, specs_of
from fusionbench.merge import Pool
from fusionbench.mixing import FusedWeights
from fusionbench.mixing.assemble import opened
from fusionbench.mixing.blueprint import read_description
from fusionbench.mixing.build import family_of
from fusionbench.mixing.fused import Device, predictor
from fusionbench.tasks import Predictor, Task
from fusionbench.weights.partial import whole_folder
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights, as_bytes
from fusionbench.weights.writer import CheckpointWriter

ARTEFACT, BACKBONE = "adapters", "backbone"
SURGERY = "surgery.json"


class _About(Config):
    """`surgery.json`: whose adapters lie beside it, and what they read."""

    format: Literal[1] = 1
    method: Literal["surgery"]
    tasks: tuple[StrictStr, ...]
    normalize: StrictBool


def operate(features: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """Return z − U·ReLU(D·z) (arXiv:2402.02705, eq. 4).

    Args:
        features: `(examples, …, width)`: one vector an example, or one at each place of it.
        down: D, `(rank, width)`.
        up: U, `(width, rank)`.
    """
    return features - (features @ down.T).relu() @ up.T


class OperatedModel:
    """Merged weights, and for each task an adapter between its features and its head.

    Attributes:
        backbone: the merged weights.
        adapters: `(D, U)` by task name.
    """

    kind, method = "module", "surgery"

    def __init__(
        self, backbone: FusedWeights, adapters: Mapping[str, tuple[Tensor, Tensor]], family: Family, *,
        normalize: bool, device: Device = "cpu",
    ) -> None:  # fmt: skip
        """Hold what belongs together; `normalize` is whether adapters see features of length 1."""
        self.backbone, self.adapters = backbone, adapters
        self._normalize, self._family, self._device = normalize, family, device

    @property
    def parameters(self) -> int:
        """Entries of the weights and all adapters."""
        return self.backbone.parameters + sum(tensor.numel() for pair in self.adapters.values() for tensor in pair)

    @property
    def bytes(self) -> int:
        """Bytes of these."""
        return self.backbone.bytes + sum(tensor.nbytes for pair in self.adapters.values() for tensor in pair)

    def for_task(self, task: Task) -> Predictor:
        """Return the predictor through the task's adapter; of a task that has none, through none.

        Raises:
            Skipped: where the task is for another family.
        """
        if task.name not in self.adapters:
            return self.backbone.for_task(task)
        down, up = (tensor.to(self._device) for tensor in self.adapters[task.name])
        changed = with_features(task, lambda z: operate(unit_length(z, dim=-1) if self._normalize else z, down, up))
        return predictor(changed, self._family, self.backbone.module, self._device)

    def save(self, folder: Path | str) -> None:
        """Write the weights as `folder/backbone`, and the adapters with their settings as `folder/adapters`.

        Raises:
            OutputError: where the folder exists or cannot be written.
        """
        tensors = named(self.adapters)
        with whole_folder(Path(folder)) as made:
            self.backbone.save(made / BACKBONE)
            with CheckpointWriter(made / ARTEFACT, list(specs_of(tensors).values()), metadata={}) as writer:
                for name, tensor in tensors.items():
                    writer.write(name, as_bytes(tensor))
            about = {"format": 1, "method": self.method, "tasks": list(self.adapters), "normalize": self._normalize}
            (made / SURGERY).write_text(json.dumps(about, indent=1) + "\n")


def open_operated(folder: Path, pool: Pool, device: Device = "cpu") -> OperatedModel:
    """Return the model that `OperatedModel.save` wrote.

    Raises:
        CheckpointError: where a part is missing or damaged.
        IncompatibleModels: where its weights do not fit the pool's reference.
    """
    about = read_description(folder / SURGERY, _About)
    backbone = opened(open_source(folder / BACKBONE), pool, device)
    if not isinstance(backbone, FusedWeights):
        raise CheckpointError(f"{folder / BACKBONE} is no plain model that adapters were learned on; fuse again.")
    stored = LazyWeights(open_source(folder / ARTEFACT))
    adapters = {name: (_part(folder, stored, name, "down"), _part(folder, stored, name, "up")) for name in about.tasks}
    for name, (down, up) in adapters.items():
        if down.ndim != 2 or down.shape != up.T.shape:
            raise CheckpointError(
                f"{folder / ARTEFACT}: {name}.down is {list(down.shape)} and {name}.up {list(up.shape)}, expected "
                "[rank, width] and [width, rank]. Fuse again."
            )
    return OperatedModel(backbone, adapters, family_of(pool), normalize=about.normalize, device=device)


def _part(folder: Path, stored: LazyWeights, task: str, part: str) -> Tensor:
    if f"{task}.{part}" not in stored:
        raise CheckpointError(f"{folder / ARTEFACT} lacks the tensor {task}.{part}, which {SURGERY} names. Fuse again.")
    return stored[f"{task}.{part}"]


def with_features(task: Task, change: Callable[[Tensor], Tensor]) -> Task:
    """Return a task whose head reads changed features.

    Raises:
        NotAdaptable: where the task does not read its family's features.
    """
    family = copy.copy(task.family)
    if hasattr(family, "decode"):
        raise NotAdaptable(f"{task.name}: surgery changes features before a head, and this model writes text instead.")

    def features(backbone: Backbone, batch: Batch) -> Tensor:
        return change(task.family.features(backbone, batch))

    object.__setattr__(family, "features", features)
    changed = copy.copy(task)
    object.__setattr__(changed, "family", family)
    return changed


def named(adapters: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of all adapters by `<task>.down` and `<task>.up`."""
    return {
        f"{name}.{part}": t for name, pair in adapters.items() for part, t in zip(("down", "up"), pair, strict=True)
    }
