"""Serve forward passes of fusion-bench's WEMoE and SMILE, built by its own classes, to `benchmarks/mixing.py`.

Runs in fusion-bench's environment. Its WEMoE's code for CLIP finds no `.vision_model` in transformers 5, so that the
MLPs are put in place here, as it does.
"""

import sys
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import torch
from fusion_bench.models.smile_moe.linear_from_module import SmileMoELinear
from fusion_bench.models.we_moe import WeightEnsemblingMoE
from transformers import CLIPModel, CLIPVisionModel
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).parents[1]))
from mixing import arguments, random_directions, serve, smile_sizes

INIT = 0.3


def models(options):
    logging.disable_progress_bar()
    whole = CLIPModel.from_pretrained(options.folder / "base")
    base = CLIPVisionModel(whole.config.vision_config)
    prefix = "" if next(iter(whole.vision_model.state_dict())) in base.state_dict() else "vision_model."
    base.load_state_dict({f"{prefix}{name}": tensor for name, tensor in whole.vision_model.state_dict().items()})
    experts = [CLIPVisionModel.from_pretrained(options.folder / f"expert{n}") for n in range(options.experts)]
    return base, experts, whole.visual_projection.requires_grad_(False)


def tower(model):
    return getattr(model, "vision_model", model)


def passes(model, projection):
    model.eval()
    return lambda batch: projection(model(pixel_values=batch)[1])


def base(options):
    model, _, projection = models(options)
    return passes(model, projection)


def arithmetic(model, experts):
    made = deepcopy(model)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            for expert in experts:
                parameter += INIT * (expert.get_parameter(name) - model.get_parameter(name))
    return made


def merged(options):
    model, experts, projection = models(options)
    return passes(arithmetic(model, experts), projection)


def wemoe(reduced):
    def build(options):
        model, experts, projection = models(options)
        made = arithmetic(model, experts).requires_grad_(False)
        for number, layer in enumerate(tower(made).encoder.layers):
            layer.mlp = WeightEnsemblingMoE(
                hidden_size=model.config.hidden_size, base_model=tower(model).encoder.layers[number].mlp,
                expert_models=[tower(expert).encoder.layers[number].mlp for expert in experts], init_lambda=INIT,
                batch_first=True, router_hidden_layers=2, batch_reduce=reduced,
            )  # fmt: skip
        return passes(made, projection)

    return build


def smile(options):
    random_directions()
    model, experts, projection = models(options)
    sizes = SimpleNamespace(**smile_sizes(options))
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear):
            made = SmileMoELinear(
                module, [expert.get_submodule(name) for expert in experts], gate_k=sizes.gate_k, k=sizes.k, top_k=1,
                full_matrices=False,
            )  # fmt: skip
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, made)
    return passes(model, projection)


BUILDERS = {
    "base": base,
    "merged": merged,
    "wemoe per sample": wemoe(False),
    "wemoe per batch": wemoe(True),
    "smile": smile,
}

if __name__ == "__main__":
    found = arguments(__doc__)
    serve(found, BUILDERS[found.variant])
