import numpy as np
import pytest
import torch
from torch import nn

from fusionbench.errors import NotFinite
from fusionbench.weights.headers import TensorSpec, entries
from fusionbench.weights.tensors import (
    TORCH,
    LazyWeights,
    MemorySink,
    TensorSource,
    as_bytes,
    as_tensor,
    cast,
    finite,
    is_finite,
)

KINDS = sorted(TORCH)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 2), (2, 3)])
def test_bytes_of_a_tensor_make_the_same_tensor_again(kind, shape):
    tensor = torch.randint(0, 2, shape).to(TORCH[kind])
    again = as_tensor(as_bytes(tensor), kind, shape)
    assert again.dtype == tensor.dtype
    assert again.shape == tensor.shape
    assert as_bytes(again) == as_bytes(tensor)


def test_an_empty_array_of_numpy_has_no_bytes():
    assert len(as_bytes(torch.from_numpy(np.zeros(0, np.float32)))) == 0


def test_a_tensor_made_of_bytes_is_a_copy():
    raw = bytearray(4)
    tensor = as_tensor(memoryview(raw), "F32", (1,))
    raw[3] = 0x40
    assert tensor.item() == 0.0


def test_the_bytes_of_a_view_are_those_that_it_shows():
    tensor = torch.arange(6, dtype=torch.int8).view(2, 3)
    assert bytes(as_bytes(tensor.T)) == bytes([0, 3, 1, 4, 2, 5])
    assert bytes(as_bytes(tensor[:, 1])) == bytes([1, 4])


def test_a_cast_rounds_to_the_nearest_even_once():
    values = torch.tensor([1.0, 1.00390625, 1.01171875, -0.0, 65504.0], dtype=torch.float64)
    bits = torch.frombuffer(bytearray(cast(values.numpy(), "F64", TensorSpec("w", "BF16", (5,)))), dtype=torch.int16)
    assert [b & 0xFFFF for b in bits.tolist()] == [0x3F80, 0x3F80, 0x3F82, 0x8000, 0x4780]


@pytest.mark.parametrize(("kind", "large"), [("F16", 65520.0), ("BF16", 3.4e38), ("F32", 3.5e38)])
def test_a_cast_of_a_number_that_is_too_large_is_refused(kind, large):
    with pytest.raises(NotFinite, match="w holds numbers too large for"):
        cast(torch.tensor([1.0, large], dtype=torch.float64).numpy(), "F64", TensorSpec("w", kind, (2,)))


def test_a_cast_leaves_infinity_as_it_is():
    content = cast(torch.tensor([float("-inf")], dtype=torch.float64).numpy(), "F64", TensorSpec("w", "F16", (1,)))
    assert bytes(content) == b"\x00\xfc"


def test_a_state_dict_is_a_source():
    source = TensorSource("mine", {"w": torch.arange(6.0).view(2, 3).T, "n": torch.tensor(3)}, {"model_type": "x"})
    assert source.specs == {"w": TensorSpec("w", "F32", (3, 2)), "n": TensorSpec("n", "I64", ())}
    assert entries(source, source.specs["w"]).tolist() == [0, 3, 1, 4, 2, 5]
    assert entries(source, source.specs["w"], 2, 4).tolist() == [1, 4]
    assert source.config == {"model_type": "x"}
    assert source.folder is None


def test_a_module_is_a_source_and_a_tied_tensor_is_in_it_once():
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2), nn.Linear(2, 2, bias=False))
    module[2].weight = module[0].weight
    source = TensorSource("m", module)
    assert list(source.specs) == [
        "0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked",
    ]  # fmt: skip


def test_views_of_one_memory_that_differ_are_not_tied():
    memory = torch.arange(4.0)
    tensors = {"all": memory, "half": memory[:2], "square": memory.view(2, 2), "turned": memory.view(2, 2).T}
    assert list(TensorSource("m", tensors).specs) == list(tensors)


def test_tensors_without_entries_are_never_tied():
    assert list(TensorSource("m", {"a": torch.zeros(0), "b": torch.zeros(0)}).specs) == ["a", "b"]


def test_parameters_that_want_gradients_are_read():
    assert bytes(TensorSource("m", {"w": nn.Parameter(torch.zeros(1))}).read("w")) == bytes(4)


def test_a_configuration_is_taken_from_the_module():
    class Configuration:
        def to_dict(self):
            return {"model_type": "tiny"}

    module = nn.Linear(1, 1)
    module.config = Configuration()
    assert TensorSource("m", module).config == {"model_type": "tiny"}


@pytest.mark.parametrize(
    "other",
    [{"a": torch.ones(2)}, {"b": torch.zeros(2)}, {"a": torch.zeros(1, 2)}, {"a": torch.zeros(2, dtype=torch.int32)}],
)
def test_a_fingerprint_follows_names_kinds_shapes_and_content(other):
    one = TensorSource("x", {"a": torch.zeros(2)})
    assert one.fingerprint() == TensorSource("y", {"a": torch.zeros(2)}).fingerprint()
    assert one.fingerprint() != TensorSource("x", other).fingerprint()


def test_a_source_is_a_mapping_of_tensors_read_when_asked_for():
    tensors = {"w": torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16), "n": torch.tensor(3)}
    weights = LazyWeights(TensorSource("m", tensors))
    assert list(weights) == ["w", "n"]
    assert len(weights) == 2
    assert all(torch.equal(weights[name], tensor) for name, tensor in tensors.items())
    weights["w"][0, 0] = 9
    assert tensors["w"][0, 0] == 1


def test_a_sink_in_memory_gives_back_what_was_written_in_pieces():
    sink = MemorySink([TensorSpec("w", "BF16", (2, 2)), TensorSpec("b", "BOOL", ()), TensorSpec("none", "F32", (0, 2))])
    sink.write("w", memoryview(bytes([0x00, 0x40, 0x40, 0x40])), start=2)
    sink.write("w", memoryview(bytes([0x80, 0x3F, 0x00, 0x00])))
    sink.write("b", memoryview(b"\1"))
    sink.write("none", memoryview(b""))
    assert sink.weights["w"].tolist() == [[1.0, 0.0], [2.0, 3.0]]
    assert sink.weights["b"].item() is True
    assert sink.weights["none"].shape == (0, 2)


@pytest.mark.parametrize("wild", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_one_wild_entry_is_found_wherever_it_is(wild, kind):
    for place in (0, 7, 1023, 1030):
        tensor = torch.ones(1031, dtype=kind)
        assert is_finite(tensor)
        tensor[place] = wild
        assert not is_finite(tensor)
    assert is_finite(torch.ones(0, dtype=kind))
    assert not is_finite(torch.tensor(wild, dtype=kind))


def test_the_first_wild_entry_is_named_by_its_place():
    tensor = torch.zeros(2, 3)
    tensor[1, 1:] = float("inf")
    with pytest.raises(NotFinite, match=r"one: w holds inf at \[3, 1\]"):
        finite(tensor, "one", TensorSpec("w", "F32", (4, 3)), start=6)
