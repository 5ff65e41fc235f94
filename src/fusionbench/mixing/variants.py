"""Several models that one run gives, each evaluated on every task."""

from collections.abc import Mapping
from pathlib import Path

from fusionbench.mixing.fused import FusedWeights
from fusionbench.tasks import Predictor, Task
from fusionbench.weights.partial import whole_folder


class Variants:
    """Models by label; a report has a row for each.

    Attributes:
        models: by label, in order.
    """

    kind = "variants"

    def __init__(self, models: Mapping[str, FusedWeights]) -> None:
        self.models = models

    @property
    def parameters(self) -> int:
        """Entries of all models."""
        return sum(model.parameters for model in self.models.values())

    @property
    def bytes(self) -> int:
        """Bytes of all models."""
        return sum(model.bytes for model in self.models.values())

    def for_task(self, task: Task) -> Predictor:
        """Return the first model's predictor; the runner asks each model for its own."""
        return next(iter(self.models.values())).for_task(task)

    def save(self, folder: Path) -> None:
        """Write each model into `folder/<label>`.

        Raises:
            OutputError: where the folder exists, or cannot be written.
        """
        with whole_folder(folder) as made:
            for label, model in self.models.items():
                model.save(made / label)
