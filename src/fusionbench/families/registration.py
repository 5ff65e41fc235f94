"""How a family is made known, and found by a checkpoint's configuration."""

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from fusionbench.errors import ConfigError
from fusionbench.families.base import Family
from fusionbench.registry import Entry, families, family_serving

F = TypeVar("F", bound=Family)


def family(cls: type[F]) -> type[F]:
    """Register a class as a family; its class attributes `name`, `version`, `tower` and `model_types` describe it.

    Those of `HasHead`, where it has them, are known without importing it too; and `unused`, prefixes of tensors that
    checkpoints may hold and that its models make no use of, as a classifier's file has them (with its body's prefix).

    The entry is left on the class as `.entry` and goes into the index when that is written next; a family of another
    package is named by an entry point of the group `fusionbench.family`. The class is called without arguments.
    """
    summary = (inspect.getdoc(cls) or "").partition("\n")[0]
    data: dict[str, Any] = {"model_types": list(cls.model_types), "tower": cls.tower}
    head, bodies = getattr(cls, "head", None), getattr(cls, "bodies", None)
    if head is not None and bodies is not None:
        data |= {"head": head, "bodies": dict(bodies)}
    if unused := getattr(cls, "unused", ()):
        data["unused"] = list(unused)
    cls.entry = Entry(  # type: ignore[attr-defined]
        cls.name,
        summary,
        f"{cls.__module__}:{cls.__qualname__}",
        version=cls.version,
        kind="family",
        data=data,
    )
    return cls


def family_named(name: str) -> Family:
    """Return the family called `name`.

    Raises:
        ConfigError: where there is none, with the nearest names.
    """
    return cast(Family, families[name].load()())


def family_for(config: Mapping[str, Any], chosen: str = "auto") -> Family:
    """Return the family that serves the model of a `config.json`.

    Args:
        config: the model's configuration.
        chosen: a family's name, which decides; "auto" looks at the configuration.

    Raises:
        ConfigError: where none does, or the configuration does not say what it describes.
    """
    if (entry := family_serving(config, chosen)) is not None:
        found = cast(Family, entry.load()())
        if chosen != "auto" or found.matches(config):
            return found
    served = {name: tuple((families[name].data or {}).get("model_types", ())) for name in families}
    known = "; ".join(f"{name} ({', '.join(kinds)})" for name, kinds in served.items()) or "none"
    if (kind := config.get("model_type")) is None:
        raise ConfigError(f"The configuration has no model_type, so its family is unknown. Known families: {known}.")
    raise ConfigError(
        f"No family serves models of type {kind!r}. Known families and the types they serve: {known}. "
        "Choose one with family=NAME, or install a package that brings it."
    )
