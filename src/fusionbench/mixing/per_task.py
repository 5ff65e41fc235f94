"""A model for each task: what methods give that do not settle on one."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from fusionbench.families import Family
from fusionbench.mixing.fused import Device, FusedWeights, Skipped
from fusionbench.tasks import Predictor, Task
from fusionbench.weights.headers import Source
from fusionbench.weights.partial import whole_folder
from fusionbench.weights.tensors import Weights

TASK_MODELS = "task_models.json"


class PerTask:
    """Weights of its own for each task: experts as they are, masked or modulated models.

    Attributes:
        method: by which they were made; None where nobody said it.
    """

    kind = "per_task"

    def __init__(
        self,
        weights: Mapping[str, Weights | Callable[[], Weights]],
        family: Family,
        base: Source,
        *,
        shared: Weights | None = None,
        method: str | None = None,
        device: Device = "cpu",
    ) -> None:
        """Remember what belongs to which task; a model is made when its task asks, and is not kept.

        Args:
            weights: by task name: tensors by canonical name, or a function that makes them.
            family: how the models run.
            base: the pretrained checkpoint.
            shared: for tasks that have none of their own; None skips those.
            method: by which they were made, for the saved folder.
            device: where the models run.
        """
        self._weights, self._shared, self.method = weights, shared, method
        self._family, self._base, self._device = family, base, device

    @property
    def parameters(self) -> int:
        """Entries of all models; each is of the base's form."""
        return self._copies * sum(spec.size for spec in self._base.specs.values())

    @property
    def bytes(self) -> int:
        """Bytes of all models, in the base's kinds of number."""
        return self._copies * sum(spec.nbytes for spec in self._base.specs.values())

    @property
    def _copies(self) -> int:
        return len(self._weights) + (self._shared is not None)

    def for_task(self, task: Task) -> Predictor:
        """Return the predictor of the task's own model, else of the shared one.

        Raises:
            Skipped: where there is neither.
        """
        if task.name in self._weights:
            return self._model(self._weights[task.name]).for_task(task)
        if self._shared is None:
            own = ", ".join(self._weights) or "no task"
            raise Skipped(
                f"{task.name} has no model of its own (there are models for {own}) and there is no shared one."
            )
        return self._model(self._shared).for_task(task)

    def save(self, folder: Path | str) -> None:
        """Write one model a task into `folder/tasks/<task>`, the shared one into `folder/shared`, and which there are.

        Raises:
            OutputError: where the folder exists, or cannot be written.
        """
        about = {"format": 1, "method": self.method, "tasks": list(self._weights), "shared": self._shared is not None}
        with whole_folder(Path(folder)) as made:
            for name, weights in self._weights.items():
                self._model(weights).save(made / "tasks" / name)
            if self._shared is not None:
                self._model(self._shared).save(made / "shared")
            (made / TASK_MODELS).write_text(json.dumps(about, indent=1) + "\n")

    def _model(self, weights: Weights | Callable[[], Weights]) -> FusedWeights:
        made = weights if isinstance(weights, Mapping) else weights()
        return FusedWeights(made, self._family, self._base, device=self._device)
