"""A model some of whose modules are mixtures: run, saved with its blueprint, and opened again to the same bits."""

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from torch import Tensor, nn

from fusionbench.errors import CheckpointError, ConfigError, IncompatibleModels
from fusionbench.families import Batch, Family, family_named, load_module, specs_of
from fusionbench.families.base import HasTextToText, HasTokens
from fusionbench.mixing.blueprint import Blueprint, read_blueprint
from fusionbench.mixing.fused import Device, predictor
from fusionbench.mixing.kinds import build
from fusionbench.mixing.routed import ROUTER, check_written, routing_mask, share_router
from fusionbench.mixing.shards import ShardWriter
from fusionbench.mixing.sites import split_by_site
from fusionbench.tasks import Output, Predictor, Task
from fusionbench.weights.companions import copy_companions
from fusionbench.weights.headers import Source, TensorSpec
from fusionbench.weights.tensors import TORCH, LazyWeights, Weights, as_bytes


class _Replaced:
    """A family whose module has some of its modules replaced; just enough of one to load weights into."""

    def __init__(self, family: Family, blueprint: Blueprint) -> None:
        self.name = family.name
        self._family, self._blueprint = family, blueprint

    def skeleton(self, config: Mapping[str, Any]) -> nn.Module:
        module = self._family.skeleton(config)
        for name, record in self._blueprint.sites.items():
            owner, _, attribute = name.rpartition(".")
            try:
                parent, replaced = module.get_submodule(owner), module.get_submodule(name)
            except AttributeError:
                raise CheckpointError(f"The blueprint replaces {name!r}, which the model does not have.") from None
            setattr(parent, attribute, build(name, replaced, record))
        share_router(module)
        if isinstance(self._family, HasTextToText):
            check_written(module)
        return module.eval()

    def names(self, specs: Mapping[str, TensorSpec]) -> Mapping[str, str]:
        inside, outside = split_by_site(list(specs), self._blueprint.sites)
        return {**{name: name for name in inside}, **self._family.names({name: specs[name] for name in outside})}


class _HandedOver:
    """Tensors in memory as a source that lets go of each when it is read, so that a model is never held twice."""

    label, config, folder = "the tensors made", MappingProxyType[str, Any]({}), None

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.specs = specs_of(tensors)
        self._tensors = tensors

    def read(self, name: str, start: int = 0, stop: int | None = None) -> memoryview:
        assert (start, stop) == (0, None)
        return as_bytes(self._tensors.pop(name))

    def fingerprint(self) -> str:
        return self.label


class MixedModel:
    """A fused model with replaced modules.

    Attributes:
        blueprint: which, and by what.
        specs: of every tensor that is saved.
    """

    kind = "module"

    def __init__(
        self, weights: Weights, blueprint: Blueprint, family: Family, base: Source, *, device: Device = "cpu"
    ) -> None:
        """Hold the tensors; the module is made when a task asks.

        Args:
            weights: every tensor: those of replaced modules by the module's name, all others by canonical name.
            blueprint: which modules are replaced.
            family: how the model runs.
            base: whose configuration and other files are saved beside it.
            device: where it runs.
        """
        self.blueprint = blueprint
        self.specs = specs_of(weights)
        self._weights, self._family, self._base, self._device = weights, family, base, device

    @property
    def parameters(self) -> int:
        """Entries of all floating-point tensors; packed bits are none."""
        return sum(spec.size for spec in self.specs.values() if spec.is_float)

    @property
    def trainable(self) -> int:
        """Entries of what was learned after fusion: the routers."""
        return sum(spec.size for name, spec in self.specs.items() if ROUTER in name)

    @property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(spec.nbytes for spec in self.specs.values())

    @cached_property
    def module(self) -> nn.Module:
        """The module with its mixtures, in eval mode; loaded once.

        Raises:
            CheckpointError: where blueprint and tensors do not belong together.
        """
        replaced = cast(Family, _Replaced(self._family, self.blueprint))
        placed, given = replaced.names(self.specs), self._weights
        # The module has its own copy, and is what is saved; what it has no place for is kept for the files alone.
        self._weights = {name: given[name] for name in self.specs if name not in placed}
        if not isinstance(given, LazyWeights):
            given = LazyWeights(_HandedOver({name: given[name] for name in placed}))
        try:
            return load_module(replaced, given, self._base.config).to(self._device)
        except IncompatibleModels as error:
            raise CheckpointError(f"The tensors are not those that the blueprint asks for.\n{error}") from None

    def for_task(self, task: Task) -> Predictor:
        """Return the task's head over the module; padding takes no part in the routing of whole inputs.

        Raises:
            Skipped: where the task is for another family.
        """
        family, module = self._family, self.module
        predict = predictor(task, family, module, self._device)

        def masked(batch: Batch) -> Output:
            # A harness of others makes batches itself; the models that it asks write text, and need no mask.
            mask = family.token_mask(batch) if isinstance(family, HasTokens) and "attention_mask" in batch else None
            with routing_mask(module, mask if mask is None else mask.to(self._device)):
                return predict(batch)

        return masked

    def save(self, folder: Path | str, *, beside: Callable[[Path], None] | None = None) -> None:
        """Write a folder of configuration, `fusion_config.json` and safetensors, which `open_mixed` reads.

        Args:
            folder: must not exist.
            beside: writes further files into the folder before it has its name.

        Raises:
            OutputError: where the folder exists, or cannot be written.
        """
        own = _Replaced(self._family, self.blueprint).names(self.specs)
        state = self.module.state_dict()

        def finish(made: Path) -> None:
            copy_companions(self._base, made)
            self.blueprint.write(made)
            if beside is not None:
                beside(made)

        with ShardWriter(Path(folder), metadata={}, finish=finish) as writer:
            for name, spec in self.specs.items():
                # A module in training is wider than what is stored.
                writer.add(name, state[own[name]].to(TORCH[spec.dtype]) if name in own else self._weights[name])


def open_mixed(source: Source, *, device: Device = "cpu") -> MixedModel | None:
    """Return the model of a folder with a blueprint; None where the folder has none.

    Raises:
        CheckpointError: where the blueprint is damaged, or asks for what is not there.
    """
    blueprint = read_blueprint(source.folder)
    if blueprint is None:
        return None
    try:
        family = family_named(blueprint.family)
    except ConfigError as error:
        raise CheckpointError(f"{source.label}: its blueprint names a family that is not there. {error}") from None
    count = len(blueprint.experts)
    for name, record in blueprint.sites.items():
        if record.settings.get("experts", count) != count:
            raise CheckpointError(
                f"{source.label}: its blueprint names {count} experts ({', '.join(blueprint.experts)}), and has "
                f"{record.settings['experts']} in {name}. Fuse again."
            )
    return MixedModel(LazyWeights(source), blueprint, family, source, device=device)
