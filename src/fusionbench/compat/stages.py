"""A file of several recipes, ours or mergekit's, each with a name by which the others may call its result."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from fusionbench.config import Recipe
from fusionbench.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Stage:
    """One recipe of a file.

    Attributes:
        name: by which other recipes of the file refer to its result; "" where it has none.
        recipe: what is merged; references to other stages are still their names.
        notes: what was translated.
        needs: names of the stages whose results it takes.
    """

    name: str
    recipe: Recipe
    notes: tuple[str, ...] = ()
    needs: frozenset[str] = frozenset()

    def placed(self, folders: Mapping[str, Path]) -> Recipe:
        """Return the recipe with the folders of the stages that it needs in place of their names."""
        recipe = self.recipe

        def found(reference: str) -> str:
            return str(folders[reference]) if reference in self.needs else reference

        experts = {
            name: expert.model_copy(update={"model": found(expert.model)}) for name, expert in recipe.experts.items()
        }
        base = None if recipe.base is None else found(recipe.base)
        return recipe.model_copy(update={"base": base, "experts": experts}) if self.needs else recipe


def to_yaml(stages: Sequence[Stage]) -> str:
    """Return recipes as YAML that reads back as they are: what they set, and every parameter of the method."""
    return "---\n".join(
        yaml.safe_dump(
            {**({"name": stage.name} if len(stages) > 1 and stage.name else {}), **_written(stage.recipe)},
            sort_keys=False,
            allow_unicode=True,
        )
        for stage in stages
    )


def _written(recipe: Recipe) -> dict[str, Any]:
    """Return what a recipe sets, without what is so anyway; experts that are only a reference are that text."""
    document = recipe.model_dump(mode="json", exclude_unset=True)
    document["experts"] = {
        name: expert["model"] if {*expert} == {"model"} else expert for name, expert in document["experts"].items()
    }
    return {key: value for key, value in document.items() if value is not None}


def take_name(document: dict[str, Any], where: str) -> str:
    """Take `name` out of a recipe's document and return it; "" where there is none.

    Raises:
        ConfigError: where a folder cannot be called so.
    """
    name = document.pop("name", None)
    if name is None:
        return ""
    if not isinstance(name, str) or not re.fullmatch(r"\w([\w .+-]*[\w+-])?", name):
        raise ConfigError(f"{where}: name: a stage's folder is named after it; {name!r} cannot be one. Use letters.")
    return name


def in_order(stages: Sequence[Stage], where: str) -> tuple[Stage, ...]:
    """Return the stages so that each comes after those it needs, and the output last.

    The output is the one without a name, or else the last of the file.

    Raises:
        ConfigError: where two have one name, two have none, or some need each other in a circle.
    """
    names = [stage.name for stage in stages]
    twice = sorted({name or "no name" for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{where}: two recipes have the name {', '.join(twice)}. Only the output may go without one.")
    output = next((stage for stage in stages if not stage.name), stages[-1])
    linked = [
        replace(stage, needs=frozenset(_references(stage.recipe) & {name for name in names if name}))
        for stage in stages
    ]
    waiting = sorted(linked, key=lambda stage: stage.name == output.name)
    ordered: list[Stage] = []
    while waiting:
        done = {stage.name for stage in ordered}
        ready = next((stage for stage in waiting if stage.needs <= done), None)
        if ready is None:
            circle = ", ".join(f"{stage.name or 'the output'} ({', '.join(sorted(stage.needs))})" for stage in waiting)
            raise ConfigError(f"{where}: these recipes need each other's results in a circle: {circle}.")
        ordered.append(ready)
        waiting.remove(ready)
    if ordered[-1].name != output.name:
        raise ConfigError(f"{where}: {ordered[-1].name} needs the result of {output.name}, the output; put it last.")
    return tuple(ordered)


def _references(recipe: Recipe) -> set[str]:
    return {*([recipe.base] if recipe.base else []), *(expert.model for expert in recipe.experts.values())}
