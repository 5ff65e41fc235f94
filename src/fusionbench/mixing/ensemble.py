"""Several models that answer together: their outputs are combined after each model's own head."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn

from fusionbench.errors import FusionBenchError
from fusionbench.families import Batch
from fusionbench.mixing.fused import Device, Skipped
from fusionbench.mixing.members import Member, bound
from fusionbench.tasks import Predictor, Task
from fusionbench.weights.partial import whole_folder
from fusionbench.weights.tensors import as_bytes

Combine = Callable[[Task, Mapping[str, Tensor]], Tensor]
"""From a task and the outputs of the members that answer it, by name and of one shape, to one such tensor."""

ENSEMBLE = "ensemble.json"
FORMAT = 2
"""Of that file; the first had neither the members' tasks nor all that says how they are combined."""
RECALLED = 2**22
"""Most entries of all members' outputs for a batch that are kept; words of a large vocabulary are run again."""


class Ensemble:
    """Models that predict together.

    Attributes:
        members: in order.
    """

    kind = "ensemble"

    def __init__(
        self,
        members: Sequence[Member],
        combine: Combine,
        *,
        about: Mapping[str, object],
        resident: bool = True,
        device: Device = "cpu",
    ) -> None:
        """Remember the members; they are loaded when a task asks.

        Args:
            members: in order.
            combine: makes one output of all.
            about: how they are combined, for the saved folder; whoever combines can do it again from this.
            resident: keep all members in memory; otherwise each batch loads one after the other, so that one is held.
            device: where they run.
        """
        self.members = tuple(members)
        self._combine, self._device = combine, device
        self._about, self._resident = dict(about), resident
        self._modules: dict[str, nn.Module] = {}
        self._recalled: dict[tuple[str, bytes], dict[str, Tensor]] | None = None

    @property
    def method(self) -> str | None:
        """The method that combines the outputs, where whoever made the ensemble said it."""
        said = self._about.get("method")
        return said if isinstance(said, str) else None

    @contextmanager
    def recalling(self) -> Iterator[None]:
        """Keep the members' outputs for a `with` block, so that equal batches are run once for all combinations."""
        self._recalled = {}
        try:
            yield
        finally:
            self._recalled = None

    def combined(self, combine: Combine, about: Mapping[str, object]) -> "Ensemble":
        """Return an ensemble of the same members, which are loaded once for both, combined otherwise."""
        other = Ensemble(self.members, combine, about=about, resident=self._resident, device=self._device)
        other._modules, other._recalled = self._modules, self._recalled
        return other

    @property
    def parameters(self) -> int:
        """Entries of all members."""
        return sum(member.weights.parameters for member in self.members)

    @property
    def bytes(self) -> int:
        """Bytes of all members."""
        return sum(member.weights.bytes for member in self.members)

    def _module(self, member: Member) -> nn.Module:
        if not self._resident:
            return member.load(self._device)
        if member.name not in self._modules:
            self._modules[member.name] = member.load(self._device)
        return self._modules[member.name]

    def for_task(self, task: Task) -> Predictor:
        """Return the combination of the predictors of all members that have a head for a task.

        Raises:
            Skipped: where the task is for another family, or no member has a head for it.
            FusionBenchError: where the members' outputs are not tensors of one shape.
        """
        asked = [member for member in self.members if member.view_of(task) is not None]
        if not asked:
            raise Skipped(f"{task.name}: no member of the ensemble has a head for it.")
        kept = {member.name: self._bound(task, member) for member in asked} if self._resident else {}

        def outputs_of(batch: Batch) -> dict[str, Tensor]:
            return {m.name: (kept.get(m.name) or self._bound(task, m))(batch) for m in asked}

        def predict(batch: Batch) -> Tensor:
            if self._recalled is None:
                return self._combine(task, _alike(task, outputs_of(batch)))
            key = task.name, _digest(batch)
            outputs = self._recalled.get(key) or _alike(task, outputs_of(batch))
            if sum(output.numel() for output in outputs.values()) <= RECALLED:
                self._recalled[key] = outputs
            return self._combine(task, outputs)

        return predict

    def _bound(self, task: Task, member: Member) -> Predictor:
        predictor = bound(member, task, self._module(member), self._device)
        assert predictor is not None
        return predictor

    def save(self, folder: Path | str) -> None:
        """Write each member into `folder/members/<name>`, and `ensemble.json`, which says how they are combined.

        Raises:
            OutputError: where the folder exists.
        """
        with whole_folder(Path(folder)) as made:
            for member in self.members:
                member.weights.save(made / "members" / member.name)
            (made / ENSEMBLE).write_text(json.dumps(self._record(), indent=1) + "\n")

    def _record(self) -> dict[str, object]:
        members = {
            "members": [member.name for member in self.members],
            "tasks": {member.name: member.task for member in self.members},
        }
        return {"format": FORMAT, **members, "resident": self._resident, **self._about}


def _alike(task: Task, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return outputs of one shape.

    Raises:
        FusionBenchError: where they are not tensors, or differ in shape.
    """
    shapes = {tuple(output.shape) for output in outputs.values() if isinstance(output, Tensor)}
    if len(shapes) != 1 or not all(isinstance(output, Tensor) for output in outputs.values()):
        raise FusionBenchError(
            f"{task.name}: an ensemble combines outputs of one shape; the members gave {shapes or outputs}."
        )
    return outputs


def _digest(batch: Batch) -> bytes:
    """Return what tells a batch's tensors from those of another."""
    found = hashlib.blake2b(digest_size=16)
    for name, item in batch.items():
        if isinstance(item, Tensor):
            found.update(f"{name} {tuple(item.shape)}".encode())
            found.update(as_bytes(item))
    return found.digest()
