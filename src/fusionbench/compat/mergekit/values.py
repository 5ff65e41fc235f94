"""Parameters of a mergekit recipe: nearest scope first, filters, gradients; as values of our method."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fusionbench.compat.mergekit.models import Model, read_mapping
from fusionbench.compat.mergekit.words import REQUIRED, Target, Theirs
from fusionbench.config.wording import unknown_key
from fusionbench.registry import methods

JSON = Any
Scope = tuple[str, Mapping[str, JSON]]
_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


class Values:
    """Reads the parameters of one recipe; what is wrong with them is added to `problems`."""

    def __init__(self, name: str, target: Target, shared: JSON, problems: list[str], notes: list[str]) -> None:
        self.name, self.target = name, target
        self.problems, self.notes = problems, notes
        self.shared = read_mapping(shared, "parameters", problems)
        self.scopes: list[Scope] = []

    def of(
        self, experts: Mapping[str, Model], others: Sequence[Model], around: Sequence[Scope] = ()
    ) -> dict[str, JSON]:
        """Return our parameters, each one value, a schedule, or either by expert.

        Args:
            experts: the models that are merged, by name.
            others: the base, where it is listed among the models.
            around: where values stand that win over the recipe's but not over a model's own: the slice.
        """
        self.scopes = [*around, ("parameters", self.shared)]
        for path, scope in self.scopes:
            self._check_keys(path, scope, shared=True)
        for model in experts.values():
            self._check_keys(f"{model.path}.parameters", model.parameters)
        for model in others:
            self.notes += [
                f"{model.path}.parameters.{key}: the base has no delta to weigh; left out." for key in model.parameters
            ]
        ours = {parameter.name for parameter in methods[self.target.method].parameters}
        values: dict[str, JSON] = {}
        for key, theirs in self.target.parameters.items():
            if theirs.inert:
                self._note_inert(key, experts.values())
                continue
            each = {name: self._resolve(key, theirs, model) for name, model in experts.items()}
            found = list(each.values())
            if (theirs.ours or key) in ours:
                whole = each if any(value != found[0] for value in found) else next(iter(found), None)
                values |= {} if whole is None else {theirs.ours or key: whole}
            elif not all(_same(value, theirs.default_here) for value in found):
                can = f"it can only do what {key}: {str(theirs.default).lower()} does"
                self.problems.append(f"parameters.{key}: our {self.target.method} has no equal yet; {can}.")
        # mergekit hands a lone model of a slice or a module back without looking at its weight.
        return {**values, "weights": 1.0} if self.name == "multislerp" and len(experts) == 1 else values

    def _check_keys(self, path: str, given: Mapping[str, JSON], shared: bool = False) -> None:
        for key in given:
            theirs = self.target.parameters.get(key)
            if theirs is None:
                self.problems.append(unknown_key(f"{path}.{key}", f"mergekit's {self.name}", self.target.parameters))
            elif not shared and not theirs.each and not theirs.inert:
                self.problems.append(f"{path}.{key}: mergekit ignores it there; move it to the recipe's parameters.")

    def _note_inert(self, key: str, models: Iterable[Model]) -> None:
        if any(key in scope for _, scope in self.scopes) or any(key in model.parameters for model in models):
            self.notes.append(f"parameters.{key}: it changes no number in mergekit's {self.name}; left out.")

    def _resolve(self, key: str, theirs: Theirs, model: Model) -> JSON:
        """Return one model's value of a parameter: plain, or a schedule that ends with an entry for all tensors."""
        scopes = [(f"{model.path}.parameters", model.parameters), *self.scopes]
        given = [(f"{path}.{key}", scope[key]) for path, scope in scopes if key in scope]
        entries: list[dict[str, JSON]] = []
        for path, value in given:
            entries += self._entries(path, value, theirs)
            if entries and "filter" not in entries[-1]:
                break
        else:
            if theirs.default is REQUIRED:
                lacks = "has no value for tensors that no filter names" if given else "is missing"
                self.problems.append(f"{model.path}.parameters.{key} {lacks}: {self.name} needs one for every model.")
            entries.append({"value": theirs.default_here})
        only = entries[0]["value"]
        return only if len(entries) == 1 and not isinstance(only, list) else entries

    def _entries(self, path: str, value: JSON, theirs: Theirs) -> list[dict[str, JSON]]:
        """Return a value as `{value, filter?}` entries, up to the first that holds for every tensor."""
        conditions = [value] if isinstance(value, Mapping) else value
        if not isinstance(conditions, list) or not any(isinstance(entry, Mapping) for entry in conditions):
            return [{"value": self._in_our_words(path, value, theirs)}] if value != [] else []
        entries: list[dict[str, JSON]] = []
        for index, entry in enumerate(conditions):
            if not isinstance(entry, Mapping) or "value" not in entry or {*entry} - {"value", "filter"}:
                self.problems.append(f"{path}[{index}]: expected {{value: …, filter: …}}, got {entry!r}.")
                continue
            found = {"value": self._in_our_words(f"{path}[{index}]", entry["value"], theirs)}
            if entry.get("filter") in (None, "*"):
                return [*entries, found]
            entries.append({**found, "filter": str(entry["filter"])})
        return entries

    def _in_our_words(self, path: str, value: JSON, theirs: Theirs) -> JSON:
        if theirs.words is None:
            return value
        truth = _TRUTH.get(str(value).lower())
        if truth is None:
            self.problems.append(f"{path}: expected true or false, got {value!r}.")
        return theirs.words[bool(truth)]


def _same(value: JSON, default: JSON) -> bool:
    """Tell whether a value, perhaps text, is the default."""
    try:
        return float(value) == default if isinstance(default, float) else str(value).lower() == str(default).lower()
    except (TypeError, ValueError):
        return False
