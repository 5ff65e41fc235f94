"""Routed MLPs: merged weights for each sample without a merged model, and which inputs a router looks at."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from fusionbench.errors import CheckpointError, ConfigError
from fusionbench.mixing.routed import RoutedMlp, RoutedSettings, build_routed, routing_mask
from fusionbench.mixing.routed_linear import by_products, by_slabs


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.down(torch.tanh(self.up(hidden)))


def make(
    depth: int = 1, route: str = "sample", experts: int = 2, shared_by: int = 0
) -> tuple[RoutedMlp, Mlp, list[Mlp]]:
    """A routed MLP with random routers, the base's MLP and the experts'."""
    torch.manual_seed(0)
    models = [Mlp() for _ in range(experts + 1)]
    settings = RoutedSettings(experts=experts, width=4, depth=depth, route=route, shared_by=shared_by, parts="up,down")
    routed = build_routed(copy.deepcopy(models[0]), settings)
    tensors = {f"mlp.{name}": tensor.clone() for name, tensor in models[0].state_dict().items()}
    for part in ("up", "down"):
        for kind, name in (("weight", "delta"), ("bias", "shift")):
            own = [getattr(getattr(m, part), kind) for m in models]
            tensors[f"mlp.{part}.{name}"] = torch.stack([one.detach() - own[0].detach() for one in own[1:]])
    for name, tensor in routed.state_dict().items():
        if name.startswith("router"):
            tensors[name] = torch.randn(tensor.shape)
    routed.load_state_dict(tensors, assign=True)
    return routed.eval(), models[0], models[1:]


def merged(base: Mlp, experts: list[Mlp], weights: Tensor, hidden: Tensor) -> Tensor:
    """The MLP of merged weights, by torch's own functional call."""
    states = [model.state_dict() for model in (base, *experts)]
    total = {
        name: states[0][name] + sum(w * (s[name] - states[0][name]) for w, s in zip(weights, states[1:], strict=True))
        for name in states[0]
    }
    return functional_call(base, total, (hidden,))


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("grad", [True, False])
def test_each_sample_is_run_with_its_own_merged_weights(depth: int, grad: bool) -> None:
    routed, base, experts = make(depth)
    hidden = torch.randn(5, 3, 4)
    weights = routed.router(hidden).mean(dim=1)
    expected = torch.stack([merged(base, experts, w, h) for w, h in zip(weights, hidden, strict=True)])
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(routed(hidden), expected, atol=1e-5, rtol=1e-5)


def test_a_batch_may_share_its_mean_weights() -> None:
    routed, base, experts = make(route="batch")
    hidden = torch.randn(5, 3, 4)
    weights = routed.router(hidden).mean(dim=(0, 1))
    torch.testing.assert_close(routed(hidden), merged(base, experts, weights, hidden), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("samples", [5, 6])
def test_samples_share_weights_in_groups_however_many_are_run_together(samples: int) -> None:
    routed, base, experts = make(route="batch", shared_by=2)
    hidden = torch.randn(samples, 3, 4)
    groups = [hidden[0:2], hidden[2:4], hidden[4:]]
    expected = [merged(base, experts, routed.router(group).mean(dim=(0, 1)), group) for group in groups]
    torch.testing.assert_close(routed(hidden), torch.cat(expected), atol=1e-5, rtol=1e-5)
    # As if they had come in batches of two, to the bit.
    assert torch.equal(routed(hidden), torch.cat([routed(group) for group in groups]))


def test_groups_keep_the_mask_of_their_own_samples() -> None:
    routed, base, experts = make(route="batch", shared_by=2)
    hidden, mask = torch.randn(3, 2, 4), torch.tensor([[1, 0], [1, 1], [0, 1]]).bool()
    with routing_mask(routed, mask):
        found = routed(hidden)
    each = routed.router(hidden)
    first = (each[0, 0] + each[1].mean(dim=0)) / 2
    torch.testing.assert_close(found[:2], merged(base, experts, first, hidden[:2]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[2:], merged(base, experts, each[2, 1], hidden[2:]), atol=1e-5, rtol=1e-5)


def test_samples_or_tokens_with_weights_of_their_own_know_no_groups() -> None:
    for route in ("sample", "token"):
        hidden = torch.randn(5, 3, 4)
        grouped, whole = (make(route=route, shared_by=shared)[0] for shared in (2, 0))
        assert torch.equal(grouped(hidden), whole(hidden))


def test_two_samples_get_two_experts_or_half_of_both() -> None:
    """By hand: routers that answer (1, 0) and (0, 1)."""
    for route in ("sample", "batch"):
        routed, base, experts = make(route=route)
        routed.router.layers[0].weight.data = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0]])
        routed.router.layers[0].bias.data.zero_()
        hidden = torch.tensor([[[1.0, 0, 2, 3]], [[0, 1, 2, 3]]])
        if route == "sample":
            expected = torch.stack([experts[0](hidden[0]), experts[1](hidden[1])])
        else:
            expected = merged(base, experts, torch.tensor([0.5, 0.5]), hidden)
        torch.testing.assert_close(routed(hidden), expected, atol=1e-5, rtol=1e-5)


def test_a_free_vector_is_the_same_for_all() -> None:
    routed, base, experts = make(depth=0)
    routed.router.free.data = torch.tensor([0.3, 0.7])
    hidden = torch.randn(5, 3, 4)
    expected = merged(base, experts, torch.tensor([0.3, 0.7]), hidden)
    torch.testing.assert_close(routed(hidden), expected, atol=1e-5, rtol=1e-5)


def test_zero_weights_are_the_base() -> None:
    routed, base, _ = make(depth=0)
    routed.router.free.data.zero_()
    hidden = torch.randn(2, 3, 4)
    torch.testing.assert_close(routed(hidden), base(hidden), atol=1e-6, rtol=1e-6)


def test_tokens_may_be_routed_apart() -> None:
    routed, base, experts = make(route="token")
    hidden = torch.randn(2, 3, 4)
    weights = routed.router(hidden)
    expected = torch.stack([
        torch.stack([merged(base, experts, weights[i, j], hidden[i, j]) for j in range(3)]) for i in range(2)
    ])  # fmt: skip
    torch.testing.assert_close(routed(hidden), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(routed(hidden)[:, :2], routed(hidden[:, :2]), atol=1e-6, rtol=1e-6)


def test_the_places_of_maps_are_routed_as_tokens() -> None:
    """A ConvNeXt's blocks pass on `(samples, channels, height, width)`."""
    routed, _, _ = make(depth=2)
    hidden = torch.randn(2, 4, 3, 5)
    expected = routed.router(hidden.permute(0, 2, 3, 1)).mean(dim=(1, 2))
    torch.testing.assert_close(routed.route(hidden), expected, atol=1e-6, rtol=1e-6)
    routed, _, _ = make(route="token")
    expected = routed.router(hidden.permute(0, 2, 3, 1)).flatten(1, 2)
    torch.testing.assert_close(routed.route(hidden), expected, atol=1e-6, rtol=1e-6)


def test_inputs_without_tokens_are_routed_too() -> None:
    routed, base, experts = make()
    hidden = torch.randn(3, 4)
    expected = torch.stack([merged(base, experts, routed.router(h), h) for h in hidden])
    torch.testing.assert_close(routed(hidden), expected, atol=1e-5, rtol=1e-5)


def test_padding_and_batch_mates_change_nothing() -> None:
    routed, _, _ = make()
    hidden = torch.randn(1, 3, 4)
    alone = routed(hidden)
    for left in (False, True):
        filled = torch.cat([hidden, torch.randn(1, 2, 4)] if not left else [torch.randn(1, 2, 4), hidden], dim=1)
        mask = torch.tensor([[1, 1, 1, 0, 0]] if not left else [[0, 0, 1, 1, 1]]).bool()
        both = torch.cat([filled, torch.randn(1, 5, 4)])
        with routing_mask(routed, torch.cat([mask, torch.ones(1, 5).bool()])):
            found = routed(both)[:1]
        torch.testing.assert_close(found[:, 2:] if left else found[:, :3], alone, atol=1e-5, rtol=1e-5)
    assert routed.mask is None


def test_slabs_of_any_height_equal_products(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    rows, weight, delta, weights = (
        torch.randn(shape, generator=generator) for shape in ((3, 5, 4), (7, 4), (2, 7, 4), (3, 2))
    )
    expected = by_products(rows, weight, delta, weights)
    for slab in (1, 30, 10**9):
        monkeypatch.setattr("fusionbench.mixing.routed_linear.SLAB", slab)
        torch.testing.assert_close(by_slabs(rows, weight, delta, weights), expected, atol=1e-5, rtol=1e-5)


def test_gradients_reach_the_router_alone_and_are_those_of_the_merge() -> None:
    routed, base, experts = make()
    hidden = torch.randn(2, 3, 4)
    for parameter in routed.router.parameters():
        parameter.requires_grad_(True)
    routed(hidden).square().sum().backward()
    weight = routed.router.layers[0].weight.detach().clone().requires_grad_(True)
    each = nn.functional.linear(hidden, weight, routed.router.layers[0].bias.detach()).mean(dim=1)
    torch.stack([merged(base, experts, w, h) for w, h in zip(each, hidden, strict=True)]).square().sum().backward()
    torch.testing.assert_close(routed.router.layers[0].weight.grad, weight.grad, atol=1e-4, rtol=1e-4)
    assert all(p.grad is None for name, p in routed.named_parameters() if not name.startswith("router"))


def test_a_part_that_is_not_there_and_a_depth_that_is_not_known_are_refused() -> None:
    with pytest.raises(CheckpointError, match="routes 'side', which a Mlp does not have"):
        build_routed(Mlp(), RoutedSettings(experts=2, width=4, depth=1, parts="up,side"))
    with pytest.raises(ConfigError, match="depth"):
        RoutedSettings.read({"experts": 2, "width": 4, "depth": 3, "parts": "up"})
