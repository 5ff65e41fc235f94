"""What surgery gives: merged weights, and for each task an adapter between its features and its head."""

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor
from torch.nn.functional import normalize

from fusionbench.errors import NotAdaptable
from fusionbench.families import Backbone, Batch, specs_of
from fusionbench.methods._context import Context
from fusionbench.mixing import FusedWeights
from fusionbench.mixing.fused import predictor
from fusionbench.tasks import Predictor, Task
from fusionbench.weights.partial import whole_folder
from fusionbench.weights.tensors import as_bytes
from fusionbench.weights.writer import CheckpointWriter

ARTEFACT = "adapters"


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

    kind = "module"

    def __init__(
        self, backbone: FusedWeights, adapters: Mapping[str, tuple[Tensor, Tensor]], *, normalise: bool,
        context: Context,
    ) -> None:  # fmt: skip
        """Hold what belongs together; `normalise` is whether adapters see features of length 1."""
        self.backbone, self.adapters = backbone, adapters
        self._normalise, self._family, self._device = normalise, context.family, context.device

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
        changed = with_features(task, lambda z: operate(normalize(z, dim=-1) if self._normalise else z, down, up))
        return predictor(changed, self._family, self.backbone.module, self._device)

    def save(self, folder: Path | str) -> None:
        """Write the weights as `folder/backbone`, and the adapters with their settings as `folder/adapters`.

        Raises:
            OutputError: where the folder exists or cannot be written.
        """
        tensors = named(self.adapters)
        with whole_folder(Path(folder)) as made:
            self.backbone.save(made / "backbone")
            with CheckpointWriter(made / ARTEFACT, list(specs_of(tensors).values()), metadata={}) as writer:
                for name, tensor in tensors.items():
                    writer.write(name, as_bytes(tensor))
            about = {"method": "surgery", "tasks": list(self.adapters), "normalise": self._normalise}
            (made / "surgery.json").write_text(json.dumps(about, indent=1) + "\n")


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
