"""What a method is: a function with a signature, registered by a decorator; no class to inherit from."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, TypeVar

from fusionbench.kernels import Kernel
from fusionbench.parameters import Parameter
from fusionbench.registry import MODEST, Entry, Workspace
from fusionbench.signatures import describe

F = TypeVar("F", bound=Callable[..., Any])
Kind = Literal["reference", "stream", "rebuild", "whole"]
Category = Literal["ensemble", "merge", "mix", "reference"]
POSITIONAL: dict[str, list[list[str]]] = {
    "reference": [[]],
    "stream": [["base", "experts"], ["experts"]],
    "rebuild": [["site", "base", "experts"]],
    "whole": [["pool", "tasks", "context"]],
}
STATISTICS = Parameter(
    "statistics", "string", nullable=True,
    doc="folder of statistics that an earlier run collected: nothing is looked at, only merged.",
)  # fmt: skip
PARTS = ("linears", "blocks", "mlps", "permutations")
"""What a method may ask of a family besides running it; the names are those of `HasParts` and `HasPermutations`."""
LAWS = ("identity", "order", "scale_zero", "shift", "single")
"""What a method may claim: experts = base gives base; the experts' order is no matter; scale 0 gives base; adding one
tensor to all inputs adds it to the result; a single expert is returned as it is."""


def merge_method(
    name: str,
    *,
    paper: str,
    kind: Kind,
    category: Category,
    version: int,
    needs: tuple[str, ...] = (),
    parts: tuple[str, ...] = (),
    unit: Literal["element", "row", "tensor"] = "element",
    base: Literal["required", "optional", "unused"] = "required",
    kernel: Kernel | None = None,
    prepare: Callable[..., Any] | None = None,
    collect: Callable[..., Any] | None = None,
    sites: Callable[..., Any] | None = None,
    rest: Callable[..., Any] | None = None,
    configure: Callable[..., Any] | None = None,
    check: Callable[..., None] | None = None,
    stacks: bool = False,
    workspace: Workspace = MODEST,
    laws: tuple[str, ...] = (),
    exempt: Mapping[str, str] | None = None,
    compat: Mapping[str, Mapping[str, Any]] | None = None,
) -> Callable[[F], F]:
    """Register a function as a method; it stays a plain function.

    Its keyword-only parameters become the recipe's schema. The entry is left on the function as `.entry`, a first pass
    as `.prepare`, what looks at data before the merge as `.collect`; it goes into the index when that is written next.

    Args:
        name: in recipes, reports and on the command line.
        paper: arXiv id, or where the method comes from.
        kind: how it runs; checked against the function's positional parameters.
        category: what the papers call it.
        version: raised by whoever changes a number.
        needs: of unlabelled, labelled, validation, gradients, one_architecture, training_after.
        parts: of `PARTS`, what it asks of the family besides running it; a family without one cannot be merged by it.
        unit: what it must see at once: any block of entries, whole rows, or whole tensors.
        base: whether the pretrained model is an input.
        kernel: its torch-free form, an attribute of a module in `kernels`.
        prepare: `(read, at, **parameters)`: a first look at the whole model; `read()` yields `(site, base, experts)` in
            chunks and may be called any number of times, `at` has each tensor's own parameters; a keyword `statistics`
            is such a reader too, of `(site, one tensor an expert)`. Of the kind rebuild `(pool, **parameters)`.
            What it returns reaches the function as `prepared`.
        collect: `(task, backbone, context, **parameters)`: what the merge needs to know of an expert's data, by name of
            the module's parameters; its keywords join the schema, and the tensors reach the function as `stats`.
        sites: of the kind rebuild: from pool and family to the modules that it is given one by one.
        rest: of the kind rebuild: `(base, experts, *, …)` makes the tensors outside them, and its keywords join the
            schema; None leaves the base's.
        configure: of the kind rebuild: `(config, experts, *, …)`, from the base's configuration to the output's.
        check: of the kind rebuild: `(names of experts, *, …)` refuses parameters before anything is read.
        stacks: of the kind stream: its parameters `layers` and `expert` say which layers of which model are copied.
        workspace: of the kind stream: what the function holds beside its inputs, so that `runtime.memory` is kept; with
            an `inner`, beside what that one holds.
        laws: those it obeys, of `LAWS`; each is tested.
        exempt: for each law not claimed, why; shown on the method's page.
        compat: parameters that a peer's preset sets, by preset.

    Raises:
        TypeError: where the signature does not fit the kind, a law is neither claimed nor explained, or a part has
            another name.
    """
    if (kind == "rebuild") is (sites is None):
        raise TypeError(f"{name}: sites belong to methods of the kind rebuild, and only to those.")
    _check_laws_and_parts(name, kind, (*laws, *(exempt or {})), parts)
    hooks = {"sites": sites, "rest": rest, "configure": configure, "check": check}

    def register(function: F) -> F:
        _check_positional(name, kind, function)
        summary = (inspect.getdoc(function) or "").partition("\n")[0]
        entry = Entry(
            name, summary, f"{function.__module__}:{function.__qualname__}", version, kind, category, paper, needs,
            unit, base, _location(kernel), laws, exempt or {}, _parameters(function, collect, rest), compat or {},
            _further(stacks, parts), workspace,
        )  # fmt: skip
        function.entry = entry  # type: ignore[attr-defined]
        function.prepare = prepare  # type: ignore[attr-defined]
        function.collect = collect  # type: ignore[attr-defined]
        for hook, item in hooks.items() if kind == "rebuild" else ():
            setattr(function, hook, item)
        return function

    return register


def _check_laws_and_parts(name: str, kind: Kind, spoken_of: Collection[str], parts: Sequence[str]) -> None:
    """Refuse a stream method that says nothing of a law, and parts that no family has.

    Raises:
        TypeError: with their names.
    """
    unexplained = [law for law in LAWS if law not in spoken_of]
    if kind == "stream" and unexplained:
        raise TypeError(f"{name}: claim or explain the laws {', '.join(unexplained)}.")
    if unknown := [part for part in parts if part not in PARTS]:
        raise TypeError(f"{name}: families have no parts {', '.join(unknown)}; expected some of {', '.join(PARTS)}.")


def _check_positional(name: str, kind: Kind, function: Callable[..., Any]) -> None:
    """Refuse a function that is not called as methods of its kind are.

    Raises:
        TypeError: with what it takes and what is expected.
    """
    parameters = inspect.signature(function).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    if positional not in POSITIONAL[kind]:
        raise TypeError(f"{name} is of kind {kind!r}, but takes {positional}; expected one of {POSITIONAL[kind]}.")


def _further(stacks: bool, parts: tuple[str, ...]) -> dict[str, Any] | None:
    """Return what only some methods say of themselves, None where there is nothing."""
    found: dict[str, Any] = {"stacks": True} if stacks else {}
    return found | ({"parts": list(parts)} if parts else {}) or None


def _parameters(
    function: Callable[..., Any], collect: Callable[..., Any] | None, rest: Callable[..., Any] | None
) -> tuple[Parameter, ...]:
    """Return what a recipe may set: for the merge, for what is outside the sites, and for the look at data before."""
    own = describe(function)
    named = {parameter.name for parameter in own}
    outside = tuple(p for p in describe(rest) if p.name not in named) if rest is not None else ()
    return own + outside + ((*describe(collect), STATISTICS) if collect is not None else ())


def _location(kernel: Kernel | None) -> str:
    """Return where a kernel object can be imported from without torch."""
    if kernel is None:
        return ""
    module = inspect.getmodule(kernel.apply)
    assert module is not None
    (attribute,) = [key for key, value in vars(module).items() if value is kernel]
    return f"{module.__name__}:{attribute}"
