"""Make golden/fusion_bench_adaptation.safetensors: steps of fusion-bench 0.2.33's AdaMerging and Concrete methods.

Its wrappers merge, its masks are drawn, its entropy is the loss; the order of the calls is that of its algorithms. The
uniform numbers that its masks draw are written too, so that others can use the same. Run it with an interpreter that
has fusion-bench; the output is the same byte for byte each time.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from fusion_bench.method.adamerging.entropy_loss import entropy_loss
from fusion_bench.models.masks import MaskModel
from fusion_bench.models.wrappers.layer_wise_fusion import LayerWiseMergedModel, get_layer_wise_weights
from fusion_bench.models.wrappers.task_wise_fusion import TaskWiseMergedModel, get_task_wise_weights
from safetensors.torch import save_file
from torch import Tensor, nn

STEPS, BATCH = 4, 6


class Net(nn.Module):
    """Two maps without biases, each of twenty entries."""

    def __init__(self) -> None:
        """Make the maps; their weights are overwritten."""
        super().__init__()
        self.first = nn.Linear(4, 5, bias=False)
        self.last = nn.Linear(5, 4, bias=False)

    def forward(self, points: Tensor) -> Tensor:
        """Return logits."""
        return self.last(torch.tanh(self.first(points)))


def main() -> None:
    """Draw models and inputs, take the steps, write everything."""
    torch.manual_seed(0)
    base = Net()
    experts = [copy.deepcopy(base) for _ in range(2)]
    with torch.no_grad():
        for expert in experts:
            for parameter in expert.parameters():
                parameter += 0.5 * torch.randn(parameter.shape)
    points = 2 * torch.randn(2 * STEPS, 2, BATCH, 4)
    found = {f"base/{n}": t for n, t in base.state_dict().items()} | {"points": points}
    for number, expert in enumerate(experts):
        found |= {f"e{number}/{n}": t for n, t in expert.state_dict().items()}
    for layers in (False, True):
        found[f"adamerging/{layers}"] = adamerging(base, experts, points, layers)
        found |= {f"concrete/{layers}/{n}": t for n, t in concrete(base, experts, points, layers).items()}
    found |= {f"arithmetic/{n}": t for n, t in arithmetic(base, experts, points).items()}
    place = Path(__file__).parent / "golden" / "fusion_bench_adaptation.safetensors"
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in found.items()}, place)


def merged_model(base: Net, experts: list[Net], layers: bool) -> nn.Module:
    """Return the peer's wrapper, with 0.3 everywhere and no clamp."""
    models = {"pretrained_model": copy.deepcopy(base), "finetuned_models": copy.deepcopy(experts)}
    options = {"clamp_weights": False, "tie_weights": False, "strict": True}
    if layers:
        return LayerWiseMergedModel(layer_wise_weight=get_layer_wise_weights(2, 2, 0.3), **models, **options)
    return TaskWiseMergedModel(task_wise_weight=get_task_wise_weights(2, 0.3), **models, **options)


def entropies(module: nn.Module, points: Tensor) -> Tensor:
    """Return the sum over tasks."""
    return sum(entropy_loss(module(of_task)) for of_task in points)


def adamerging(base: Net, experts: list[Net], points: Tensor, layers: bool) -> Tensor:
    """Return the coefficients after the steps, one batch of each task a step."""
    module = merged_model(base, experts, layers)
    optimizer = torch.optim.Adam([module.merge_weight], lr=0.01)
    module.merge_weights()
    for batch in points[:STEPS]:
        optimizer.zero_grad()
        entropies(module, batch).backward()
        optimizer.step()
        module.merge_weights()
    return module.merge_weight


def recorded(mask_model: MaskModel) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Return a rescaled draw, and the uniform numbers that it was made of."""
    drawn, plain = [], torch.rand

    def rand(*arguments: object, **options: object) -> Tensor:
        drawn.append(plain(*arguments, **options))
        return drawn[-1]

    torch.rand = rand
    try:
        mask = mask_model.sample_mask(mask_type="continuous", temperature=0.5)
    finally:
        torch.rand = plain
    return {name: values / torch.mean(values) for name, values in mask.items()}, drawn


def concrete(base: Net, experts: list[Net], points: Tensor, layers: bool) -> dict[str, Tensor]:
    """Return the mask's logits and the inner coefficients after the steps, and what was drawn."""
    module, mask_model = merged_model(base, experts, layers), MaskModel(copy.deepcopy(base), parameter_type="logits")
    start = module.merge_weight.detach().clone()
    inner = torch.optim.Adam([module.merge_weight], lr=0.1)
    outer = torch.optim.Adam(mask_model.parameters(), lr=0.05)
    uniforms = []
    for number in range(STEPS):
        mask, drawn = recorded(mask_model)
        uniforms += drawn
        module.merge_weights(task_vector_mask={name: values.detach() for name, values in mask.items()})
        module.merge_weight.data = start.clone()
        inner.zero_grad()
        entropies(module, points[2 * number]).backward()
        inner.step()
        module.merge_weights(task_vector_mask=mask)
        outer.zero_grad()
        entropies(module, points[2 * number + 1]).backward()
        outer.step()
    logits = {f"logits/{name}": parameter for name, parameter in mask_model.named_parameters()}
    return {**logits, "inner": module.merge_weight, "uniforms": torch.stack([u.flatten() for u in uniforms])}


def arithmetic(base: Net, experts: list[Net], points: Tensor) -> dict[str, Tensor]:
    """Return the mask's logits of Concrete task arithmetic after the steps, and what was drawn."""
    module, mask_model = merged_model(base, experts, False), MaskModel(copy.deepcopy(base), parameter_type="logits")
    module.requires_grad_(False)
    optimizer = torch.optim.Adam(mask_model.parameters(), lr=0.05)
    uniforms = []
    for batch in points[:STEPS]:
        mask, drawn = recorded(mask_model)
        uniforms += drawn
        module.merge_weights(task_vector_mask=mask)
        optimizer.zero_grad()
        entropies(module, batch).backward()
        optimizer.step()
    logits = {f"logits/{name}": parameter for name, parameter in mask_model.named_parameters()}
    return {**logits, "uniforms": torch.stack([u.flatten() for u in uniforms])}


if __name__ == "__main__":
    main()
