"""Passing a model through: by hand, against mergekit, and the same with and without torch."""

import pytest
import torch
from golden_cases import golden_cases
from golden_inputs import COUNTER

from fusing import fuse
from fusionbench.errors import ConfigError
from fusionbench.methods.passthrough import passthrough
from fusionbench.weights import engine

EXPERT = torch.tensor([1.0, -2.0, 4.0])


@pytest.mark.parametrize(("scale", "expected"), [(1.0, [1, -2, 4]), (0.5, [0.5, -1, 2]), ([-1.0], [-1, 2, -4])])
def test_the_worked_example(scale, expected):
    assert passthrough([EXPERT], scale=scale).tolist() == expected
    assert fuse("passthrough", None, {"a": {"w": EXPERT}}, {"scale": scale})["w"].tolist() == expected


@pytest.mark.parametrize("count", [0, 2])
def test_anything_but_one_expert_is_refused(count):
    with pytest.raises(ConfigError, match=f"exactly one expert for each layer, got {count}"):
        passthrough([EXPERT] * count)


@pytest.mark.parametrize("case", golden_cases("mergekit", "passthrough"), ids=lambda case: case.name)
def test_mergekits_result_is_reproduced(case):
    values = {"scale": case.parameters["scale"]} if case.parameters.get("scale") is not None else {}
    found = fuse("passthrough", None, case.experts, values, batch_norm="as_parameters")
    for name, expected in case.expected.items():
        if name != COUNTER:
            torch.testing.assert_close(found[name], expected, rtol=0, atol=0, msg=name)


def test_it_is_the_same_with_and_without_torch(monkeypatch):
    expert = {"a": {"w": torch.randn(50, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)}}
    fast = fuse("passthrough", None, expert, {"scale": 0.3})
    monkeypatch.setattr(engine, "kernel_for", lambda *_: None)
    slow = fuse("passthrough", None, expert, {"scale": 0.3})
    assert torch.equal(fast["w"], slow["w"])
