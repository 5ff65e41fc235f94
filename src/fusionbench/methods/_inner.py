"""A method that is a parameter of another: looked up, checked, prepared and called like any other."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fusionbench.config.method import complete
from fusionbench.errors import ConfigError
from fusionbench.methods._sparsify import place_of
from fusionbench.registry import Entry, methods
from fusionbench.weights.plan import Site, resolver

Chunks = Iterator[tuple[Site, Tensor, Sequence[Tensor]]]
Read = Callable[[], Chunks]
At = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class InnerMerge:
    """A stream method with its parameters and what its first pass found."""

    entry: Entry
    function: Callable[..., Tensor]
    values: Mapping[str, Any]
    prepared: Any = None

    def __call__(self, base: Tensor, experts: Sequence[Tensor], site: Site | None) -> Tensor:
        """Return what the method makes of one tensor, of the shape of `base`."""
        place = place_of(site, base, experts)
        injected = {"site": place, "prepared": self.prepared}
        wanted = inspect.signature(self.function).parameters
        extra = {name: value for name, value in injected.items() if name in wanted}
        inputs = (experts,) if self.entry.base == "unused" else (base, experts)
        return self.function(*inputs, **self.at(place), **extra)

    def at(self, site: Site) -> Mapping[str, Any]:
        """Return the parameters' values for one tensor."""
        return resolver(self.entry.parameters, self.values, site.experts)(site)


def inner_merge(inner: Mapping[str, Any], owner: str, *, on_deltas: bool = False, unit: str = "tensor") -> InnerMerge:
    """Return the method that a parameter `inner` names, not yet prepared.

    Args:
        inner: `{name: ties, density: 0.2}`, with or without the parameters that keep their defaults.
        owner: the method whose parameter it is, for messages.
        on_deltas: whether it will be given task vectors over a base of zeros.
        unit: `element` where it will be given blocks of entries, `tensor` where it is given whole tensors.

    Raises:
        ConfigError: where it is no method, or none that can be called tensor by tensor on what it is given.
    """
    configured = complete(inner, "method.inner")
    entry = methods[configured["name"]]
    reason = ""
    if entry.kind != "stream":
        reason = "it does not merge tensor by tensor"
    elif entry.needs:
        reason = f"it needs {', '.join(entry.needs)} data"
    elif on_deltas and entry.base != "required":
        reason = "it does not work on deltas to a base"
    elif unit == "element" and entry.unit != "element":
        reason = "it needs whole tensors"
    if reason:
        raise ConfigError(
            f"method.inner={entry.name} cannot stand within {owner}: {reason}. Try inner=task_arithmetic or inner=ties."
        )
    return InnerMerge(entry, entry.load(), configured["params"])


def prepared(merge: InnerMerge, read: Read, at: At) -> InnerMerge:
    """Return an inner method after its first look at all it will be given.

    Args:
        merge: the method.
        read: starts a pass over just that.
        at: parameters by tensor of the outer method; its names are those of the tensors.
    """
    prepare = getattr(merge.function, "prepare", None)
    if prepare is None:
        return merge
    own = _values(merge, read, at)
    wanted = inspect.signature(prepare).parameters
    given = {name: value for name, value in merge.values.items() if name in wanted}
    return InnerMerge(merge.entry, merge.function, merge.values, prepare(read, own, **given))


def _values(merge: InnerMerge, read: Read, at: At) -> At:
    """Return the inner parameters by tensor; a pass is spent where they may differ between tensors or name experts."""
    if any(isinstance(value, Mapping | list | tuple) for value in merge.values.values()):
        return {site.name: merge.at(site) for site, *_ in read()}
    return dict.fromkeys(at, merge.values)
