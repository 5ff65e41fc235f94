"""How an image becomes a model's input: once to bytes of the model's size, then a batch at a time to numbers."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fusionbench.errors import CheckpointError, ConfigError
from fusionbench.families.hugging_face import loaded
from fusionbench.weights.documents import read_json
from fusionbench.weights.headers import Source

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True)
class ImageProcessor:
    """What a checkpoint's folder says of its images.

    Attributes:
        size: height and width of the model's input, in pixels.
        mean: of each channel, subtracted from values in [0, 1].
        std: of each channel, by which they are then divided.
        folder: where the settings for resizing and cropping lie; None: shorter edge to `size`, then a central square.
        settings: those settings as JSON text, "" where there are none.
    """

    size: int = 224
    mean: tuple[float, ...] = OPENAI_MEAN
    std: tuple[float, ...] = OPENAI_STD
    folder: Path | None = None
    settings: str = ""

    @property
    def key(self) -> str:
        """A digest of all that decides what `prepare` returns."""
        return hashlib.sha256(f"{self.size} {self.settings}".encode()).hexdigest()

    def prepare(self, image: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return an image as `(size, size, 3)` bytes.

        An array that has this form already is returned as it is; everything else goes through the checkpoint's own
        processor (conversion to RGB, resizing, cropping).

        Raises:
            ConfigError: where that processor makes images of another size than the model takes.
        """
        shape = (self.size, self.size, 3)
        if isinstance(image, np.ndarray):
            if image.shape == shape and image.dtype == np.uint8:
                return image
            image = Image.fromarray(image)
        process = _hugging_face_processor(self.folder, self.size)
        # ViT's and ConvNeXt's settings do not ask for RGB, without which a grey image has one channel.
        settings = {"do_convert_rgb": True, "do_rescale": False, "do_normalize": False}
        output = process(image, **settings, return_tensors="np")["pixel_values"][0]
        prepared: NDArray[np.uint8] = output.transpose(1, 2, 0)
        if prepared.shape != shape:
            made = "×".join(map(str, prepared.shape[:2]))
            raise ConfigError(
                f"The image processor of {self.folder} makes images of {made} pixels, the model takes "
                f"{self.size}×{self.size}. Correct crop_size in preprocessor_config.json."
            )
        return prepared

    def normalise(self, images: NDArray[np.uint8]) -> Tensor:
        """Return (x / 255 − mean) / std.

        Args:
            images: `(images, height, width, 3)`, uint8; not changed.

        Returns:
            `(images, 3, height, width)`, float32: bit for bit what Hugging Face's processor returns.
        """
        # A copy, because torch does not take arrays that are mapped read-only.
        pixels = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)
        values = pixels.to(torch.float32, memory_format=torch.contiguous_format)
        mean, std = (torch.tensor(channel).view(1, -1, 1, 1) for channel in (self.mean, self.std))
        return values.div_(255).sub_(mean).div_(std)


def image_batch(examples: Sequence[Mapping[str, Any]], processor: ImageProcessor) -> dict[str, Any]:
    """Return examples with one label an image as a batch.

    Args:
        examples: "image", `(size, size, 3)` uint8 as prepared, and "label" where there is one.
        processor: what makes numbers of the bytes.

    Returns:
        "pixel_values", `(examples, 3, size, size)` float32, and "labels", `(examples,)` int64.
    """
    images = np.stack([example["image"] for example in examples])
    batch: dict[str, Any] = {"pixel_values": processor.normalise(images)}
    if "label" in examples[0]:
        batch["labels"] = torch.tensor([example["label"] for example in examples])
    return batch


def read_image_processor(source: Source, size: int) -> ImageProcessor:
    """Return the processor that a checkpoint's folder describes, OpenAI's constants where it describes none.

    Args:
        source: the checkpoint.
        size: height and width of its model's input, in pixels.

    Raises:
        CheckpointError: where the settings cannot be read.
        ConfigError: where they ask for another scaling of the values than to [0, 1].
    """
    found = read_settings(source.folder) if source.folder is not None else {}
    if not found:
        return ImageProcessor(size)
    factor = found.get("rescale_factor", 1 / 255) if found.get("do_rescale", True) else 1
    if abs(factor * 255 - 1) > 1e-6:
        raise ConfigError(f"{source.label}: its image processor scales values by {factor}; only 1/255 is supported.")
    usual = (OPENAI_MEAN, OPENAI_STD) if found.get("do_normalize", True) else ((0.0,) * 3, (1.0,) * 3)
    mean, std = (
        tuple(found.get(key, plain)) if found.get("do_normalize", True) else plain
        for key, plain in zip(("image_mean", "image_std"), usual, strict=True)
    )
    return ImageProcessor(size, mean, std, source.folder, json.dumps(found, sort_keys=True))


def read_settings(folder: Path) -> Mapping[str, Any]:
    """Return the image processor's settings of either layout that Hugging Face writes; nothing where there are none."""
    for name, key in (("preprocessor_config.json", None), ("processor_config.json", "image_processor")):
        path = folder / name
        if not path.is_file():
            continue
        try:
            content = read_json(path)
        except ValueError as error:
            raise CheckpointError(f"{path} is not JSON: {error}.") from None
        if not isinstance(content, dict):
            raise CheckpointError(f"{path} should hold a JSON object, it holds a {type(content).__name__}.")
        found = content if key is None else content.get(key)
        if isinstance(found, dict):
            return found
    return {}


@cache
def _hugging_face_processor(folder: Path | None, size: int) -> Any:
    """Return the processor that runs on PIL alone; built once, when the first image needs it."""
    if folder is not None:
        from transformers import AutoImageProcessor

        return loaded(AutoImageProcessor, folder, backend="pil")
    from transformers import CLIPImageProcessorPil

    return CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
