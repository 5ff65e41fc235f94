"""Several models that one run gives, each evaluated on every task."""

from collections.abc import Mapping
from pathlib import Path

from fusionbench.mixing.fused import FusedWeights
from fusionbench.mixing.mixed import MixedModel
from fusionbench.tasks import Predictor, Task
from fusionbench.weights.partial import whole_folder


class Variants:
    """Models by label; a report has a row for each.

    Attributes:
        models: by label, in order; a lazy mapping makes each when it is asked for.
    """

    kind = "variants"

    def __init__(self, models: Mapping[str, FusedWeights | MixedModel], *, source: MixedModel | None = None) -> None:
        """Remember the models.

        Args:
            models: by label, in order.
            source: what they are all made of, where that is one model; it is then what is saved and counted.
        """
        self.models, self._source = models, source

    @property
    def parameters(self) -> int:
        """Entries of what is saved."""
        return sum(model.parameters for model in self._saved.values())

    @property
    def bytes(self) -> int:
        """Bytes of what is saved."""
        return sum(model.bytes for model in self._saved.values())

    @property
    def _saved(self) -> Mapping[str, FusedWeights | MixedModel]:
        return self.models if self._source is None else {"": self._source}

    def for_task(self, task: Task) -> Predictor:
        """Return the first model's predictor; the runner asks each model for its own."""
        return next(iter(self.models.values())).for_task(task)

    def save(self, folder: Path | str) -> None:
        """Write each model into `folder/<label>`, or what they are all made of into `folder`.

        Raises:
            OutputError: where the folder exists, or cannot be written.
        """
        if self._source is not None:
            self._source.save(folder)
            return
        with whole_folder(Path(folder)) as made:
            for label, model in self.models.items():
                model.save(made / label)
