"""Registering a suite that is built here: a function with an entry, no class to inherit from. No torch here."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from fusionbench.registry import Entry
from fusionbench.suites.model import ResolvedSuite

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in all)."""


class BuildSuite(Protocol):
    """Builds a suite, or finds it built."""

    def __call__(self, *, size: str, seed: int, progress: Progress | None) -> ResolvedSuite:
        """Return the suite of this size and seed.

        Raises:
            ConfigError: where there is no such size.
            Interrupted: on Ctrl-C; what was finished is kept.
        """
        ...


F = TypeVar("F", bound=BuildSuite)


def suite(
    name: str, *, version: int, method_defaults: Mapping[str, Mapping[str, Any]] | None = None
) -> Callable[[F], F]:
    """Register a function as a suite; its entry is left on it as `.entry`.

    Args:
        name: in recipes and reports.
        version: raised by whoever changes what is built.
        method_defaults: parameters of methods that suit its models, by method; what a user types wins.
    """
    data = {"method_defaults": {method: dict(values) for method, values in (method_defaults or {}).items()}}

    def register(function: F) -> F:
        summary = (inspect.getdoc(function) or "").partition("\n")[0]
        location = f"{function.__module__}:{function.__qualname__}"  # type: ignore[attr-defined]
        function.entry = Entry(name, summary, location, version, kind="suite", data=data)  # type: ignore[attr-defined]
        return function

    return register
