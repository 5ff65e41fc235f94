"""Do the models of a pool fit together? Every difference is found before anything is read or written. No torch here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fusionbench.errors import IncompatibleModels
from fusionbench.registry import families
from fusionbench.weights.aliases import merged_as_one, tied_names, with_aliases
from fusionbench.weights.headers import Source, TensorSpec
from fusionbench.weights.roles import is_positions, role

SHOWN = 20
"""Differences that one message spells out."""
SPELLINGS = ((".LayerNorm.gamma", ".LayerNorm.weight"), (".LayerNorm.beta", ".LayerNorm.bias"))
"""How files of the first BERT models, and of their kin, call what is now called otherwise."""
TIED = ("t5", "gpt2", "gemma", "gemma2", "gemma3_text")
"""Model types whose head is the embedding where their configurations do not say it, as those of the hub."""
HARMLESS = (".position_ids", ".attention.bias", ".attention.masked_bias", ".attn.bias", ".attn.masked_bias")
"""Integer or mask buffers that some versions of a library saved and others make anew."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What the check found: what is fused, what each expert calls it, and what a user should know."""

    scope: tuple[str, ...]
    """Canonical names of the tensors to be fused, in the reference's order."""
    names: tuple[Mapping[str, str], ...]
    """For each expert, its own name of every tensor in scope."""
    notes: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Second names of tied tensors that the reference stores twice, each with the name that it is merged under."""


def fit(reference: Source, experts: Mapping[str, Source], *, tower: str = "", glimpse: bool = False) -> Fit:
    """Hold every expert against the reference (the base, or the first expert where a method needs no base).

    Args:
        reference: the checkpoint whose names are canonical.
        experts: the others, by name.
        glimpse: look at the first entries only of tables that may be one, for an answer in a second.
        tower: prefix of what is fused; the rest comes from the reference. Where a family names heads of classifiers,
            those of the experts belong to their tasks and are left out. So are tensors that a family's models do not
            use, such as a pooling layer of the base's, where some expert lacks them.

    Raises:
        IncompatibleModels: with every missing, extra or misshapen tensor of every expert in one message; what else a
            user should know is in its notes.
    """
    inside = [spec for name, spec in reference.specs.items() if name.startswith(tower)]
    data = _family_data(reference)
    head = str(data.get("head", ""))
    body = str(data.get("bodies", {}).get(reference.config.get("model_type"), ""))
    idle = _idle(reference, experts, body, tuple(data.get("unused", ())))
    scope = tuple(spec.name for spec in inside if not is_buffer(spec) and spec.name not in idle)
    problems, notes, all_names = [], [], []
    if not scope:
        raise IncompatibleModels(f"{reference.label} has no tensor under {tower!r}, the part that this family fuses.")
    aligned = [_align(reference, expert, scope) for expert in experts.values()]
    aliases = tied_names(reference, [*experts.values()], [names for names, _ in aligned], scope, glimpse=glimpse)
    for (name, expert), (own, note) in zip(experts.items(), aligned, strict=True):
        problems += _architecture(reference, name, expert)
        names = with_aliases(own, aliases, expert.specs)
        notes += [f"{name}: {note}"] if note else []
        found, widths = _differences(reference, name, expert, names, tower, head)
        problems += found
        notes += widths
        all_names.append(names)
    if problems:
        sizes = _vocabularies(reference, experts, all_names)
        refusal = IncompatibleModels("\n".join([_message(reference, problems), *sizes]))
        for line in notes:
            refusal.add_note(line)
        raise refusal
    with_head = [name for name, expert in experts.items() if head and any(n.startswith(head) for n in expert.specs)]
    if with_head:
        notes.append(f"heads ({head}…) belong to their tasks and are not fused: those of {', '.join(with_head)}")
    notes += merged_as_one(aliases)
    outside = len(reference.specs) - len(inside)
    if outside:
        notes.append(f"{len(scope)} tensors under {tower!r} are fused; the other {outside} stay as the base has them")
    return Fit(scope, tuple(all_names), tuple(notes), aliases)


def _message(reference: Source, problems: Sequence[str]) -> str:
    shown = [f"  {problem}" for problem in problems[:SHOWN]]
    more = [f"  … and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    head = f"The models do not fit {reference.label} ({len(problems)} difference{'s' * (len(problems) != 1)}):"
    tail = "All models of a merge must be fine-tuned from one base: same architecture, same tensors, same shapes."
    return "\n".join([head, *shown, *more, tail])


def _vocabularies(reference: Source, experts: Mapping[str, Source], names: Sequence[Mapping[str, str]]) -> list[str]:
    """Return a line where tables of tokens differ in nothing but their rows: every size, and what to do."""
    for canonical in names[0] if names else ():
        ours = reference.specs[canonical]
        if len(ours.shape) != 2 or role(ours) not in ("embedding", "head") or is_positions(canonical):
            continue
        held = {
            name: expert.specs.get(own[canonical]) for (name, expert), own in zip(experts.items(), names, strict=True)
        }
        rows = {
            name: spec.shape[0] for name, spec in held.items() if spec is not None and spec.shape[1:] == ours.shape[1:]
        }
        if any(count != ours.shape[0] for count in rows.values()):
            sizes = "; ".join(f"{name} {count}" for name, count in rows.items())
            return [
                f"The vocabulary sizes differ: {reference.label} {ours.shape[0]}; {sizes}. Rows of different tokens "
                "cannot be merged: bring them together by token with vocabulary=base or vocabulary=union."
            ]
    return []


def _architecture(reference: Source, name: str, expert: Source) -> list[str]:
    """Return a line where the configurations say that the models are of different kinds."""
    ours, theirs = reference.config.get("model_type"), expert.config.get("model_type")
    related = ours is None or theirs is None or ours == theirs or str(theirs).startswith(f"{ours}_")
    return [] if related else [f"{name}: is a {theirs!r} model ({expert.label}), {reference.label} is a {ours!r}"]


def _align(reference: Source, expert: Source, scope: Sequence[str]) -> tuple[dict[str, str], str]:
    """Return the expert's own name of each tensor in scope, and a note where a prefix was added or taken off."""
    ours = {modern(name): name for name in scope}
    stored = {modern(name): name for name, spec in expert.specs.items() if not is_buffer(spec)}
    if any(name in stored for name in ours):
        return {own: stored.get(name, own) for name, own in ours.items()}, ""
    held = {modern(name) for name in reference.specs}
    first = min(stored, default="")
    lacking = {name.removesuffix(first) for name in ours if first and name.endswith(first)}
    lacking = {prefix for prefix in lacking if all(prefix + name in held for name in stored)}
    if len(lacking) == 1:
        (prefix,) = lacking
        renamed = {prefix + name: own for name, own in stored.items()}
        return {n: renamed.get(name, n) for name, n in ours.items()}, f"its names were read with the prefix {prefix!r}"
    begin = next(iter(ours))
    surplus = {name.removesuffix(begin) for name in stored if name.endswith(begin)}
    surplus = {prefix for prefix in surplus if all(prefix + name in stored for name in ours)}
    if len(surplus) == 1:
        (prefix,) = surplus
        renamed = {n: stored[prefix + name] for name, n in ours.items()}
        return renamed, f"its names were read without the prefix {prefix!r}"
    return {name: name for name in scope}, ""


def _own_tower(tower: str, names: Mapping[str, str]) -> str:
    """Return what an expert calls the tower; "" where all is fused."""
    canonical, own = map(modern, next(iter(names.items())))
    if not tower or own.endswith(canonical):
        return tower and own.removesuffix(canonical) + tower
    return tower.removeprefix(canonical.removesuffix(own))


def _differences(
    reference: Source, name: str, expert: Source, names: Mapping[str, str], tower: str, head: str
) -> tuple[list[str], list[str]]:
    """Return problems, and a note where float widths differ."""
    problems, widths = [], []
    for canonical, own in names.items():
        ours, theirs = reference.specs[canonical], expert.specs.get(own)
        if theirs is None:
            problems.append(f"{name}: has no {canonical}")
        elif ours.shape != theirs.shape:
            problems.append(f"{name}: {canonical} is {_shape(theirs)}, in {reference.label} {_shape(ours)}")
        elif ours.is_float != theirs.is_float:
            problems.append(f"{name}: {canonical} holds {theirs.dtype}, in {reference.label} {ours.dtype}")
        elif ours.dtype != theirs.dtype:
            widths.append(theirs.dtype)
    known = {*names.values(), *reference.specs}
    inside = _own_tower(tower, names)
    surplus = [n for n in expert.specs if n not in known and n.startswith(inside) and not is_buffer(expert.specs[n])]
    surplus = [n for n in surplus if not (head and n.startswith(head))]
    problems += [
        f"{name}: has {extra} {_shape(expert.specs[extra])}, which {reference.label} lacks"
        for extra in surplus
        if not _is_alias(reference, expert, names, extra)
    ]
    kinds = ", ".join(sorted(set(widths)))
    several = "1 tensor is" if len(widths) == 1 else f"{len(widths)} tensors are"
    return problems, [f"{name}: {several} {kinds}, in the base of another kind; they are widened"] if widths else []


def _family_data(reference: Source) -> Mapping[str, Any]:
    """Return what the index knows of the family that serves the reference's architecture, nothing where none does."""
    kind = reference.config.get("model_type")
    served = (families[name].data or {} for name in families) if kind else ()
    return next((data for data in served if kind in data.get("model_types", ())), {})


def _idle(reference: Source, experts: Mapping[str, Source], body: str, unused: tuple[str, ...]) -> set[str]:
    """Return tensors of which the family's models make no use, and which some expert does not store."""
    bare = {name: name.removeprefix(body) for name in reference.specs} if unused else {}
    own = {name: short for name, short in bare.items() if (body + short).startswith(unused)}
    return {
        name
        for name, short in own.items()
        if any(not any(other.endswith(short) for other in expert.specs) for expert in experts.values())
    }


def _is_alias(reference: Source, expert: Source, names: Mapping[str, str], extra: str) -> bool:
    """Tell whether an extra tensor is only the second name of a tied one: same kind, same shape, same bytes."""
    if not is_tied(reference.config):
        return False
    spec = expert.specs[extra]
    twins = [own for own in names.values() if own in expert.specs and _same_kind(expert.specs[own], spec)]
    content = expert.read(extra)
    return any(expert.read(own) == content for own in twins)


def modern(name: str) -> str:
    """Return a tensor's name as files are written today, where it has one of the old `SPELLINGS`."""
    return next((name.removesuffix(old) + new for old, new in SPELLINGS if name.endswith(old)), name)


def is_buffer(spec: TensorSpec) -> bool:
    """Tell whether a tensor is one of the `HARMLESS`; the hub's GPT-2 holds its masks as floats, `(1, 1, n, n)`."""
    return spec.name.endswith(HARMLESS) and (not spec.is_float or len(spec.shape) != 1)


def _same_kind(one: TensorSpec, other: TensorSpec) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape


def is_tied(config: Mapping[str, Any]) -> bool:
    """Tell whether a configuration says that the head is the embedding."""
    text = config.get("text_config")
    nested = bool(text.get("tie_word_embeddings", False)) if isinstance(text, Mapping) else False
    return bool(config.get("tie_word_embeddings", config.get("model_type") in TIED)) or nested


def _shape(spec: TensorSpec) -> str:
    return "×".join(map(str, spec.shape)) or "a single number"
