"""OpenCLIP's image encoders have no `config.json`: what it would say, told from their tensors. No torch here."""

import math
from collections.abc import Mapping
from typing import Any

from fusionbench.weights.headers import TensorSpec

MODEL_TYPE = "open_clip"
HEAD_WIDTH = 64
"""Width of an attention head in all of OpenAI's models, where nothing says how many there are."""


def describe(specs: Mapping[str, TensorSpec], heads: int | None = None) -> dict[str, Any] | None:
    """Return the configuration of an OpenCLIP with a ViT, such as the task_vectors release has; None for other tensors.

    Args:
        specs: under OpenCLIP's names, with or without a prefix such as `model.`.
        heads: of each attention of the image tower; None: one for each 64 entries of its width.
    """
    patches = [name for name in specs if name.endswith("visual.conv1.weight")]
    if len(patches) != 1:
        return None
    prefix = patches[0].removesuffix("visual.conv1.weight")
    shapes = {name.removeprefix(prefix): spec.shape for name, spec in specs.items() if name.startswith(prefix)}
    blocks = {name.split(".")[3] for name in shapes if name.startswith("visual.transformer.resblocks.")}
    needed = ("visual.proj", "visual.positional_embedding", "visual.transformer.resblocks.0.mlp.c_fc.weight")
    if not blocks or any(name not in shapes or len(shapes[name]) != 2 for name in needed):
        return None
    width, patch = shapes["visual.conv1.weight"][0], shapes["visual.conv1.weight"][-1]
    side = math.isqrt(shapes["visual.positional_embedding"][0] - 1)
    return {
        "model_type": MODEL_TYPE,
        "prefix": prefix,
        "image_size": side * patch,
        "patch_size": patch,
        "width": width,
        "layers": len(blocks),
        "heads": heads or max(1, width // HEAD_WIDTH),
        "mlp_width": shapes[needed[2]][0],
        "projection_dim": shapes["visual.proj"][1],
        "others": {name: list(shape) for name, shape in shapes.items() if not name.startswith("visual.")},
    }
