"""BitDelta: the worked numbers, the bits, the nearest factor, and the size on disk."""

import numpy as np
import pytest
import torch
from replacing import linear, put
from torch import nn

from fusionbench.methods.bitdelta import bitdelta
from fusionbench.mixing.bits import packed, unpacked
from fusionbench.mixing.sites import ModuleSite

HERE = ModuleSite("q_proj", experts=("a",))


def pair(outputs=5, inputs=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        linear(torch.randn(outputs, inputs, generator=generator), torch.randn(outputs, generator=generator))
        for _ in range(2)
    ]


def test_the_worked_example():
    base, delta = torch.zeros(2, 2), torch.tensor([[1.0, -2], [0, 3]])
    made = bitdelta(HERE, linear(base), [linear(delta)])
    assert made.tensors["scale"].item() == 1.5
    module = put(made)
    expected = np.array([[1.5, -1.5], [1.5, 1.5]])
    np.testing.assert_allclose(module(torch.eye(2)).T.numpy(), expected)
    assert ((delta.numpy() - expected) ** 2).sum() == 5.0


def test_bits_are_packed_from_the_lowest_up():
    signs = torch.zeros(1, 32, dtype=torch.bool)
    signs[0, [0, 2, 3]] = True
    assert packed(signs).tolist() == [[13]]
    signs[0, 31] = True
    assert packed(signs).item() == 13 - 2**31


@pytest.mark.parametrize("inputs", [1, 31, 32, 33, 70])
def test_packed_and_unpacked_is_the_same(inputs):
    signs = torch.rand(3, inputs, generator=torch.Generator().manual_seed(inputs)) > 0.5
    words = packed(signs)
    assert words.shape == (-(-inputs // 32), 3)
    assert words.dtype == torch.int32
    assert torch.equal(unpacked(words, inputs), signs)


def test_the_map_is_the_base_and_signs_with_the_experts_bias():
    base, expert = pair()
    module = put(bitdelta(HERE, base, [expert]), bias=True)
    delta = (expert["weight"] - base["weight"]).double()
    weight = base["weight"].double() + delta.abs().mean() * torch.where(delta >= 0, 1.0, -1.0)
    tokens = torch.randn(3, 40)
    expected = nn.functional.linear(tokens.double(), weight, expert["bias"].double())
    torch.testing.assert_close(module(tokens).double(), expected, atol=1e-4, rtol=1e-4)


def test_no_other_factor_is_nearer():
    base, expert = pair(seed=3)
    made = bitdelta(HERE, base, [expert])
    delta = expert["weight"] - base["weight"]
    signs = torch.where(delta >= 0, 1.0, -1.0)
    errors = [((delta - made.tensors["scale"] * f * signs) ** 2).sum().item() for f in (1.0, 0.99, 1.01)]
    assert errors[0] < min(errors[1:])


def test_a_weight_that_is_stored_the_other_way_gives_the_same_outputs():
    base, expert = pair(seed=4)
    turned = [{**t, "weight": t["weight"].T.contiguous()} for t in (base, expert)]
    conv1d = ModuleSite("c_fc", linears={"": False}, experts=("a",))
    tokens = torch.randn(3, 40)
    plain = put(bitdelta(HERE, base, [expert]), bias=True)(tokens)
    torch.testing.assert_close(put(bitdelta(conv1d, turned[0], turned[1:]), bias=True)(tokens), plain)


def test_a_folders_size_is_that_of_the_formula(tmp_path):
    """The base, and 4·m·⌈n/32⌉ + 4 bytes a map of m × n; widths 16 and 24, keys and values 8, two layers."""
    from causal import merged, save_causal

    from fusionbench.mixing.mixed import open_mixed
    from fusionbench.weights.sources import open_source

    for seed, name in enumerate(("base", "a")):
        save_causal(tmp_path / name, layers=2, seed=seed)
    named = [f"base={tmp_path / 'base'}", f"experts.a={tmp_path / 'a'}", "method=bitdelta"]
    out = merged(tmp_path / "out", named)
    base = sum(spec.nbytes for spec in open_source(tmp_path / "base").specs.values())
    rows = 16 + 8 + 8 + 16 + 24 + 24 + 16
    assert open_mixed(open_source(out)).bytes == base + 2 * (4 * rows * 1 + 7 * 4)
    written = (out / "model.safetensors").read_bytes()
    assert len(written) == 8 + int.from_bytes(written[:8], "little") + open_mixed(open_source(out)).bytes


def test_one_of_several_experts_is_chosen():
    base, expert = pair()
    here = ModuleSite("q_proj", experts=("a", "b"))
    made = bitdelta(here, base, [base, expert], expert="b")
    assert torch.equal(made.tensors["bias"], expert["bias"])
