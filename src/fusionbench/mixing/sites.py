"""Where a rebuilding method works: modules of a model, their tensors in each checkpoint, and what takes their place."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fusionbench.errors import MissingPart
from fusionbench.families.base import HasParts
from fusionbench.merge import Pool
from fusionbench.mixing.build import family_of
from fusionbench.weights.checks import fit
from fusionbench.weights.headers import Source
from fusionbench.weights.plan import seed_of
from fusionbench.weights.tensors import as_tensor, finite

Setting = int | float | bool | str


@dataclass(frozen=True, slots=True)
class ModuleSite:
    """One module of a model, and what a rebuilding method may know of it.

    Attributes:
        name: of the module in the family's module; "" for the tensors that it is given alone.
        tensors: canonical name of each of its tensors, by its name inside the module.
        linears: for each linear map inside, "" for the module itself, whether its weight is `(out, in)`.
        depth: its number among the sites of the model.
        depths: how many sites there are.
        experts: names of the experts, in order.
        seed: of this run and method.
    """

    name: str = ""
    tensors: Mapping[str, str] = field(default_factory=dict)
    linears: Mapping[str, bool] = field(default_factory=lambda: {"": True})
    depth: int = 0
    depths: int = 1
    experts: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Replacement:
    """What takes a module's place.

    Attributes:
        tensors: by name inside the new module; floats are rounded to the kind of the site's first tensor.
        kind: of the new module, one of `mixing.kinds`; None where the architecture stays plain Hugging Face.
        settings: what the new module is built with, beside the module that it replaces.
        place: where the tensors go instead, where a plain architecture has another name for the module.
        exact: tensors that keep the kind they are given in.
    """

    tensors: Mapping[str, Tensor]
    kind: str | None = None
    settings: Mapping[str, Setting] = field(default_factory=dict)
    place: str | None = None
    exact: frozenset[str] = frozenset()


class SiteWeights(Mapping[str, Tensor]):
    """A site's tensors in one checkpoint, as float32; each is read when it is asked for."""

    def __init__(self, source: Source, names: Mapping[str, str]) -> None:
        """Remember where to read.

        Args:
            source: the checkpoint.
            names: the checkpoint's own name of each tensor, by its name inside the site.
        """
        self._source, self._names = source, names

    def __getitem__(self, name: str) -> Tensor:
        return read_wide(self._source, self._names[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def read_wide(source: Source, name: str) -> Tensor:
    """Return a tensor of a checkpoint as float32, or float64 where it is stored so.

    Raises:
        NotFinite: where it holds NaN or Inf.
    """
    spec = source.specs[name]
    tensor = as_tensor(source.read(name), spec.dtype, spec.shape)
    return finite(tensor.to(torch.float64 if spec.dtype == "F64" else torch.float32), source.label, spec)


def oriented(weight: Tensor, inputs_last: bool) -> Tensor:
    """Return a weight as `(out, in)`, or such a weight as its file has it: the same step both ways."""
    return weight if inputs_last else weight.T


def put(tensors: dict[str, Tensor], name: str, number: int, count: int, part: Tensor) -> None:
    """Put one expert's part of a tensor `(count, …)` into its place; no list of all parts exists beside it."""
    if name not in tensors:
        tensors[name] = part.new_empty(count, *part.shape)
    tensors[name][number] = part


def linear_sites(pool: Pool, *, method: str, seed: int = 0) -> list[ModuleSite]:
    """Return every linear map of the fused part, in order of depth.

    Raises:
        MissingPart: where the family names none.
    """
    family, module = _with_parts(pool, "list of linear maps", method)
    chosen = {site.name: {"": site.inputs_last} for site in family.linears(module)}
    return _sites(pool, chosen, method, seed)


def block_linear_sites(pool: Pool, *, method: str, seed: int = 0) -> list[ModuleSite]:
    """Return the linear maps inside the blocks, in order of depth: no head, no projection outside them.

    Raises:
        MissingPart: where the family names none.
    """
    family, module = _with_parts(pool, "list of linear maps", method)
    blocks = tuple(f"{block}." for block in family.blocks(module))
    return [site for site in linear_sites(pool, method=method, seed=seed) if site.name.startswith(blocks)]


def mlp_sites(pool: Pool, *, method: str, seed: int = 0) -> list[ModuleSite]:
    """Return the blocks' MLPs, in order of depth; `linears` are the maps inside each.

    Raises:
        MissingPart: where the family names none.
    """
    family, module = _with_parts(pool, "list of MLPs", method)
    return _sites(pool, _mlps(family, module), method, seed)


def mlp_and_attention_sites(pool: Pool, *, method: str, seed: int = 0) -> list[ModuleSite]:
    """Return the blocks' MLPs and the modules that hold their other linear maps, the MLPs first.

    Raises:
        MissingPart: where the family names no MLPs.
    """
    family, module = _with_parts(pool, "list of MLPs", method)
    chosen, blocks = _mlps(family, module), tuple(f"{block}." for block in family.blocks(module))
    others = [
        site
        for site in family.linears(module)
        if site.name.startswith(blocks) and _site_of(f"{site.name}.weight", chosen) is None
    ]
    holders = {site.name.rpartition(".")[0] for site in others}
    for site in others:
        # A module inside a replaced one has another name, so that the outer one is the site.
        holder = min((one for one in holders if site.name.startswith(f"{one}.")), key=len)
        chosen.setdefault(holder, {})[site.name.removeprefix(f"{holder}.")] = site.inputs_last
    return _sites(pool, chosen, method, seed)


def _with_parts(pool: Pool, part: str, method: str) -> tuple[HasParts, nn.Module]:
    family = family_of(pool)
    if not isinstance(family, HasParts):
        raise MissingPart(family.name, part, (method,))
    return family, family.skeleton(pool.reference.config)


def _mlps(family: HasParts, module: nn.Module) -> dict[str, dict[str, bool]]:
    """Return the linear maps of each MLP, and whether their weights are `(out, in)`."""
    parts = [part for part in family.mlp_parts(module) if part is not None]
    orders = {site.name: site.inputs_last for site in family.linears(module)}
    return {mlp: {part: orders.get(f"{mlp}.{part}", True) for part in parts} for mlp in family.mlps(module)}


def _sites(pool: Pool, chosen: Mapping[str, Mapping[str, bool]], method: str, seed: int) -> list[ModuleSite]:
    family = family_of(pool)
    again = fit(pool.reference, pool.experts, tower=pool.tower).aliases
    canonical = {own: name for name, own in family.names(pool.reference.specs).items() if name not in again}
    held = dict.fromkeys(chosen, tuple[tuple[str, str], ...]())
    for own, name in canonical.items():
        site = _site_of(own, held)
        if site is not None:
            held[site] += ((own.removeprefix(f"{site}."), name),)
    # A head that is tied to the embedding has no weight of its own in the files, or the embedding's once more.
    whole = {
        name: linears
        for name, linears in chosen.items()
        if {".".join(filter(None, (linear, "weight"))) for linear in linears} <= dict(held[name]).keys()
    }
    if not whole:
        raise MissingPart(family.name, "linear map in this model", (method,))
    return [
        ModuleSite(name, dict(held[name]), linears, depth, len(whole), tuple(pool.experts), seed_of(seed, method))
        for depth, (name, linears) in enumerate(whole.items())
    ]


def _site_of(own: str, sites: Mapping[str, object]) -> str | None:
    """Return the site that a tensor of the module is in; None outside all."""
    prefix = own.rpartition(".")[0]
    while prefix:
        if prefix in sites:
            return prefix
        prefix = prefix.rpartition(".")[0]
    return None


def split_by_site(names: Sequence[str], sites: Mapping[str, object]) -> tuple[dict[str, str], list[str]]:
    """Return the site of each name that is inside one, and the names that are in none."""
    inside = {name: site for name in names if (site := _site_of(name, sites)) is not None}
    return inside, [name for name in names if name not in inside]
