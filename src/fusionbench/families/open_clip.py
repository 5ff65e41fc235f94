"""OpenCLIP's image encoders, as the task_vectors release has them: all of a file is fused, heads are the tasks'."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fusionbench.families.base import Backbone, Batch, LinearSite, MlpParts
from fusionbench.families.image_processor import ImageProcessor, image_batch, read_image_processor
from fusionbench.families.registration import family
from fusionbench.families.stacks import blocks_in, linears_in
from fusionbench.weights.headers import Source, TensorSpec

if TYPE_CHECKING:
    from fusionbench.families.open_clip_encoder import OpenClipConfig

TOWER = "visual."
BLOCKS = "visual.transformer.resblocks"
USUAL_PREFIX = "model."
"""Before the names in the release's files, where the encoder is a part of another module."""
PARTS = (("attn.in_proj_weight", "attn.in_proj.weight"), ("attn.in_proj_bias", "attn.in_proj.bias"))


@family
class OpenClip:
    """OpenCLIP's image encoder (files of the task_vectors release), fused whole, its unused text tensors included.

    What arXiv:2312.06173 and the reproduction of TIES merge: the vector of the whole state dict, of which 26 million
    of ViT-B-32's 113 million entries belong to no image (its token embedding, mostly), and count in a quantile.
    """

    name: str = "open_clip"
    version: int = 1
    tower: str = ""
    model_types: tuple[str, ...] = ("open_clip",)

    def matches(self, config: Mapping[str, Any]) -> bool:
        """Tell whether a `config.json` describes such an encoder."""
        return config.get("model_type") in self.model_types

    def skeleton(self, config: Mapping[str, Any]) -> nn.Module:
        """Return the encoder in eval mode, its parameters on the meta device."""
        from accelerate import init_empty_weights

        from fusionbench.families.open_clip_encoder import OpenClipEncoder

        # Building draws random numbers even for tensors that are then dropped.
        with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
            module: nn.Module = OpenClipEncoder(_config(config))
        return module.eval()

    def names(self, specs: Mapping[str, TensorSpec]) -> Mapping[str, str]:
        """Return the encoder's name of each tensor of a file, whatever stands before all of the file's names."""
        from fusionbench.families.open_clip_encoder import own_name

        marked = next((name.partition(TOWER)[0] for name in specs if TOWER in name), None)
        usual = USUAL_PREFIX if all(name.startswith(USUAL_PREFIX) for name in specs) else ""
        prefix = usual if marked is None else marked
        found = {}
        for name in specs:
            own = name.removeprefix(prefix)
            for file, module in PARTS:
                own = own.removesuffix(file) + module if own.endswith(file) else own
            found[name] = own if own.startswith((TOWER, "others.")) else f"others.{own_name(own)}"
        return found

    def processor(self, source: Source) -> ImageProcessor:
        """Return how an image becomes the model's input: OpenAI's constants, where the folder says nothing else."""
        return read_image_processor(source, int(source.config.get("image_size", 224)))

    def collate(self, examples: Sequence[Mapping[str, Any]], processor: ImageProcessor | None = None) -> Batch:
        """Return examples as one batch.

        Args:
            examples: "image", `(size, size, 3)` uint8 as prepared, and "label" where there is one.
            processor: of the base; None takes OpenAI's constants.

        Returns:
            "pixel_values", `(examples, 3, size, size)` float32, and "labels", `(examples,)` int64.
        """
        return image_batch(examples, processor or ImageProcessor())

    def features(self, backbone: Backbone, batch: Batch) -> Tensor:
        """Return the image embeddings after the projection, `(images, projection_dim)`, not normalised."""
        embeddings: Tensor = backbone(pixel_values=batch["pixel_values"])
        return embeddings

    def linears(self, module: nn.Module) -> Iterator[LinearSite]:
        """Return the linear maps, block by block: in_proj (queries, keys and values), out_proj, c_fc, c_proj."""
        return linears_in(module, BLOCKS)

    def blocks(self, module: nn.Module) -> list[str]:
        """Return the names of the blocks, in order of depth."""
        return blocks_in(module, BLOCKS)

    def mlps(self, module: nn.Module) -> list[str]:
        """Return the names of the blocks' MLPs, in order of depth."""
        return [f"{block}.mlp" for block in self.blocks(module)]

    def mlp_parts(self, module: nn.Module) -> MlpParts:  # noqa: ARG002
        """Return the names of an MLP's linear maps; it has no gate."""
        return MlpParts(up="c_fc", down="c_proj")

    def width(self, config: Mapping[str, Any]) -> int:
        """Return the width of the features, `projection_dim`."""
        return int(_config(config).projection_dim)


def _config(config: Mapping[str, Any]) -> "OpenClipConfig":
    from fusionbench.families.open_clip_encoder import OpenClipConfig

    found: OpenClipConfig = OpenClipConfig.from_dict(dict(config))
    return found
