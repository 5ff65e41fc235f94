"""What the tests of single-tensor methods share: calls on plain arrays, worked examples, golden files, claimed laws."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import worked_examples
from golden_cases import GoldenCase, golden_cases
from golden_inputs import COUNTER
from torch import Tensor

Method = Callable[..., Tensor]
NEAR = {"rtol": 2e-6, "atol": 2e-6}
"""The tolerance of the worked numbers and of results in float32 against float64."""


def tensor(values: Any) -> Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float32)


def call(method: Method, base: Any, experts: Sequence[Any], **parameters: Any) -> Tensor:
    """The method's result on arrays of any kind, calculated in float32."""
    inputs = [tensor(expert) for expert in experts]
    if method.entry.base == "unused":
        return method(inputs, **parameters)
    return method(None if base is None else tensor(base), inputs, **parameters)


def worked(name: str, rename: Mapping[str, str] | None = None) -> list[Any]:
    """The specification's worked examples of a method as pytest parameters: parameters, base, experts, expected."""
    return [
        pytest.param(
            {(rename or {}).get(key, key): value for key, value in example.params.items()},
            example.base,
            example.experts,
            example.expected,
            id=f"{number}-{example.params}",
        )
        for number, example in enumerate(e for e in worked_examples.EXAMPLES if e.method == name)
    ]


def golden(peer: str, *names: str, skip: Sequence[str] = ()) -> list[Any]:
    """A peer's golden cases in float32 as pytest parameters."""
    cases = [case for name in names for case in golden_cases(peer, name)]
    chosen = [case for case in cases if not case.name.startswith("bf16") and case.name not in skip]
    return [pytest.param(case, id=f"{case.method}-{case.name}") for case in chosen]


def models(count: int, shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> tuple[dict[str, Tensor], list[Any]]:
    """A base and experts near it, drawn from a generator of their own."""
    random = torch.Generator().manual_seed(seed)
    base = {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}
    experts = [
        {name: value + 0.1 * torch.randn(value.shape, generator=random) for name, value in base.items()}
        for _ in range(count)
    ]
    return base, experts


def of_experts(value: Any, case: GoldenCase) -> Any:
    """A peer's per-model parameter as one value an expert."""
    return [value[name] for name in case.experts] if isinstance(value, dict) else value


def assert_golden(method: Method, case: GoldenCase, skip: Sequence[str] = (), **parameters: Any) -> None:
    """Every tensor of a golden case must be what the method gives under that peer's preset."""
    preset = dict((method.entry.compat or {}).get(case.peer, {}))
    names = [name for name in case.expected if name not in (COUNTER, *skip)]
    assert len(names) > 3
    for name in names:
        base = None if case.base is None else case.base[name]
        result = call(method, base, [expert[name] for expert in case.experts.values()], **{**preset, **parameters})
        torch.testing.assert_close(result, case.expected[name], **NEAR, msg=lambda text, n=name: f"{n}: {text}")


def law_cases(*methods: Method) -> list[Any]:
    """Every law that some methods claim, as pytest parameters."""
    return [pytest.param(m, law, id=f"{m.entry.name}-{law}") for m in methods for law in m.entry.laws]


def assert_law(method: Method, law: str, *, experts: int = 3, **parameters: Any) -> None:
    """Hold one claimed law on random matrices."""
    for seed in range(5):
        base, drawn = models(experts, {"": (6, 5)}, seed)
        start, inputs = base[""], [expert[""] for expert in drawn]
        unchanged = [value.clone() for value in (start, *inputs)]
        result = call(method, start, inputs, **parameters)
        torch.testing.assert_close([start, *inputs], unchanged, rtol=0, atol=0)
        if law == "identity":
            result, expected = call(method, start, [start] * experts, **parameters), start
        elif law == "order":
            expected = call(method, start, inputs[::-1], **parameters)
        elif law == "scale_zero":
            result, expected = call(method, start, inputs, **{**parameters, "scale": 0.0}), start
        elif law == "shift":
            moved = call(method, start + 0.5, [value + 0.5 for value in inputs], **parameters)
            result, expected = moved - 0.5, result
        else:
            assert law == "single"
            result, expected = call(method, start, inputs[:1], **parameters), inputs[0]
        torch.testing.assert_close(result, expected, rtol=0, atol=2e-6)
