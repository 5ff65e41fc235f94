"""mergekit's names of methods in recipes of ours: read by the table that its recipes are translated with."""

from collections.abc import Mapping
from typing import Any

from fusionbench.compat.mergekit.words import METHODS
from fusionbench.registry import methods


def under_our_name(method: Any) -> tuple[Any, tuple[str, ...]]:
    """Return a recipe's method with our name for it, and a note where that is another than was written.

    What the name fixes (`dare_ties` is our `dare` with `combine: ties`) is set with it; parameters keep our words.

    Args:
        method: a name, or a mapping with a name and parameters; anything else is handed back.
    """
    typed = {"name": method} if isinstance(method, str) else method
    name = typed.get("name") if isinstance(typed, Mapping) else None
    target = METHODS.get(name) if isinstance(name, str) and name not in methods else None
    if target is None or target.method not in methods:
        return method, ()
    ours = {**target.sets, **typed, "name": target.method}
    fixed = ", ".join(f"{key}: {value}" for key, value in {"method": target.method, **target.sets}.items())
    arithmetic = (
        ""
        if "mergekit" not in (methods[target.method].compat or {})
        else "; for its arithmetic add method.compat=mergekit"
    )
    return ours, (f"method: {name} is mergekit's name → {fixed}{arithmetic}",)
