"""Tied tensors that a file stores twice: merged as one, written wherever the base has it. No torch here."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fusionbench.weights.headers import Source, TensorSpec
from fusionbench.weights.roles import is_positions, role

if TYPE_CHECKING:
    from fusionbench.weights.jobs import Sink
    from fusionbench.weights.plan import Plan

GLIMPSE = 1 << 18
"""Entries that are compared at a time: most tensors that differ do so in the first, and memory is bounded."""


def tied_names(
    reference: Source,
    experts: Sequence[Source],
    names: Sequence[Mapping[str, str]],
    scope: Sequence[str],
    *,
    glimpse: bool = False,
) -> dict[str, str]:
    """Return, for each second name of a tied table of tokens, the name under which it is merged.

    Two tensors are one where both are tables of tokens (or one is, and the other a matrix of its kind and shape, which
    the configuration does not say is apart), and every model that stores both has the same bytes in them.

    Args:
        reference: the model whose names are canonical.
        experts: the others.
        names: for each expert, its own name of every canonical one.
        scope: canonical names of what is fused.
        glimpse: compare the first entries only.
    """
    specs = [reference.specs[name] for name in scope]
    alike: dict[tuple[str, tuple[int, ...]], list[TensorSpec]] = {}
    for spec in specs:
        if spec.is_float and len(spec.shape) == 2 and spec.size > 1 and not is_positions(spec.name):
            alike.setdefault((spec.dtype, spec.shape), []).append(spec)
    found: dict[str, str] = {}
    for group in alike.values():
        tables = [spec for spec in group if role(spec) == "embedding"]
        if not tables or len(group) == 1:
            continue
        kept = next((spec for spec in tables if spec.name.split(".")[-2:-1] == ["shared"]), tables[0])
        others = group if not _says_untied(reference.config) else tables
        for spec in others:
            if spec is not kept and _one(kept.name, spec.name, reference, experts, names, glimpse):
                found[spec.name] = kept.name
    return found


def _says_untied(config: Mapping[str, object]) -> bool:
    """Tell whether a configuration says that head and embedding are two; the library leaves out what is its default."""
    text = config.get("text_config")
    nested = text.get("tie_word_embeddings") if isinstance(text, Mapping) else None
    return False in (config.get("tie_word_embeddings"), nested)


def _one(
    kept: str,
    other: str,
    reference: Source,
    experts: Sequence[Source],
    names: Sequence[Mapping[str, str]],
    glimpse: bool,
) -> bool:
    pairs = [(reference, kept, other), *((e, own[kept], own[other]) for e, own in zip(experts, names, strict=True))]
    stored = [(source, one, two) for source, one, two in pairs if one in source.specs and two in source.specs]
    return all(_same_bytes(source, one, two, glimpse) for source, one, two in stored)


def _same_bytes(source: Source, one: str, two: str, glimpse: bool) -> bool:
    if source.specs[one][1:3] != source.specs[two][1:3]:
        return False
    size = min(source.specs[one].size, GLIMPSE) if glimpse else source.specs[one].size
    for start in range(0, size, GLIMPSE):
        stop = min(start + GLIMPSE, size)
        first, second = (np.frombuffer(source.read(name, start, stop), np.uint8) for name in (one, two))
        if not np.array_equal(first, second):
            return False
    return True


def with_aliases(names: Mapping[str, str], aliases: Mapping[str, str], stored: Collection[str]) -> dict[str, str]:
    """Return an expert's own names, a tied tensor that it stores once under each of the canonical ones."""
    own = dict(names)
    for other, kept in aliases.items():
        for lacking, held in ((other, kept), (kept, other)):
            if own[lacking] not in stored and own[held] in stored:
                own[lacking] = own[held]
    return own


def under_one_rule(aliases: Mapping[str, str], parameters: Mapping[str, object]) -> dict[str, str]:
    """Return the second names whose tensors are merged with the same parameters as the first: others are apart."""
    return {other: kept for other, kept in aliases.items() if parameters[other] == parameters[kept]}


def merged_as_one(aliases: Mapping[str, str]) -> list[str]:
    """Return what the report says of each."""
    return [f"{other} is {kept} once more (they are tied): merged as one tensor" for other, kept in aliases.items()]


def written_once(plan: "Plan", sink: "Sink", finished: Collection[str] = ()) -> "tuple[Plan, Sink, frozenset[str]]":
    """Return a plan without second names, a sink that writes those as well, and which of its outputs are finished.

    Args:
        plan: with a step for every name.
        sink: where all outputs go.
        finished: outputs that it has already.
    """
    copies: dict[str, list[str]] = {}
    for other, kept in plan.aliases.items():
        copies.setdefault(kept, []).append(other)
    if not copies:
        return plan, sink, frozenset(finished)
    steps = tuple(step for step in plan if step.output.name not in plan.aliases)
    whole = frozenset(name for name in finished if not {*copies.get(name, ())} - {*finished})
    return replace(plan, steps=steps, aliases={}), _Copies(sink, copies, frozenset(finished)), whole


class _Copies:
    """Writes each tensor under all its names, but for those that are finished."""

    def __init__(self, sink: "Sink", copies: Mapping[str, Sequence[str]], finished: Collection[str]) -> None:
        self._sink, self._copies, self._finished = sink, copies, finished

    def write(self, name: str, content: memoryview, start: int = 0) -> None:
        """Put the bytes of flat entries from `start` on into place, wherever the tensor stands."""
        for target in self._names(name):
            self._sink.write(target, content, start)

    def _names(self, name: str) -> Iterator[str]:
        for target in (name, *self._copies.get(name, ())):
            if target not in self._finished:
                yield target
