"""A ResNet of bottleneck blocks with dilation in place of strides, and DeepLab's head over its maps.

Tensors have torchvision's names, so that released ImageNet weights fit as they are.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import PreTrainedConfig, PreTrainedModel

EXPANSION = 4
"""Channels that leave a bottleneck block, over those inside it."""


class SceneConfig(PreTrainedConfig):  # type: ignore[misc]
    """Widths, depths and dilation of the encoder, and the form of its heads; the defaults are those of ResNet-50.

    Attributes:
        stem_width: channels of the first convolution.
        widths: channels inside the blocks of each stage; four times as many leave it.
        depths: blocks of each stage.
        output_stride: pixels of the input to one of the features' maps; 8 in the NYUv2 experiments, 32 is a plain
            ResNet.
        head_width: channels inside the heads.
        head_rates: dilations of the heads' three 3×3 convolutions.
        head_dropout: share of the heads' channels that training drops.
    """

    model_type = "dilated_resnet"

    def __init__(
        self,
        *,
        stem_width: int = 64,
        widths: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (3, 4, 6, 3),
        output_stride: int = 8,
        head_width: int = 256,
        head_rates: Sequence[int] = (12, 24, 36),
        head_dropout: float = 0.5,
        **kwargs: Any,
    ) -> None:
        """Keep the values; what Hugging Face adds to a configuration goes to its own class."""
        self.stem_width, self.output_stride = stem_width, output_stride
        self.widths, self.depths = list(widths), list(depths)
        self.head_width, self.head_rates, self.head_dropout = head_width, list(head_rates), head_dropout
        super().__init__(**kwargs)


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions around a shortcut (arXiv:1512.03385, fig. 5); the stride is that of the 3×3."""

    def __init__(self, inputs: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        outputs = EXPANSION * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            if stride != 1 or inputs != outputs
            else None
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Map `(images, inputs, h, w)` to `(images, 4·width, h / stride, w / stride)`."""
        inner = self.bn1(self.conv1(maps)).relu()
        inner = self.bn2(self.conv2(inner)).relu()
        shortcut = maps if self.downsample is None else self.downsample(maps)
        added: Tensor = self.bn3(self.conv3(inner)) + shortcut
        return added.relu()


class SceneEncoder(PreTrainedModel):  # type: ignore[misc]
    """The shared encoder: ResNet (arXiv:1512.03385) whose last stages dilate instead of striding (arXiv:1706.05587)."""

    config_class = SceneConfig
    main_input_name = "pixel_values"
    base_model_prefix = ""

    def __init__(self, config: SceneConfig) -> None:
        super().__init__(config)
        self.conv1 = nn.Conv2d(3, config.stem_width, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(config.stem_width)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        inputs, stride, dilation, reached = config.stem_width, 1, 1, 4
        for number, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True), start=1):
            before = dilation
            if number > 1:
                stride = 2 if reached < config.output_stride else 1
                reached, dilation = reached * stride, dilation * (2 // stride)
            # A stage that should stride and does not keeps the dilation before it in its first 3×3 convolution.
            first = Bottleneck(inputs, width, stride, before)
            inputs = EXPANSION * width
            rest = (Bottleneck(inputs, width, 1, dilation) for _ in range(depth - 1))
            self.add_module(f"layer{number}", nn.Sequential(first, *rest))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map `(images, 3, h, w)` to maps `(images, 4·widths[-1], h / output_stride, w / output_stride)`."""
        maps: Tensor = self.maxpool(self.bn1(self.conv1(pixel_values)).relu())
        for number in range(1, len(self.config.widths) + 1):
            maps = self.get_submodule(f"layer{number}")(maps)
        return maps


class Pyramid(nn.Module):
    """Atrous spatial pyramid pooling (arXiv:1706.05587, §3.3): five views of the maps, joined by a 1×1 convolution."""

    def __init__(self, inputs: int, width: int, rates: Sequence[int], dropout: float) -> None:
        super().__init__()
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), *_unit(inputs, width))
        dilated = [nn.Sequential(*_unit(inputs, width, 3, rate)) for rate in rates]
        self.convs = nn.ModuleList([nn.Sequential(*_unit(inputs, width)), *dilated, pooled])
        self.project = nn.Sequential(*_unit(len(self.convs) * width, width), nn.Dropout(dropout))

    def forward(self, maps: Tensor) -> Tensor:
        """Map `(images, inputs, h, w)` to `(images, width, h, w)`."""
        views = [view(maps) for view in self.convs]
        views[-1] = interpolate(views[-1], size=maps.shape[-2:], mode="bilinear", align_corners=False)
        joined: Tensor = self.project(torch.cat(views, dim=1))
        return joined


class SceneHead(nn.Sequential):
    """DeepLab's head (arXiv:1706.05587): the pyramid, a 3×3 convolution, and a 1×1 to the task's channels."""

    def __init__(self, inputs: int, outputs: int, config: SceneConfig) -> None:
        pyramid = Pyramid(inputs, config.head_width, config.head_rates, config.head_dropout)
        super().__init__(
            pyramid, *_unit(config.head_width, config.head_width, 3), nn.Conv2d(config.head_width, outputs, 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map features `(images, h, w, channels)` to maps `(images, outputs, h, w)`."""
        maps = features.permute(0, 3, 1, 2)
        for layer in self:
            maps = layer(maps)
        return maps


def _unit(inputs: int, outputs: int, kernel: int = 1, dilation: int = 1) -> tuple[nn.Module, ...]:
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU()
