"""Model recombination: layers change places between the models of a pool, which stays a pool."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from fusionbench.merge import Pool
from fusionbench.methods._context import Context
from fusionbench.methods._method import merge_method
from fusionbench.mixing import Fused, FusedWeights
from fusionbench.mixing.variants import Variants
from fusionbench.tasks import Task
from fusionbench.weights.checks import fit
from fusionbench.weights.headers import Source, TensorSpec
from fusionbench.weights.layers import layer_of
from fusionbench.weights.plan import seed_of
from fusionbench.weights.tensors import LazyWeights

Granularity = Literal["layer", "module", "tensor"]


def group_of(name: str, granularity: Granularity) -> str:
    """Return what a tensor moves together with: its numbered layer, its module, or nothing but itself."""
    if granularity == "tensor":
        return name
    stack, number = layer_of(name) or ("", -1)
    if granularity == "layer" and stack:
        return f"{stack}{number}"
    return name.rpartition(".")[0]


def places_of(group: str, count: int, seed: int) -> list[int]:
    """Return a permutation of the models for one group; it depends on the seed and the group's name alone."""
    generator = torch.Generator().manual_seed(seed_of(seed, f"recombination/{group}"))
    return [int(place) for place in torch.randperm(count, generator=generator)]


class Recombined:
    """One model of the new pool: every tensor is read from the model that its group was drawn from."""

    def __init__(
        self, label: str, names: Sequence[str], drawn: Mapping[str, tuple[Source, str]], reference: Source
    ) -> None:
        """Remember where each tensor is read.

        Args:
            label: what messages call it.
            names: canonical names.
            drawn: for each of them the model, and its own name there.
            reference: whose configuration and files it has.
        """
        self.label, self.config = label, reference.config
        self.folder: Path | None = reference.folder
        self._drawn = drawn
        self.specs: Mapping[str, TensorSpec] = {
            name: drawn[name][0].specs[drawn[name][1]]._replace(name=name) for name in names
        }

    def read(self, name: str, start: int = 0, stop: int | None = None) -> memoryview:
        """Return the bytes of flat entries `start` to `stop` of a tensor."""
        source, own = self._drawn[name]
        return source.read(own, start, stop)

    def fingerprint(self) -> str:
        """Return a digest of the models and places that it is drawn from."""
        return "recombined:" + ",".join(f"{name}={source.fingerprint()}" for name, (source, _) in self._drawn.items())


@merge_method(
    "recombination",
    paper="arXiv:2305.10730",
    kind="whole",
    category="mix",
    version=1,
    base="optional",
    needs=("training_after",),
)
def recombination(
    pool: Pool, tasks: Mapping[str, Task], context: Context, *, granularity: Granularity = "layer"
) -> Fused:  # fmt: skip
    """Return as many models as there were, layer l of the i-th being that of model π_l(i) (arXiv:2305.10730, §3.2).

    π_l is a permutation of its own for each layer l, so that every layer of every model is used once and the average
    of the pool stays the same. No data is looked at.

    Args:
        pool: the experts are shuffled; what is outside the fused part is the base's.
        tasks: not looked at.
        context: of the run; its seed draws the permutations.
        granularity: what moves as one: numbered layers, and modules outside them; every module; or every tensor.

    Others: fusion_bench overwrites its inputs while it shuffles tensors, so that copies are doubled and originals lost.
    """
    del tasks
    found = fit(pool.reference, pool.experts, tower=pool.tower)
    sources = list(pool.experts.values())
    models: dict[str, FusedWeights] = {}
    for index, name in enumerate(pool.experts):
        drawn: dict[str, tuple[Source, str]] = {}
        for tensor in found.scope:
            # A tied tensor that files store twice is one, wherever it stands.
            group = group_of(found.aliases.get(tensor, tensor), granularity)
            place = places_of(group, len(sources), context.seed)[index]
            drawn[tensor] = (sources[place], found.names[place][tensor])
        made: Any = Recombined(name, found.scope, drawn, pool.reference)
        models[name] = FusedWeights(LazyWeights(made), context.family, pool.reference, device=context.device)
    return Variants(models)
