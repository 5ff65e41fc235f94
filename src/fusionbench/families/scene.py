"""Scenes: one dilated ResNet that is fused, and a DeepLab head for each dense task (segmentation, depth, normals)."""

import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fusionbench.errors import MissingPart
from fusionbench.families.base import Backbone, Batch, LinearSite, MlpParts
from fusionbench.families.image_processor import ImageProcessor, read_image_processor, read_settings
from fusionbench.families.registration import family
from fusionbench.registry import methods_that_need
from fusionbench.weights.headers import Source, TensorSpec

if TYPE_CHECKING:
    from fusionbench.families.scene_encoder import SceneConfig

BLOCK = re.compile(r"layer\d+\.\d+")
CLASSIFIER = "fc."
"""ImageNet's classifier in released weights: no dense task has a use for it."""
NO_CHANGE = ImageProcessor(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


@family
class Scene:
    """A ResNet with dilated convolutions (ResNet-50 by default); each dense task has a DeepLab head of its own.

    What the NYUv2 experiments of FusionBench (arXiv:2406.03280, §4.1) fuse: the encoder with its BatchNorm layers;
    heads stay with their experts. Released ImageNet weights of a ResNet-50 (torchvision's names) load beside a
    `config.json` of `{"model_type": "dilated_resnet"}`.
    """

    name: str = "scene"
    version: int = 1
    tower: str = ""
    head: str = "head."
    unused: tuple[str, ...] = (CLASSIFIER,)
    bodies: Mapping[str, str] = MappingProxyType({"dilated_resnet": ""})
    model_types: tuple[str, ...] = ("dilated_resnet",)

    def matches(self, config: Mapping[str, Any]) -> bool:
        """Tell whether a `config.json` describes such an encoder."""
        return config.get("model_type") in self.model_types

    def skeleton(self, config: Mapping[str, Any]) -> nn.Module:
        """Return the encoder in eval mode, its parameters on the meta device and its buffers real."""
        from accelerate import init_empty_weights

        from fusionbench.families.scene_encoder import SceneEncoder

        # Building draws random numbers even for tensors that are then dropped.
        with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
            module: nn.Module = SceneEncoder(_config(config))
        return module.eval()

    def names(self, specs: Mapping[str, TensorSpec]) -> Mapping[str, str]:
        """Return the encoder's tensors, whose names are the same in files; a task's head and `fc` are left out."""
        return {name: name for name in specs if not name.startswith((self.head, *self.unused))}

    def processor(self, source: Source) -> ImageProcessor:
        """Return mean and deviation of the pixels, as the folder says; without settings they stay in [0, 1].

        Images are never resized: the encoder takes any size, and targets belong to pixels.
        """
        if source.folder is None or not read_settings(source.folder):
            return NO_CHANGE
        return read_image_processor(source, NO_CHANGE.size)

    def collate(self, examples: Sequence[Mapping[str, Any]], processor: ImageProcessor | None = None) -> Batch:
        """Return examples of one size as one batch.

        Args:
            examples: "image", `(h, w, 3)`: uint8, or floats in [0, 1]; and "label", `(h, w)` or `(h, w, 3)`, where
                there is one.
            processor: of the base; None leaves pixels in [0, 1].

        Returns:
            "pixel_values", `(examples, 3, h, w)` float32, and "labels", the labels as they are.
        """
        images = np.stack([example["image"] for example in examples])
        batch: Batch = {"pixel_values": normalised(images, processor or NO_CHANGE)}
        if "label" in examples[0]:
            batch["labels"] = torch.from_numpy(np.stack([example["label"] for example in examples]))
        return batch

    def features(self, backbone: Backbone, batch: Batch) -> Tensor:
        """Return the encoder's maps with the channels last, `(images, h / stride, w / stride, width)`."""
        maps: Tensor = backbone(pixel_values=batch["pixel_values"])
        return maps.permute(0, 2, 3, 1)

    def head_module(self, config: Mapping[str, Any], outputs: int) -> nn.Module:
        """Return a new DeepLab head: features to `(images, outputs, h / stride, w / stride)`."""
        from fusionbench.families.scene_encoder import SceneHead

        return SceneHead(self.width(config), outputs, _config(config))

    def head_config(self, config: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:  # noqa: ARG002
        """Return what the `config.json` of an expert says besides: the names of its head's channels."""
        return {"id2label": {str(i): label for i, label in enumerate(labels)}, "num_labels": len(labels)}

    def linears(self, module: nn.Module) -> Iterator[LinearSite]:  # noqa: ARG002
        """Yield nothing: the encoder is made of convolutions."""
        return iter(())

    def blocks(self, module: nn.Module) -> list[str]:
        """Return the names of the bottleneck blocks, in order of depth."""
        return [name for name, _ in module.named_modules() if BLOCK.fullmatch(name)]

    def mlps(self, module: nn.Module) -> list[str]:  # noqa: ARG002
        """Refuse.

        Raises:
            MissingPart: always; the encoder has only convolutions.
        """
        raise _no_mlp()

    def mlp_parts(self, module: nn.Module) -> MlpParts:  # noqa: ARG002
        """Refuse.

        Raises:
            MissingPart: always; the encoder has only convolutions.
        """
        raise _no_mlp()

    def width(self, config: Mapping[str, Any]) -> int:
        """Return the channels of the features."""
        return 4 * int(_config(config).widths[-1])


def normalised(images: NDArray[Any], processor: ImageProcessor) -> Tensor:
    """Return (x − mean) / std of images `(images, h, w, 3)` as `(images, 3, h, w)` float32.

    Args:
        images: uint8, or floats in [0, 1]; not changed.
        processor: with mean and deviation.
    """
    if images.dtype == np.uint8:
        return processor.normalise(images)
    values = torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2).contiguous()
    mean, std = (torch.tensor(channel).view(1, -1, 1, 1) for channel in (processor.mean, processor.std))
    return values.sub_(mean).div_(std)


def _config(config: Mapping[str, Any]) -> "SceneConfig":
    from fusionbench.families.scene_encoder import SceneConfig

    found: SceneConfig = SceneConfig.from_dict(dict(config))
    return found


def _no_mlp() -> MissingPart:
    return MissingPart(Scene.name, "list of MLPs (it has only convolutions)", methods_that_need("mlps"))
