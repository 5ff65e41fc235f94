"""A suite of random ResNets: a bare base, two experts with heads of their own, and tasks of arrays."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

TASKS = {"shapes": ("round", "square", "long"), "colours": ("red", "blue")}
SIDE = 32


def write_resnet_suite(folder: Path) -> Path:
    """Write base, experts, data and `suite.yaml`; return the suite's file."""
    from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    sizes: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = ResNetModel(ResNetConfig(**sizes))
        for number, (name, classes) in enumerate(TASKS.items()):
            labels = {"id2label": dict(enumerate(classes)), "label2id": {c: i for i, c in enumerate(classes)}}
            expert = ResNetForImageClassification(ResNetConfig(**sizes, **labels))
            expert.resnet.load_state_dict(base.state_dict())
            _change(expert.resnet, number)
            expert.save_pretrained(folder / "experts" / name)
            _write_arrays(folder / "data" / name, len(classes), number)
    base.save_pretrained(folder / "base")
    (folder / "base" / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"shortest_edge": SIDE}})
    )
    tasks = {
        name: {"kind": "image_class_arrays", "dataset": f"./data/{name}", "class_names": list(classes)}
        for name, classes in TASKS.items()
    }
    pool = {"base": "./base", "experts": {name: f"./experts/{name}" for name in TASKS}}
    document = {"name": "resnets", "pool": pool, "tasks": tasks}
    (folder / "suite.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return folder / "suite.yaml"


def _change(module: nn.Module, number: int) -> None:
    """Move weights and running statistics a little, each expert its own way."""
    for name, tensor in module.state_dict().items():
        if name.endswith("running_mean"):
            tensor.copy_(torch.randn_like(tensor) * 0.2)
        elif name.endswith("running_var"):
            tensor.copy_(torch.rand_like(tensor) + 0.5)
        elif tensor.is_floating_point():
            tensor.add_(torch.randn_like(tensor) * 0.05)
        else:
            tensor.fill_(10 + number)


def _write_arrays(folder: Path, classes: int, number: int) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(number)
    for split, count in (("train", 12), ("validation", 10), ("test", 8)):
        images = rng.integers(0, 128 * (number + 1), (count, SIDE, SIDE, 3), dtype=np.uint8)
        np.save(folder / f"{split}_images.npy", images)
        np.save(folder / f"{split}_labels.npy", np.arange(count) % classes)
