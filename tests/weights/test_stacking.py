"""Layers by number and range: read, never evaluated; out of range is one error."""

import pytest
import torch

from fusionbench.errors import ConfigError
from fusionbench.weights.engine import run_plan
from fusionbench.weights.stacking import index_of, numbers_of, plan_stack
from fusionbench.weights.tensors import MemorySink, TensorSource


@pytest.mark.parametrize(
    ("layers", "count", "expected"),
    [
        (None, 8, [0, 1, 2, 3, 4, 5, 2, 3, 4, 5, 6, 7]),
        (None, 3, [0, 1, 2, 0, 1, 2]),
        (["range(0,24)", "range(8,32)"], 32, [*range(24), *range(8, 32)]),
        ([0, "1", 1, 0], 2, [0, 1, 1, 0]),
        (["range( 1 , 7 , 2 )"], 8, [1, 3, 5]),
    ],
)
def test_entries_are_numbers_and_ranges(layers, count, expected):
    assert numbers_of(layers, count) == expected


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([-1], "'-1' is neither"), ([-1], "neither a number nor range"), ([2], "2 is beyond .* 0 to 1"),
        (["range(0,3)"], "'range.0,3.' is beyond"), (["range(1,1)"], "has no layer"), (["range(0,2,0)"], "neither"),
        (["__import__('os').abort()"], "neither"), ([1.5], "neither"), ([True], "neither"), ([], "names no layer"),
        (["range(0,999999999999)"], "beyond"), ([[0]], "neither"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_by_name(layers, said):
    with pytest.raises(ConfigError, match=said.replace("'-1'", "-1")):
        numbers_of(layers, 2)


def test_every_wrong_entry_is_named_at_once():
    with pytest.raises(ConfigError) as error:
        numbers_of([0, 9, "all"], 2)
    assert str(error.value).count("method.layers:") == 2


def test_the_worked_example():
    """Two maps of 10 × 10 with biases, layers 0, 1, 1, 0: four, of 440 parameters."""
    torch.manual_seed(0)
    shapes = {"weight": (10, 10), "bias": (10,)}
    tensors = {f"layers.{n}.{kind}": torch.randn(shape) for n in range(2) for kind, shape in shapes.items()}
    tensors |= {"embed.weight": torch.randn(3, 10)}
    model = TensorSource("m", tensors, {"model_type": "toy", "num_hidden_layers": 2, "layer_types": ["a", "b"]})
    plan = plan_stack(model, [0, 1, 1, 0], method="depth_upscaling")
    sink = MemorySink([step.output for step in plan])
    from fusionbench.registry import methods

    run_plan(plan, methods["depth_upscaling"], sink, values={})
    found = sink.weights
    assert sum(t.numel() for name, t in found.items() if name.startswith("layers")) == 440
    for place, number in enumerate([0, 1, 1, 0]):
        assert torch.equal(found[f"layers.{place}.weight"], tensors[f"layers.{number}.weight"])
    assert torch.equal(found["embed.weight"], tensors["embed.weight"])
    assert plan.config == {"num_hidden_layers": 4, "layer_types": ["a", "b", "b", "a"]}
    found["layers.1.weight"].zero_()
    assert found["layers.2.weight"].any()
    assert tensors["layers.1.weight"].any()


def test_a_model_without_one_stack_of_layers_is_refused():
    with pytest.raises(ConfigError, match="one stack of numbered layers"):
        plan_stack(TensorSource("m", {"w": torch.ones(2)}), None, method="depth_upscaling")


def test_an_expert_is_found_by_name():
    assert index_of(None, ["a"]) == 0
    assert index_of("b", ["a", "b"]) == 1
    with pytest.raises(ConfigError, match="there are 0"):
        index_of(None, [])
