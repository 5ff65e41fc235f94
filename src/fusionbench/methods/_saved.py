"""Open what a method saved that is no single model: ensembles, masked and operated models, a model for each task."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol

from pydantic import Field, FiniteFloat, StrictBool, StrictStr

from fusionbench.config import Config
from fusionbench.errors import CheckpointError
from fusionbench.merge import Pool
from fusionbench.methods._masked import ABOUT, open_masked
from fusionbench.methods._operated import SURGERY, open_operated
from fusionbench.methods.ensembles import Over, largest, weighted
from fusionbench.mixing import Fused
from fusionbench.mixing.blueprint import read_description
from fusionbench.mixing.build import family_of
from fusionbench.mixing.ensemble import ENSEMBLE, Combine, Ensemble
from fusionbench.mixing.fused import Device
from fusionbench.mixing.members import members_of
from fusionbench.mixing.per_task import TASK_MODELS, PerTask
from fusionbench.weights.checks import fit
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights


class SavedEnsemble(Config):
    """`ensemble.json`: who the members are, and how their outputs are combined.

    Attributes:
        format: of this file.
        members: names, in order; each is a folder under `members`.
        tasks: that each was trained on, None where none is known.
        resident: whether all members are held in memory.
        method: by which outputs are combined.
        over: the scale on which they are.
        weights: of weighted_ensemble, one a member; None for equal ones.
        normalize: whether the weights of those that answer are divided by their sum.
        known: of max_model, the classes that a member is asked for; one that is not named is asked for all.
    """

    format: Literal[2]
    members: tuple[StrictStr, ...] = Field(min_length=1)
    tasks: dict[StrictStr, StrictStr | None]
    resident: StrictBool
    method: Literal["simple_ensemble", "weighted_ensemble", "max_model"]
    over: Over
    weights: tuple[FiniteFloat, ...] | None = None
    normalize: StrictBool = True
    known: dict[StrictStr, tuple[StrictStr, ...]] = Field(default={})

    def combine(self) -> Combine:
        """Return how the method combines outputs."""
        if self.method == "max_model":
            return largest(self.known, self.over)
        weights = self.weights or (1.0,) * len(self.members)
        return weighted(dict(zip(self.members, weights, strict=True)), self.over, normalize=self.normalize)


def open_ensemble(folder: Path, pool: Pool, device: Device = "cpu") -> Ensemble:
    """Return the ensemble that `Ensemble.save` wrote; members are checked against the pool's reference.

    Raises:
        CheckpointError: where `ensemble.json` or a member is damaged or missing.
        IncompatibleModels: where a member fits neither the reference nor a family.
        ConfigError: where it reads other inputs than the reference.
    """
    path = folder / ENSEMBLE
    about = read_description(path, SavedEnsemble)
    strange = [name for name in about.members if name in (".", "..") or Path(name).name != name]
    if strange or set(about.tasks) != set(about.members) or len(set(about.members)) != len(about.members):
        raise CheckpointError(
            f"{path} is damaged: members are {', '.join(about.members)}, tasks those of {', '.join(about.tasks)}; "
            "expected names of folders, each once, and a task or null for each. Fuse again."
        )
    if about.weights is not None and len(about.weights) != len(about.members):
        raise CheckpointError(
            f"{path} is damaged: {len(about.weights)} weights for {len(about.members)} members. Fuse again."
        )
    experts = {name: open_source(folder / "members" / name) for name in about.members}
    own = replace(pool, experts=experts, tasks=about.tasks)
    own = own if own.base is not None else replace(own, base=pool.reference)
    said = about.model_dump(mode="json", exclude={"format", "members", "tasks", "resident"}, exclude_defaults=True)
    members = members_of(own, family_of(own))
    return Ensemble(members, about.combine(), about=said, resident=about.resident, device=device)


class SavedTaskModels(Config):
    """`task_models.json`: of which tasks there are models, each a folder under `tasks`, and whether one in `shared`."""

    format: Literal[1]
    method: StrictStr | None = None
    tasks: tuple[StrictStr, ...] = Field(min_length=1)
    shared: StrictBool


def open_task_models(folder: Path, pool: Pool, device: Device = "cpu") -> PerTask:
    """Return the models that `PerTask.save` wrote.

    Raises:
        CheckpointError: where `task_models.json` or a model is damaged or missing.
        IncompatibleModels: where a model does not fit the pool's reference.
    """
    path = folder / TASK_MODELS
    about = read_description(path, SavedTaskModels)
    if strange := [name for name in about.tasks if name in (".", "..") or Path(name).name != name]:
        raise CheckpointError(f"{path} is damaged: {', '.join(strange)} are no names of folders. Fuse again.")
    places = {name: folder / "tasks" / name for name in about.tasks}
    sources = {name: open_source(place) for name, place in places.items()}
    shared = {"shared": open_source(folder / "shared")} if about.shared else {}
    fit(pool.reference, {**sources, **shared}, tower=pool.tower)
    weights = {name: LazyWeights(source) for name, source in sources.items()}
    rest = LazyWeights(shared["shared"]) if shared else None
    return PerTask(weights, family_of(pool), pool.reference, shared=rest, method=about.method, device=device)


class Together(Fused, Protocol):
    """Several models, or parts of them, that answer together, and the method that made them so, where it is known."""

    @property
    def method(self) -> str | None:
        """The method's name."""
        ...


OPENERS: Mapping[str, Callable[[Path, Pool, Device], Together]] = {
    ENSEMBLE: open_ensemble,
    ABOUT: open_masked,
    SURGERY: open_operated,
    TASK_MODELS: open_task_models,
}
"""By the file that says what a folder holds."""


def open_saved(folder: Path, pool: Pool, device: Device = "cpu") -> Together | None:
    """Return the fused model of a folder that is no single model; None where it says of none.

    Args:
        folder: what `save` of the fused model wrote.
        pool: of the tasks: its base is what masks and adapters are put on.
        device: where it runs.

    Raises:
        FusionBenchError: where the folder is damaged, or does not fit the pool.
    """
    found = next((name for name in OPENERS if (folder / name).is_file()), None)
    return None if found is None else OPENERS[found](folder, pool, device)
