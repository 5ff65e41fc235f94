"""Every parameter of every stream method changes something, and no value of it parts the function from the engine."""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from pools import FAST, SHAPES, STREAM, State, bits, counts, fused, pool, state, statistics
from torch import Tensor

from fusing import plan_for
from fusionbench.parameters import Parameter, check
from fusionbench.registry import methods
from fusionbench.weights import engine

CONTEXT: dict[tuple[str, str], dict[str, Any]] = {
    ("weighted_average", "normalize"): {"weights": 0.7},
    ("weighted_average", "relative_to_base"): {"weights": 0.7, "normalize": False},
    ("ties", "zero_sign"): {"density": 1.0, "combine": "sum"},
    ("ties", "elect_on"): {"density": 1.0, "weights": "unequal"},
    ("ties", "combine"): {"density": 1.0},
    ("ties", "keep"): {"density": 0.01, "scope": "tensor"},
    ("breadcrumbs", "bottom_drop"): {"density": None, "bottom_drop": 0.85},
    ("breadcrumbs", "zero_sign"): {"combine": "ties", "density": 1.0, "top_drop": 0.0},
    ("dare", "ties_density"): {"combine": "ties"},
    ("dare", "keep"): {"combine": "ties", "ties_density": 0.01, "density": 1.0},
    ("dare", "zero_sign"): {"combine": "ties", "density": 1.0},
    ("della", "zero_sign"): {"density": 1.0, "epsilon": 0.0},
    ("doge_ta", "keep"): {"density": 0.01},
    ("doge_ta", "subspace"): {"steps": 10},
    ("knots", "cut"): {"tolerance": 0.3},
    ("ram", "most"): {"gain": 0.7, "epsilon": 0.3},
    ("ram", "scope"): {"gain": 0.7, "epsilon": 0.3},
    ("ram", "gain"): {"epsilon": 0.3},
}
"""Values of the other parameters under which one shows; "unequal" stands for a list, one a expert."""
VALUES: dict[tuple[str, str], Any] = {
    ("della", "epsilon"): 0.11,
    ("doge_ta", "subspace"): 1,
    ("karcher", "max_iterations"): 1,
    ("nuslerp", "straight"): 0.0,
    ("opcm", "alpha"): 0.9,
    ("tsv_m", "density"): 0.2,
}
"""Values that a parameter can take or shows at, where those that are tried first would not do."""


def alternatives(name: str, parameter: Parameter) -> list[Any]:
    """Values other than the default, each of which must be able to change a result."""
    if (name, parameter.name) in VALUES:
        return [VALUES[name, parameter.name]]
    if parameter.choices:
        return [choice for choice in parameter.choices if choice != parameter.default]
    if parameter.type == "boolean":
        return [not parameter.default]
    if parameter.type == "integer":
        return [parameter.default + 1]
    if parameter.type == "number":
        tried = [value for value in (0.37, 0.11, 0.63, 2.3) if value in parameter.range and value != parameter.default]
        return [tuple(tried[:3])] if parameter.per_expert else tried[:1]
    return []


SETTABLE = [
    (name, parameter.name, value)
    for name in STREAM
    for parameter in methods[name].parameters
    if parameter.name in inspect.signature(methods[name].load()).parameters
    for value in alternatives(name, parameter)
]


def edited(
    base: State, experts: dict[str, State], change: Callable[[str, int], Tensor]
) -> tuple[State, dict[str, State]]:
    """The models with other deltas: `change` of a tensor's name and an expert's number."""
    moved = {e: {n: base[n] + change(n, i) for n in base} for i, e in enumerate(experts)}
    return base, moved


@cache
def pools(name: str) -> list[tuple[State, dict[str, State]]]:
    """Models on which parameters may show.

    Ordinary ones; coarse ones with ties; deltas that cancel exactly, of rank one, very small, zero in one tensor for
    all; an expert with a tensor of zeros.
    """
    count = counts(name)[-1]
    plain, coarse = [pool(8, count, coarse) for coarse in (False, True)]
    base, experts = coarse
    signs = [1, -1, 0]
    deltas = [{n: e[n] - base[n] for n in base} for e in experts.values()]
    ends = {n: state(90, {n: shape}, True)[n] for n, shape in SHAPES.items()}
    return [
        plain,
        coarse,
        edited(base, experts, lambda n, i: deltas[0][n] * signs[i % 3]),
        edited(
            base,
            experts,
            lambda n, i: ends[n][:1] * ends[n][:, :1] if ends[n].dim() == 2 and ends[n].numel() else ends[n],
        ),
        edited(base, experts, lambda n, i: deltas[i][n] * 2.0**-14),
        edited(base, experts, lambda n, i: deltas[i][n] * ("embed" not in n)),
        (
            base,
            {
                e: {**t, "layers.0.attn.weight": torch.zeros(4, 4)} if i == 0 else t
                for i, (e, t) in enumerate(experts.items())
            },
        ),
    ]


def settled(name: str, parameter: str, value: Any, count: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The other parameters, and these with the one in question."""
    others = {
        n: [0.25 + 0.5 * i for i in range(count)] if v == "unequal" else v
        for n, v in {**FAST.get(name, {}), **CONTEXT.get((name, parameter), {})}.items()
    }
    return others, {
        **others,
        parameter: [value[i % len(value)] for i in range(count)] if isinstance(value, tuple) else value,
    }


@pytest.mark.parametrize(("name", "parameter", "value"), SETTABLE)
def test_every_parameter_changes_some_result(name, parameter, value):
    for base, experts in pools(name):
        without, with_it = settled(name, parameter, value, len(experts))
        if bits(fused(name, base, experts, without)) != bits(fused(name, base, experts, with_it)):
            return
    pytest.fail(f"{name}.{parameter}={value} changes nothing")


PLAIN_CALLS = [(name, "", None) for name in STREAM]


@pytest.mark.parametrize(("name", "parameter", "value"), [*PLAIN_CALLS, *SETTABLE])
@pytest.mark.parametrize("shape", [(4, 3), (7,), (1, 1), (), (3, 2, 2, 2)], ids=str)
def test_the_function_gives_the_engines_bits(name, parameter, value, shape):
    """On a model of one tensor there is nothing that a first look at the whole model could add."""
    entry = methods[name]
    for seed, coarse in ((6, False), (7, True)):
        base, experts = pool(seed, counts(name)[-1], coarse, {"layers.0.weight": shape})
        values = settled(name, parameter, value, len(experts))[parameter != ""]
        (step,) = plan_for(name, base, experts, values)
        collected = [tensors["layers.0.weight"] for tensors in statistics(name, experts).values() if tensors]
        given = {**check(name, entry.parameters, values), "site": step.site, "stats": collected or None}
        wanted = inspect.signature(entry.load()).parameters
        inputs = [tensors["layers.0.weight"] for tensors in experts.values()]
        arguments = [inputs] if entry.base == "unused" else [base["layers.0.weight"], inputs]
        result = entry.load()(*arguments, **{key: value for key, value in given.items() if key in wanted})
        assert bits({"layers.0.weight": result}) == bits(fused(name, base, experts, values))


KERNELS = [call for call in [*PLAIN_CALLS, *SETTABLE] if methods[call[0]].kernel]


@pytest.mark.parametrize(("name", "parameter", "value"), KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_kernel_gives_the_torch_functions_bits(name, parameter, value, dtype, monkeypatch, small_tiles):
    small_tiles(16, 48)
    for base, experts in pools(name)[:4]:
        values = settled(name, parameter, value, len(experts))[parameter != ""]
        narrow = {e: {n: t.to(dtype) for n, t in tensors.items()} for e, tensors in experts.items()}
        by_kernel = bits(fused(name, base, narrow, values))
        with monkeypatch.context() as patch:
            patch.setattr(engine, "kernel_for", lambda *arguments: None)
            assert bits(fused(name, base, narrow, values)) == by_kernel
