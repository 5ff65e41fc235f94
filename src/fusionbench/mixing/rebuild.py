"""Rebuild a model a module site at a time: what methods of the kind `rebuild` run on."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fusionbench.errors import ConfigError
from fusionbench.merge import Pool, Progress, silent
from fusionbench.mixing.blueprint import Blueprint, SiteRecord, read_blueprint
from fusionbench.mixing.build import family_of
from fusionbench.mixing.sites import ModuleSite, Replacement, SiteWeights, read_wide
from fusionbench.registry import Entry
from fusionbench.weights.checks import Fit, fit
from fusionbench.weights.finite import bad_result
from fusionbench.weights.headers import Source, TensorSpec
from fusionbench.weights.roles import is_statistic
from fusionbench.weights.tensors import SAFETENSORS, TORCH, as_tensor, is_finite

Sink = Callable[[str, Tensor], None]


@dataclass(frozen=True, slots=True)
class Rebuilder:
    """How a method rebuilds a model; see `methods._method.merge_method` for the parts.

    Attributes:
        name: of the method.
        replace: `(site, base, experts, *, …)`, what takes a module's place.
        sites: from the pool to the modules that it is given.
        rest: `(base, experts, *, …)`, tensors outside them.
        configure: `(config, experts, *, …)`, from the base's configuration to the output's.
        check: `(names of experts, *, …)`, refuses parameters.
        prepare: `(pool, *, …)`, a first look at the whole pool; what it returns reaches `replace` as `prepared`.
        needs_base: whether there must be a base.
    """

    name: str
    replace: Callable[..., Replacement | None]
    sites: Callable[..., list[ModuleSite]]
    rest: Callable[..., Tensor] | None = None
    configure: Callable[..., Mapping[str, Any]] | None = None
    check: Callable[..., None] | None = None
    prepare: Callable[..., Any] | None = None
    needs_base: bool = True


def rebuilder_of(entry: Entry) -> Rebuilder:
    """Return how a registered method of the kind `rebuild` works."""
    function = entry.load()
    parts = {name: getattr(function, name) for name in ("sites", "rest", "configure", "check", "prepare")}
    return Rebuilder(entry.name, function, **parts, needs_base=entry.base == "required")


@dataclass(slots=True)
class Rebuilding:
    """What rebuilding found out while it went.

    Attributes:
        sites: the modules that are no longer plain, by name.
        config: the output's `config.json`, where it is not the base's.
        notes: what the user should know.
    """

    sites: dict[str, SiteRecord] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def blueprint(self, entry: Entry, values: Mapping[str, Any], pool: Pool) -> Blueprint | None:
        """Return what `fusion_config.json` says of the result; None where it is a plain model."""
        if not self.sites:
            return None
        return Blueprint(family=family_of(pool).name, method=entry.name, version=entry.version, params=dict(values),
                         experts=tuple(pool.experts), sites=self.sites)  # fmt: skip


def rebuild(
    pool: Pool, method: Rebuilder, values: Mapping[str, Any], sink: Sink, *, seed: int = 0,
    progress: Progress = silent,
) -> Rebuilding:  # fmt: skip
    """Give every tensor of the rebuilt model to `sink`: the sites' as they are made, then the rest.

    Args:
        pool: base and experts.
        method: how it rebuilds.
        values: its checked parameters.
        sink: is given names and tensors, each once.
        seed: of random choices.
        progress: told how many sites are done.

    Raises:
        ConfigError: where the base is missing, or there is no expert.
        MissingPart: where the family has no such sites.
        NotFinite: where an input or a result holds NaN or Inf.
    """
    if pool.base is None and method.needs_base:
        raise ConfigError(f"{method.name} works on a base model: name one with base=REF.")
    if pool.base is None and len(pool.experts) > 1:
        raise ConfigError(f"{method.name} takes one model, and there are {len(pool.experts)}: name it with base=REF.")
    for source in (pool.reference, *pool.experts.values()):
        if read_blueprint(source.folder) is not None:
            raise ConfigError(
                f"{source.label} holds mixtures in the place of modules; {method.name} takes plain models."
            )
    if method.check is not None:
        method.check(tuple(pool.experts), **_accepted(method.check, values))
    sites = method.sites(pool, method=method.name, seed=seed)
    found = fit(pool.reference, pool.experts, tower=pool.tower)
    made = Rebuilding(notes=found.notes)
    if method.configure is not None:
        config, count = pool.reference.config, len(pool.experts)
        made.config = method.configure(config, count, **_accepted(method.configure, values))
    given = _accepted(method.replace, values)
    if method.prepare is not None:
        given["prepared"] = method.prepare(pool, **_accepted(method.prepare, values))
    inside = set()
    for done, site in enumerate(sites):
        progress(f"rebuilding by {method.name}", done, len(sites))
        inside |= set(site.tensors.values())
        with torch.no_grad():
            replacement = method.replace(site, *_weights(pool, found, site), **given)
        _write_site(site, replacement, pool.reference, made, sink)
    for name in (name for name in pool.reference.specs if name not in inside):
        sink(name, _outside(name, pool, found, method.rest, values))
    progress(f"rebuilding by {method.name}", len(sites), len(sites))
    return made


def _accepted(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    wanted = inspect.signature(function).parameters
    return {name: value for name, value in values.items() if name in wanted}


def _weights(pool: Pool, found: Fit, site: ModuleSite) -> tuple[SiteWeights, list[SiteWeights]]:
    experts = [
        SiteWeights(
            source, {inner: names[canonical] for inner, canonical in site.tensors.items() if canonical in names}
        )
        for source, names in zip(pool.experts.values(), found.names, strict=True)
    ]
    return SiteWeights(pool.reference, site.tensors), experts


def _write_site(site: ModuleSite, made: Replacement | None, reference: Source, result: Rebuilding, sink: Sink) -> None:
    """Write what takes a site's place; the site itself where nothing does."""
    if made is None:
        for name in site.tensors.values():
            sink(name, _stored(reference, name))
        return
    kind = TORCH[reference.specs[next(iter(site.tensors.values()))].dtype]
    if made.kind is not None:
        result.sites[site.name] = SiteRecord(kind=made.kind, settings=dict(made.settings))
    for inner, tensor in made.tensors.items():
        plain = site.tensors.get(inner) if made.kind is None and made.place is None else None
        name = plain or f"{made.place or site.name}.{inner}"
        rounds = tensor.is_floating_point() and inner not in made.exact
        sink(name, checked(name, tensor, kind if rounds else tensor.dtype))


def _outside(
    name: str, pool: Pool, found: Fit, rest: Callable[..., Tensor] | None, values: Mapping[str, Any]
) -> Tensor:
    """Return a tensor outside all sites, as the method's `rest` makes it of base and experts."""
    spec = pool.reference.specs[name]
    if rest is None or name not in found.scope or not spec.is_float or is_statistic(name):
        return _stored(pool.reference, name)
    experts = [read_wide(source, own[name]) for source, own in zip(pool.experts.values(), found.names, strict=True)]
    given = _accepted(rest, {**values, "site": ModuleSite(experts=tuple(pool.experts))})
    with torch.no_grad():
        result = rest(read_wide(pool.reference, name), experts, **given)
    return checked(name, result, TORCH[spec.dtype])


def _stored(source: Source, name: str) -> Tensor:
    spec = source.specs[name]
    return as_tensor(source.read(name), spec.dtype, spec.shape)


def checked(name: str, tensor: Tensor, kind: torch.dtype) -> Tensor:
    """Return a result rounded to its kind.

    Raises:
        NotFinite: where it holds NaN or Inf, or its kind cannot hold it.
    """
    written = tensor.to(kind)
    if tensor.is_floating_point() and not is_finite(written):
        spec = TensorSpec(name, SAFETENSORS[kind], tuple(tensor.shape))
        raise bad_result(spec, finite=is_finite(tensor))
    return written
