"""From opened models and merged tensors to what predicts and can be saved."""

from collections.abc import Callable, Mapping
from pathlib import Path

from fusionbench.errors import ConfigError
from fusionbench.families import Family, family_for, specs_of
from fusionbench.merge import Pool
from fusionbench.mixing.fused import Device, Fused, FusedWeights
from fusionbench.mixing.per_task import PerTask
from fusionbench.mixing.stored import save_weights
from fusionbench.tasks import Predictor, Task
from fusionbench.weights.headers import Source
from fusionbench.weights.tensors import LazyWeights, Weights, as_bytes


class PlainWeights:
    """Merged tensors of an architecture that no family serves: they can be used and saved, not evaluated.

    Attributes:
        weights: the fused tensors.
        specs: of each.
    """

    kind = "weights"

    def __init__(self, weights: Weights, reference: Source) -> None:
        self.weights = weights
        self.specs = specs_of(weights)
        self._reference = reference

    @property
    def parameters(self) -> int:
        """Entries of all tensors."""
        return sum(spec.size for spec in self.specs.values())

    @property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(spec.nbytes for spec in self.specs.values())

    def for_task(self, task: Task) -> Predictor:
        """Refuse: without a family nothing is known of how the model runs.

        Raises:
            ConfigError: always.
        """
        kind = self._reference.config.get("model_type", "of unknown type")
        raise ConfigError(f"{task.name} cannot be predicted: no family serves a model that is {kind}.")

    def save(self, folder: Path | str) -> None:
        """Write a folder of safetensors, with the configuration and tokenizer of the base where it has them."""
        save_weights(Path(folder), self.specs, lambda name: as_bytes(self.weights[name]), self._reference)


def family_of(pool: Pool) -> Family:
    """Return the family that runs a pool's models.

    Raises:
        ConfigError: where none serves them.
    """
    return family_for(pool.reference.config, pool.family)


def fused_weights(weights: Weights, pool: Pool, device: Device = "cpu") -> Fused:
    """Return merged tensors as a fused model; without a family they can only be used and saved."""
    try:
        family = family_of(pool)
    except ConfigError:
        return PlainWeights(weights, pool.reference)
    return FusedWeights(weights, family, pool.reference, device=device)


def fused_reference(name: str, pool: Pool, device: Device = "cpu") -> Fused:
    """Return the model of a reference row: the base, each expert on its own task, or the one trained on all.

    Raises:
        ConfigError: where the pool has no such model.
    """
    if name == "individual":
        own = {task: expert for expert, task in pool.tasks.items() if task is not None}
        if not own:
            raise ConfigError("individual: no expert of this pool says which task it was trained on.")
        lazy: Mapping[str, Weights | Callable[[], Weights]] = {
            task: LazyWeights(pool.experts[expert]) for task, expert in own.items()
        }
        return PerTask(lazy, family_of(pool), pool.reference, device=device)
    source = pool.base if name == "pretrained" else pool.mtl
    if source is None:
        fix = "name one with base=REF" if name == "pretrained" else "the suite has none; make one: fusionbench finetune"
        raise ConfigError(f"{name}: there is no such model in this pool; {fix}.")
    return fused_weights(LazyWeights(source), pool, device)
