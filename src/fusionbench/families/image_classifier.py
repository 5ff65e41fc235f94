"""Image classifiers of Transformers: ViT, DINOv2, ResNet and ConvNeXt; what is fused is all but the head."""

import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fusionbench.errors import MissingPart
from fusionbench.families.base import Backbone, Batch, LinearSite, MlpParts, Permutation
from fusionbench.families.image_processor import ImageProcessor, image_batch, read_image_processor, read_settings
from fusionbench.families.permutations import Block, block_groups, residual_channels
from fusionbench.families.registration import family
from fusionbench.registry import methods_that_need
from fusionbench.weights.headers import Source, TensorSpec

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
ATTENTION = (
    (r"\.attention\.attention\.(q|k|v)(?:uery|ey|alue)\.", r".attention.\1_proj."),
    (r"\.attention\.output\.dense\.", r".attention.o_proj."),
)
"""Files keep the names of transformers 4, modules of transformers 5 have others."""


class Kind(NamedTuple):
    """One architecture.

    Attributes:
        module: class of the bare model in transformers.
        classifier: class of the whole model, which loads a fine-tuned folder.
        prefix: of the bare model's tensors in a classifier's file.
        mark: part of tensor names that no other of the architectures has.
        renames: from names in files to names in modules, as regular expressions.
        block: pattern of a residual block's name.
        mlp: names of a block's MLP and of its two linear maps; None where there is none.
    """

    module: str
    classifier: str
    prefix: str
    mark: str
    renames: tuple[tuple[str, str], ...]
    block: str
    mlp: tuple[str, str, str] | None = None


KINDS: Mapping[str, Kind] = {
    "vit": Kind(
        "ViTModel",
        "ViTForImageClassification",
        "vit.",
        ".layernorm_before.",
        (
            *ATTENTION,
            (r"\.intermediate\.dense\.", r".mlp.fc1."),
            (r"(\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
            (r"^encoder\.layer\.", "layers."),
        ),
        r"layers\.\d+",
        ("mlp", "fc1", "fc2"),
    ),
    "dinov2": Kind(
        "Dinov2Model",
        "Dinov2ForImageClassification",
        "dinov2.",
        ".layer_scale1.",
        ATTENTION,
        r"encoder\.layer\.\d+",
        ("mlp", "fc1", "fc2"),
    ),
    "resnet": Kind(
        "ResNetModel",
        "ResNetForImageClassification",
        "resnet.",
        ".normalization.",
        (),
        r"encoder\.stages\.\d+\.layers\.\d+",
    ),
    "convnext": Kind(
        "ConvNextModel",
        "ConvNextForImageClassification",
        "convnext.",
        ".dwconv.",
        (),
        r"encoder\.stages\.\d+\.layers\.\d+",
        ("", "pwconv1", "pwconv2"),
    ),
}


@family
class ImageClassifier:
    """ViT, DINOv2, ResNet and ConvNeXt of Transformers; each task has a linear head of its own.

    Features are what each architecture's own classification model computes: ViT's class token; DINOv2's class token
    beside the mean of the patch tokens; the pooled map of ResNet and ConvNeXt.
    """

    name: str = "image_classifier"
    version: int = 1
    tower: str = ""
    head: str = "classifier."
    unused: tuple[str, ...] = ("vit.pooler.dense.",)
    bodies: Mapping[str, str] = MappingProxyType({model_type: kind.prefix for model_type, kind in KINDS.items()})
    model_types: tuple[str, ...] = tuple(KINDS)

    def matches(self, config: Mapping[str, Any]) -> bool:
        """Tell whether a `config.json` describes one of the four architectures, with or without a head."""
        return config.get("model_type") in self.model_types

    def skeleton(self, config: Mapping[str, Any]) -> nn.Module:
        """Return the bare model in eval mode, its parameters on the meta device and its buffers real."""
        import transformers
        from accelerate import init_empty_weights

        kind = _kind(config)
        found = transformers.AutoConfig.for_model(**dict(config))
        options = {"add_pooling_layer": False} if kind.module == "ViTModel" else {}
        # Building draws random numbers even for tensors that are then dropped.
        with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
            module: nn.Module = getattr(transformers, kind.module)(found, **options)
        return module.eval()

    def names(self, specs: Mapping[str, TensorSpec]) -> Mapping[str, str]:
        """Return the module's name of each tensor of a file, of a bare model or of a classifier.

        The head has no place in the bare model, nor has the pooling layer that ViT's files may hold and its classifier
        does not use.
        """
        kind = next((kind for kind in KINDS.values() if any(kind.mark in name for name in specs)), None)
        if kind is None:
            return {name: name for name in specs}
        prefix = kind.prefix if any(name.startswith(kind.prefix) for name in specs) else ""
        outside = (*(unused if prefix else unused.removeprefix(kind.prefix) for unused in self.unused), self.head)
        inside = [name for name in specs if name.startswith(prefix) and not name.startswith(outside)]
        return {name: _renamed(name.removeprefix(prefix), kind.renames) for name in inside}

    def processor(self, source: Source) -> ImageProcessor:
        """Return how an image becomes the model's input, as the checkpoint's folder says; else ImageNet's constants."""
        settings = read_settings(source.folder) if source.folder is not None else {}
        crop = settings.get("crop_size") if settings.get("do_center_crop", "crop_size" in settings) else None
        size = _side(crop) or _side(settings.get("size")) or int(source.config.get("image_size", 224))
        if not settings:
            return ImageProcessor(size, IMAGENET_MEAN, IMAGENET_STD)
        return read_image_processor(source, size)

    def collate(self, examples: Sequence[Mapping[str, Any]], processor: ImageProcessor | None = None) -> Batch:
        """Return examples as one batch.

        Args:
            examples: "image", `(size, size, 3)` uint8 as prepared, and "label" where there is one.
            processor: of the base; None takes ImageNet's constants.

        Returns:
            "pixel_values", `(examples, 3, size, size)` float32, and "labels", `(examples,)` int64.
        """
        size = len(examples[0]["image"])
        return image_batch(examples, processor or ImageProcessor(size, IMAGENET_MEAN, IMAGENET_STD))

    def features(self, backbone: Backbone, batch: Batch) -> Tensor:
        """Return what the architecture's head reads, `(images, width)`.

        Args:
            backbone: the bare model, or a callable with its signature and its `config`.
            batch: with "pixel_values".
        """
        output = backbone(pixel_values=batch["pixel_values"])
        kind = backbone.config.model_type  # type: ignore[attr-defined]
        if kind in ("resnet", "convnext"):
            pooled: Tensor = output.pooler_output.flatten(1)
            return pooled
        tokens: Tensor = output.last_hidden_state
        return tokens[:, 0] if kind == "vit" else torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1)

    def head_module(self, config: Mapping[str, Any], outputs: int) -> nn.Module:
        """Return a new linear head as the architecture initialises it; ResNet's has a flattening before it."""
        kind = _kind(config)
        linear = nn.Linear(self.width(config), outputs)
        if kind.module == "ResNetModel":
            return nn.Sequential(nn.Flatten(), linear)
        nn.init.trunc_normal_(linear.weight, std=float(config.get("initializer_range", 0.02)))
        nn.init.zeros_(linear.bias)
        return linear

    def head_config(self, config: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
        """Return what the `config.json` of a fine-tuned classifier says besides: its class and its labels."""
        return {
            "architectures": [_kind(config).classifier],
            "id2label": {str(index): label for index, label in enumerate(labels)},
            "label2id": {label: index for index, label in enumerate(labels)},
            "problem_type": "single_label_classification",
        }

    def linears(self, module: nn.Module) -> Iterator[LinearSite]:
        """Yield the linear maps of the residual blocks; a ResNet, which is made of convolutions, has none."""
        blocks = tuple(f"{block}." for block in self.blocks(module))
        for name, site in module.named_modules():
            if isinstance(site, nn.Linear) and name.startswith(blocks):
                yield LinearSite(name, site)

    def blocks(self, module: nn.Module) -> list[str]:
        """Return the names of the residual blocks, in order of depth."""
        pattern = re.compile(_kind(_config(module)).block)
        return [name for name, _ in module.named_modules() if pattern.fullmatch(name)]

    def mlps(self, module: nn.Module) -> list[str]:
        """Return the names of the blocks' MLPs, in order of depth; ConvNeXt's lie in the block itself.

        Raises:
            MissingPart: for a ResNet, which has none.
        """
        inner = _mlp(module)[0]
        return [f"{block}.{inner}".rstrip(".") for block in self.blocks(module)]

    def mlp_parts(self, module: nn.Module) -> MlpParts:
        """Return the names of an MLP's linear maps; it has no gate.

        Raises:
            MissingPart: for a ResNet, which has none.
        """
        _, up, down = _mlp(module)
        return MlpParts(up=up, down=down)

    def width(self, config: Mapping[str, Any]) -> int:
        """Return the width of the features: twice the hidden size for DINOv2."""
        if config["model_type"] in ("resnet", "convnext"):
            return int(config["hidden_sizes"][-1])
        return int(config["hidden_size"]) * (2 if config["model_type"] == "dinov2" else 1)

    def permutations(self, config: Mapping[str, Any]) -> Sequence[Permutation]:
        """Return a ResNet's channels; of the others hidden units, and attention heads where there are any.

        What the heads of tasks read stays in its order, and so do streams that end there.
        """
        module = self.skeleton(config)
        if config["model_type"] == "resnet":
            return residual_channels(module)
        parts = tuple(f"attention.{part}_proj" for part in "qkv")
        heads = Block(parts, "attention.o_proj", int(config.get("num_attention_heads", 12)))
        return list(block_groups(module, (heads, Block(("mlp.fc1",), "mlp.fc2"), Block(("pwconv1",), "pwconv2"))))


def _kind(config: Mapping[str, Any]) -> Kind:
    return KINDS[config["model_type"]]


def _config(module: nn.Module) -> Mapping[str, Any]:
    found: Mapping[str, Any] = module.config.to_dict()  # type: ignore[operator, union-attr]
    return found


def _mlp(module: nn.Module) -> tuple[str, str, str]:
    parts = _kind(_config(module)).mlp
    if parts is None:
        raise MissingPart(
            ImageClassifier.name, "list of MLPs (a ResNet has only convolutions)", methods_that_need("mlps")
        )
    return parts


def _renamed(name: str, renames: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def _side(size: Any) -> int | None:
    """Return the side of the square that a processor's setting asks for: `{height}`, `{shortest_edge}` or a number."""
    if isinstance(size, Mapping):
        size = size.get("height", size.get("shortest_edge"))
    return int(size) if size is not None else None
