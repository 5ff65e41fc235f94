"""A mergekit recipe with `modules`: models of several parts (encoder, decoder; text, vision), merged part by part.

Ours has whole models and values that differ from tensor to tensor; a part is known by what its tensors' names hold.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from fusionbench.compat.mergekit.models import Model, entries_of, named, read_mapping, without_base
from fusionbench.compat.mergekit.values import Values
from fusionbench.compat.mergekit.words import Target
from fusionbench.config.wording import unknown_key
from fusionbench.parameters import is_schedule
from fusionbench.registry import methods

JSON = Any
PARTS: dict[str, tuple[str, ...]] = {
    "encoder": ("encoder.",),
    "decoder": ("decoder.",),
    "multi_modal_projector": ("multi_modal_projector.", "visual.merger"),
    "vision_tower": ("vision_tower.", "visual."),
    "vision_model": ("vision_model.",),
    "text_decoder": (),
    "shared": (),
}
"""mergekit's parts, and what a tensor's name holds that belongs to one; the first that fits counts, () is the rest."""
WHOLE = (
    {"encoder", "decoder"},
    {"encoder", "decoder", "shared"},
    {"text_decoder", "multi_modal_projector", "vision_tower"},
    {"text_decoder", "multi_modal_projector", "vision_model"},
)
"""Parts that make up a model, by mergekit's architectures."""


class Module(NamedTuple):
    """One entry of `modules`."""

    name: str
    models: list[Model]
    parameters: Mapping[str, JSON]

    @property
    def path(self) -> str:
        """Where it stands in the recipe."""
        return f"modules.{self.name}"


def read_modules(document: Mapping[str, JSON], problems: list[str]) -> list[Module]:
    """Return the entries of `modules` in the order of `PARTS`; what is wrong with them is added to `problems`."""
    found = document["modules"]
    if not isinstance(found, Mapping) or not found:
        problems.append(
            f"modules: expected a mapping such as {{encoder: {{models: [{{model: REF}}]}}}}, got {found!r}."
        )
        return []
    problems += [unknown_key(f"modules.{name}", "modules", PARTS) for name in found if name not in PARTS]
    if {*found} <= {*PARTS} and {*found} not in WHOLE:
        sets = "; ".join(", ".join(name for name in PARTS if name in one) for one in WHOLE)
        problems.append(
            f"modules: {', '.join(found)} are no whole model, and mergekit drops the rest. Whole are: {sets}."
        )
    modules = []
    for name in (name for name in PARTS if name in found):
        entry, path = found[name], f"modules.{name}"
        if isinstance(entry, Mapping) and entry.get("slices") is not None:
            problems.append(f"{path}.slices: layers of one part cannot be stacked here; merge it whole, with models.")
        elif not isinstance(entry, Mapping) or not isinstance(entry.get("models"), list) or not entry["models"]:
            problems.append(f"{path}: expected {{models: [{{model: REF}}]}}, got {entry!r}.")
        else:
            known = ("models", "slices", "parameters")
            problems += [unknown_key(f"{path}.{key}", path, known) for key in entry if key not in known]
            models = entries_of(entry["models"], f"{path}.models", ("model", "parameters"), problems)
            modules.append(Module(name, models, read_mapping(entry.get("parameters"), f"{path}.parameters", problems)))
    return modules


def as_modules(
    name: str, target: Target, modules: Sequence[Module], base: str | None, values: Values
) -> tuple[dict[str, Model], dict[str, JSON]]:
    """Return the models by name, and our parameters; what has no equal is added to the problems of `values`.

    Args:
        name: mergekit's name of the method.
        target: what it is here.
        modules: as they were read.
        base: the recipe's `base_model`.
        values: the reader of its parameters.
    """
    merged = {module.name: without_base(name, target, module.models, base, values.problems) for module in modules}
    experts = named([*{model.key: model for models in merged.values() for model in models}.values()])
    weighed = any(theirs.ours == "weights" for theirs in target.parameters.values())
    given: dict[str, dict[str, JSON]] = {}
    for module in modules:
        held = {model.key: model for model in merged[module.name]}
        own = {expert: held[model.key] for expert, model in experts.items() if model.key in held}
        missing = [expert for expert in experts if expert not in own]
        if missing and not weighed:
            values.problems.append(f"{module.path}: {name} needs the same models in all modules; add {missing[0]}.")
        if name == "passthrough" and len(own) != 1:
            values.problems.append(f"{module.path}: passthrough copies exactly one model; got {len(own)}.")
        others = [model for model in module.models if model.key not in held]
        found = values.of(own, others, [(f"{module.path}.parameters", module.parameters)])
        given[module.name] = _complete(target, found, experts, missing)
    return experts, _joined(target, given, values.problems)


def _complete(
    target: Target, found: Mapping[str, JSON], experts: Iterable[str], missing: Sequence[str]
) -> dict[str, JSON]:
    """Return one module's parameters, each expert's own written out; a model that is not in it has weight 0."""
    complete: dict[str, JSON] = {}
    for parameter in methods[target.method].parameters:
        value = found.get(parameter.name)
        if value is None:
            continue
        if parameter.per_expert:
            own = value if isinstance(value, Mapping) else dict.fromkeys(experts, value)
            rest = 0.0 if parameter.name == "weights" else next(iter(own.values()))
            value = {expert: rest if expert in missing else own[expert] for expert in experts}
        complete[parameter.name] = value
    return complete


def _joined(target: Target, given: Mapping[str, Mapping[str, JSON]], problems: list[str]) -> dict[str, JSON]:
    """Return parameters for the whole model: what differs from module to module as a schedule."""
    joined: dict[str, JSON] = {}
    for parameter in methods[target.method].parameters:
        key = parameter.name
        found = {module: values.get(key) for module, values in given.items()}
        each = [value for value in found.values() if value is not None]
        if not each:
            continue
        if parameter.per_expert:
            own = {expert: _by_module({m: v[expert] for m, v in found.items() if v is not None}) for expert in each[0]}
            first = next(iter(own.values()))
            joined[key] = first if all(value == first for value in own.values()) else own
        elif parameter.scheduled or all(value == each[0] for value in each):
            joined[key] = _by_module(found)
        else:
            problems.append(f"modules: our {key} holds for the whole model, {found} differ.")
    return joined


def _by_module(found: Mapping[str, JSON]) -> JSON:
    """Return one value where all modules have it, else a schedule with each module's entries under its names."""
    each = [*found.values()]
    if all(value == each[0] for value in each):
        return each[0]
    schedule = []
    for module, value in found.items():
        entries = value if is_schedule(value) else [{"value": value}]
        for part in PARTS[module] or (None,):
            for entry in entries:
                names = [text for text in (part, entry.get("filter")) if text is not None]
                filtered = {"filter": names[0] if len(names) == 1 else names} if names else {}
                schedule.append({"value": entry["value"], **filtered})
    return schedule
