"""Which layers of one model a depth-up-scaled one has, and the plan that copies them. No torch here."""

import re
from collections.abc import Iterable, Mapping, Sequence

from fusionbench.config.slices import BASE, SliceConfig
from fusionbench.errors import ConfigError
from fusionbench.registry import suggestion
from fusionbench.weights.headers import Source
from fusionbench.weights.plan import Plan
from fusionbench.weights.slices import plan_slices, stack_of

_RANGE = re.compile(r"range\(\s*(\d+)\s*,\s*(\d+)\s*(?:,\s*(\d+)\s*)?\)")
MOST_LAYERS = 10_000
"""More than any model has; a mistyped range ends here."""


def index_of(expert: str | None, names: Sequence[str]) -> int:
    """Return the place of the expert that is asked for among the pool's; the only one need not be named.

    Raises:
        ConfigError: where it is not there, or none is named and there are several.
    """
    if expert is None:
        if len(names) != 1:
            raise ConfigError(
                f"One expert is looked at, and there are {len(names)}: choose one with method.expert=NAME. "
                f"Known: {', '.join(names) or 'none'}."
            )
        return 0
    if expert not in names:
        raise ConfigError(f"method.expert: there is no expert {expert!r}. {suggestion(expert, list(names))}")
    return list(names).index(expert)


def model_of(base: Source | None, experts: Mapping[str, Source], expert: str | None) -> Source:
    """Return the model whose layers are stacked: an expert by its name, or "base".

    Raises:
        ConfigError: see `index_of`.
    """
    if expert == BASE and base is not None:
        return base
    return list(experts.values())[index_of(expert, tuple(experts))]


def numbers_of(layers: Sequence[int | str] | None, count: int) -> list[int]:
    """Return layers by number.

    Args:
        layers: numbers, and texts such as "7", "range(0,24)" or "range(0,24,2)", which are read and never evaluated;
            None takes SOLAR's rule: two copies, without the last quarter of the first and the first of the second.
        count: how many layers the model has.

    Raises:
        ConfigError: naming every entry that is neither, or is beyond the model's layers.
    """
    if layers is None:
        left = count - count // 4
        return [*range(left), *range(count // 4, count)]
    found: list[int] = []
    problems = []
    for entry in layers:
        numbers = _read(str(entry).strip())
        if numbers is None:
            problems.append(f"{entry!r} is neither a number nor range(first,end)")
        elif not numbers:
            problems.append(f"{entry!r} has no layer")
        elif max(numbers) >= count:
            problems.append(f"{entry!r} is beyond the model's layers, 0 to {count - 1}")
        else:
            found += numbers
    if problems or not found:
        raise ConfigError("\n".join(f"method.layers: {p}." for p in problems or ["it names no layer"]))
    return found


def _read(text: str) -> Sequence[int] | None:
    """Return the numbers that an entry names; None where it is not understood."""
    match = _RANGE.fullmatch(text)
    if match:
        first, end, step = int(match[1]), int(match[2]), int(match[3] or 1)
        return range(first, min(end, first + MOST_LAYERS * max(step, 1)), step) if step else None
    return [int(text)] if re.fullmatch(r"\d{1,9}", text) else None


def plan_stack(model: Source, layers: Sequence[int | str] | None, *, method: str, dtype: str = "base") -> Plan:
    """Return the plan that copies layers of one model, one after the other, and all that is outside them.

    Args:
        model: with one stack of numbered layers.
        layers: see `numbers_of`.
        method: its name.
        dtype: of the output's floating tensors, in safetensors' words; "base" keeps the model's.

    Raises:
        ConfigError: where layers are not there, or the model has no stack of layers, or several.
    """
    _, count = stack_of(model)
    slices = [
        SliceConfig.read({"sources": [{"expert": BASE, "layers": [first, end]}]})
        for first, end in _runs(numbers_of(layers, count))
    ]
    return plan_slices(model, {}, slices, method=method, origin="optional", parameters=[], values={}, dtype=dtype)


def _runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return runs of consecutive numbers as (first, one after the last)."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number:
            runs[-1] = (runs[-1][0], number + 1)
        else:
            runs.append((number, number + 1))
    return runs
