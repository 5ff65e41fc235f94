"""Time the steps of fusion-bench's layer-wise AdaMerging or Concrete task arithmetic, with its own wrappers and masks.

Runs in fusion-bench's environment. Its strict mode fails on transformers 5, so it is off, as a user would have to.
"""

import argparse
import sys
from pathlib import Path

import torch
from fusion_bench.method.adamerging.entropy_loss import entropy_loss
from fusion_bench.models.masks import MaskModel
from fusion_bench.models.wrappers.layer_wise_fusion import LayerWiseMergedModel, get_layer_wise_weights
from fusion_bench.models.wrappers.task_wise_fusion import TaskWiseMergedModel, get_task_wise_weights
from torch.nn.functional import normalize
from transformers import CLIPModel, CLIPVisionModel

sys.path.insert(0, str(Path(__file__).parents[1]))
from adaptation import head, images, now, say


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("method", choices=("adamerging", "concrete_task_arithmetic"))
    parser.add_argument("--folder", type=Path)
    for name in ("tasks", "batch", "steps", "experts"):
        parser.add_argument(f"--{name}", type=int)
    options = parser.parse_args()
    whole = CLIPModel.from_pretrained(options.folder / "base")
    projection = whole.visual_projection.requires_grad_(False)
    base = CLIPVisionModel(whole.config.vision_config)
    prefix = "" if next(iter(whole.vision_model.state_dict())) in base.state_dict() else "vision_model."
    base.load_state_dict({f"{prefix}{name}": tensor for name, tensor in whole.vision_model.state_dict().items()})
    size, width = whole.config.vision_config.image_size, whole.config.projection_dim
    del whole
    experts = [CLIPVisionModel.from_pretrained(options.folder / f"expert{n}") for n in range(options.experts)]
    tasks = [(images(n, size, options.batch), head(n, width)) for n in range(options.tasks)]
    step = STEPS[options.method](base, experts)
    marks = [now()]
    for _ in range(options.steps):
        step(lambda module: entropies(module, projection, tasks))
        marks.append(now())
    say(marks)


def entropies(module, projection, tasks):
    for batches, directions in tasks:
        features = projection(module(next(batches))[1])
        yield entropy_loss(100 * normalize(features, dim=-1) @ directions.T)


def adamerging(base, experts):
    layers = len([p for p in base.parameters() if p.requires_grad])
    weights = get_layer_wise_weights(num_models=len(experts), num_layers=layers, init_values=0.3)
    module = LayerWiseMergedModel(
        layer_wise_weight=weights, pretrained_model=base, finetuned_models=experts, clamp_weights=False,
        tie_weights=True, strict=False,
    )  # fmt: skip
    optimizer = torch.optim.Adam([module.merge_weight], lr=1e-3)
    module.merge_weights()

    def step(losses):
        for loss in losses(module):
            loss.backward(retain_graph=True)
        optimizer.step()
        optimizer.zero_grad()
        module.merge_weights()

    return step


def concrete_task_arithmetic(base, experts):
    mask_model = MaskModel(base, ignore_untrained_params=True, parameter_type="logits")
    mask_model.fill_(0)
    module = TaskWiseMergedModel(
        task_wise_weight=get_task_wise_weights(num_models=len(experts), init_values=0.3), pretrained_model=base,
        finetuned_models=experts, clamp_weights=False, tie_weights=True, strict=False,
    )  # fmt: skip
    optimizer = torch.optim.Adam(mask_model.parameters(), lr=1e-3)
    module.requires_grad_(False)

    def step(losses):
        mask = mask_model.sample_mask(mask_type="continuous", temperature=0.5)
        for name, values in mask.items():
            mask[name] = values / torch.mean(values)
        module.merge_weights(task_vector_mask=mask)
        sum(losses(module)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


STEPS = {"adamerging": adamerging, "concrete_task_arithmetic": concrete_task_arithmetic}

if __name__ == "__main__":
    main()
