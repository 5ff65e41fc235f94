"""SMILE: the worked numbers, the formula token by token, the count of parameters, and what is refused."""

import numpy as np
import pytest
import torch
from independent_mixing import smile as reference
from replacing import linear, put
from torch import Tensor, nn

from fusionbench.errors import ConfigError
from fusionbench.methods._outside import base_or_average
from fusionbench.methods.smile import check_smile, smile
from fusionbench.mixing.sites import ModuleSite

HERE = ModuleSite("layers.0.q_proj", {"weight": "w", "bias": "b"}, experts=("a", "b"))
EYE = torch.eye(2)
DIAGONALS = [linear(EYE + torch.diag(torch.tensor(d))) for d in ([2.0, 0.0], [0.0, 3.0])]


def draw(seed: int, outputs: int = 6, inputs: int = 5) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    generator = torch.Generator().manual_seed(seed)

    def one() -> dict[str, Tensor]:
        weight = torch.randn(outputs, inputs, generator=generator)
        return linear(weight, torch.randn(outputs, generator=generator))

    return one(), [one() for _ in range(3)]


@pytest.mark.parametrize(
    ("top_k", "token", "expected"),
    [(1, (1.0, 0.0), (3.0, 0.0)), (1, (0.0, 1.0), (0.0, 4.0)), (2, (3.0, 4.0), (4.6136, 12.7727))],
)
def test_the_worked_example_is_reproduced(top_k: int, token: tuple[float, ...], expected: tuple[float, ...]) -> None:
    module = put(smile(HERE, linear(EYE), DIAGONALS, gate_k=1, k=1, top_k=top_k))
    np.testing.assert_allclose(module(torch.tensor([token])).numpy(), [expected], atol=5e-5)


@pytest.mark.parametrize(("gate_k", "k", "top_k"), [(1, 2, 1), (3, 5, 2), (2, 0, 1), (5, 1, 3)])
def test_every_token_equals_the_independent_reference(gate_k: int, k: int, top_k: int) -> None:
    base, experts = draw(1)
    module = put(smile(HERE, base, experts, gate_k=gate_k, k=k, top_k=top_k), bias=True)
    tokens = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(2))
    arrays = [(e["weight"].double().numpy(), e["bias"].double().numpy()) for e in (base, *experts)]
    expected = [
        reference(token, *arrays[0], arrays[1:], gate=gate_k, rank=k, top=top_k)
        for token in tokens.double().reshape(-1, 5).numpy()
    ]
    np.testing.assert_allclose(module(tokens).reshape(-1, 6).numpy(), expected, atol=2e-5)


def test_a_single_expert_of_full_rank_is_that_expert_and_has_no_gate() -> None:
    base, (expert, *_) = draw(3)
    module = put(smile(HERE, base, [expert], gate_k=2, k=5), bias=True)
    tokens = torch.randn(4, 5)
    torch.testing.assert_close(module(tokens), nn.functional.linear(tokens, expert["weight"], expert["bias"]))
    assert "gate" not in module.state_dict()


def test_dense_experts_give_the_chosen_experts_own_map() -> None:
    base, experts = draw(4)
    module = put(smile(HERE, base, experts, gate_k=2, k=0), bias=True)
    tokens = torch.randn(9, 5)
    chosen, shares = module.route(tokens)  # type: ignore[operator]
    assert torch.equal(shares, torch.ones(9, 1))
    assert len(chosen.unique()) > 1
    for token, number, output in zip(tokens, chosen[:, 0], module(tokens), strict=True):
        own = nn.functional.linear(token, experts[number]["weight"], experts[number]["bias"])
        torch.testing.assert_close(output, own, atol=1e-5, rtol=1e-5)


def test_a_weight_that_is_stored_the_other_way_gives_the_same_outputs() -> None:
    base, experts = draw(5)
    turned = [{**tensors, "weight": tensors["weight"].T.contiguous()} for tensors in (base, *experts)]
    conv1d = ModuleSite("c_fc", {}, linears={"": False}, experts=("a", "b", "c"))
    tokens = torch.randn(4, 5)
    plain = put(smile(HERE, base, experts, gate_k=2, k=3, top_k=2), bias=True)
    other = put(smile(conv1d, turned[0], turned[1:], gate_k=2, k=3, top_k=2), bias=True)
    torch.testing.assert_close(other(tokens), plain(tokens))
    assert other.weight.shape == (5, 6)


def test_a_token_does_not_depend_on_its_batch() -> None:
    base, experts = draw(6)
    module = put(smile(HERE, base, experts, gate_k=2, k=3), bias=True)
    tokens = torch.randn(8, 5)
    alone = torch.cat([module(token[None]) for token in tokens])
    torch.testing.assert_close(module(tokens), alone, atol=1e-5, rtol=1e-5)


def test_the_gate_may_listen_to_the_weights_instead() -> None:
    base, experts = draw(7)
    made = smile(HERE, base, experts, gate_k=2, k=3, gate="weight")
    assert made is not None
    _, _, right = np.linalg.svd(experts[1]["weight"].double().numpy())
    np.testing.assert_allclose(np.abs(made.tensors["gate"][1].numpy()), np.abs(right[:2]), atol=1e-5)


def test_a_map_that_no_expert_changed_stays_as_it_is() -> None:
    base, _ = draw(8)
    assert smile(HERE, base, [base, base], gate_k=2, k=2) is None
    moved = {**base, "bias": base["bias"] + 1}
    assert smile(HERE, base, [base, moved], gate_k=2, k=2) is not None


@pytest.mark.parametrize(("parameter", "value"), [("k", 6), ("gate_k", 6)])
def test_more_directions_than_a_map_has_are_refused(parameter: str, value: int) -> None:
    base, experts = draw(9)
    with pytest.raises(ConfigError, match=rf"method\.{parameter}=6: layers\.0\.q_proj is 6×5 and has 5 directions"):
        smile(HERE, base, experts, **{"gate_k": 2, "k": 2, parameter: value})


def test_more_experts_a_token_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"top_k=3 .* of 2"):
        check_smile(("a", "b"), top_k=3)


def test_all_else_is_the_bases_or_on_request_the_average() -> None:
    base, experts = torch.zeros(2), [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 6.0])]
    assert base_or_average(base, experts).equal(base)
    assert base_or_average(base, experts, others="average").tolist() == [2, 4]


def test_the_inputs_stay_as_they_were() -> None:
    base, experts = draw(10)
    before = [{name: tensor.clone() for name, tensor in tensors.items()} for tensors in (base, *experts)]
    smile(HERE, base, experts, gate_k=2, k=3)
    for tensors, kept in zip((base, *experts), before, strict=True):
        assert all(torch.equal(tensors[name], kept[name]) for name in kept)


@pytest.mark.parametrize(
    ("experts", "gate_k", "k", "expected"),
    [(8, 16, 32, 141_203_712), (8, 16, 128, 268_605_696), (8, 1, 128, 258_652_416)],
)
def test_a_vit_b_32_has_as_many_parameters_as_the_paper_says(experts: int, gate_k: int, k: int, expected: int) -> None:
    """T·k_gate·n + T·(k·(m + n) + m) a map beside the base's; 87,456,000 are the tower's own."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    from fusionbench.mixing.smile import SmileSettings, build_smile

    with torch.device("meta"):
        tower = CLIPVisionModel(CLIPVisionConfig(patch_size=32))
    assert sum(parameter.numel() for parameter in tower.parameters()) == 87_456_000
    settings = SmileSettings(experts=experts, router=gate_k, rank=k, top=1)
    total = 87_456_000
    for module in tower.modules():
        if isinstance(module, nn.Linear):
            made = build_smile(module, settings)
            total += sum(p.numel() for p in made.parameters()) - sum(p.numel() for p in module.parameters())
    assert total == expected
