"""CLIP: an image tower that is fused, and a text tower that turns class names into heads."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fusionbench.errors import CheckpointError
from fusionbench.families.base import Backbone, Batch, LinearSite, MlpParts, Permutation
from fusionbench.families.hugging_face import loaded
from fusionbench.families.image_processor import ImageProcessor, image_batch, read_image_processor
from fusionbench.families.registration import family
from fusionbench.families.stacks import blocks_in, linears_in
from fusionbench.weights.headers import Source, TensorSpec

BLOCKS = "vision_model.encoder.layers"
ONLY_VISION = "pre_layrnorm.weight"
"""A tensor of the image tower that no text tower has: unprefixed, it marks a file of `CLIPVisionModel` alone."""
TOKENIZERS = ("tokenizer.json", "vocab.json")
LEGACY_END = 2
"""An `eos_token_id` that means "the largest token", in configurations written before transformers 4.31."""


@family
class Clip:
    """CLIP (arXiv:2103.00020): the image tower is fused; the text tower and both projections stay the base's."""

    name: str = "clip"
    version: int = 1
    tower: str = "vision_model."
    model_types: tuple[str, ...] = ("clip",)

    def matches(self, config: Mapping[str, Any]) -> bool:
        """Tell whether a `config.json` describes a whole CLIP."""
        return config.get("model_type") in self.model_types

    def skeleton(self, config: Mapping[str, Any]) -> nn.Module:
        """Return a `CLIPModel` in eval mode, its parameters on the meta device and its buffers real."""
        from accelerate import init_empty_weights
        from transformers import CLIPConfig, CLIPModel

        # Building draws random numbers even for tensors that are then dropped.
        with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
            module: nn.Module = CLIPModel(CLIPConfig.from_dict(dict(config)))
        return module.eval()

    def names(self, specs: Mapping[str, TensorSpec]) -> Mapping[str, str]:
        """Return the module's name of each tensor of a file.

        transformers 5 writes a `CLIPVisionModel` without the prefix that its tensors have in a `CLIPModel`; files of
        transformers 4 may hold position ids, which modules now make themselves.
        """
        prefix = self.tower if ONLY_VISION in specs else ""
        return {name: prefix + name for name in specs if not name.endswith(".position_ids")}

    def processor(self, source: Source) -> ImageProcessor:
        """Return how an image becomes the model's input, as the checkpoint's folder says."""
        return read_image_processor(source, source.config.get("vision_config", {}).get("image_size", 224))

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
        """Return the image embeddings after the projection, `(images, projection_dim)`, not normalised.

        Args:
            backbone: a `CLIPModel`, or a callable with the signature of its `get_image_features`.
            batch: with "pixel_values".
        """
        run = getattr(backbone, "get_image_features", backbone)
        embeddings: Tensor = run(pixel_values=batch["pixel_values"]).pooler_output
        return embeddings

    def tokenize(self, source: Source, texts: Sequence[str]) -> Batch:
        """Return "input_ids" and "attention_mask", `(texts, longest)`, cut at the text tower's length.

        Raises:
            CheckpointError: where the folder has no tokenizer, or one that does not mark the end of a text.
        """
        from transformers import AutoTokenizer

        folder = source.folder
        if folder is None or not any((folder / name).is_file() for name in TOKENIZERS):
            raise CheckpointError(
                f"{source.label} holds no tokenizer ({' or '.join(TOKENIZERS)}), which the class names of its tasks "
                "need. Save the base model's tokenizer into its folder."
            )
        text = source.config.get("text_config", {})
        tokens = loaded(AutoTokenizer, folder)(
            list(texts),
            padding=True,
            truncation=True,
            max_length=text.get("max_position_embeddings", 77),
            return_tensors="pt",
        )
        end = text.get("eos_token_id", LEGACY_END)
        if end != LEGACY_END and not bool((tokens["input_ids"] == end).any(dim=1).all()):
            raise CheckpointError(
                f"{source.label}: its tokenizer does not end texts with token {end}, where the text tower reads them "
                "(text_config.eos_token_id in config.json). Correct one of the two."
            )
        return {name: tokens[name] for name in ("input_ids", "attention_mask")}

    def text_features(self, module: nn.Module, tokens: Batch) -> Tensor:
        """Return the text embeddings after the projection, `(texts, projection_dim)`, not normalised."""
        embeddings: Tensor = module.get_text_features(**tokens).pooler_output  # type: ignore[operator]
        return embeddings

    def logit_scale(self, module: nn.Module) -> float:
        """Return the factor on cosine similarities, about 100 in the released models."""
        return float(module.logit_scale.detach().exp())  # type: ignore[operator]

    def linears(self, module: nn.Module) -> Iterator[LinearSite]:
        """Return the image tower's linear maps, block by block: k, v, q, out, fc1, fc2."""
        return linears_in(module, BLOCKS)

    def blocks(self, module: nn.Module) -> list[str]:
        """Return the names of the image tower's blocks, in order of depth."""
        return blocks_in(module, BLOCKS)

    def mlps(self, module: nn.Module) -> list[str]:
        """Return the names of the image tower's MLPs, in order of depth."""
        return [f"{block}.mlp" for block in self.blocks(module)]

    def mlp_parts(self, module: nn.Module) -> MlpParts:  # noqa: ARG002
        """Return the names of an MLP's linear maps; it has no gate."""
        return MlpParts(up="fc1", down="fc2")

    def width(self, config: Mapping[str, Any]) -> int:
        """Return the width of the features, `projection_dim`."""
        return int(config.get("projection_dim", 512))

    def permutations(self, config: Mapping[str, Any]) -> Sequence[Permutation]:
        """Return each block's attention heads and the hidden units of its MLP.

        The residual stream stays in its order: the projection, which is not fused, reads it.
        """
        vision = config.get("vision_config", {})
        found = []
        for number in range(vision.get("num_hidden_layers", 12)):
            block = f"{BLOCKS}.{number}"
            attention, mlp = f"{block}.self_attn", f"{block}.mlp"
            made = ((f"{attention}.{part}_proj.{kind}", 0) for part in "qkv" for kind in ("weight", "bias"))
            heads = vision.get("num_attention_heads", 12)
            out, hidden = f"{attention}.out_proj", vision.get("intermediate_size", 3072)
            found += [
                Permutation(attention, heads, out, tuple(made), ((f"{out}.weight", 1),)),
                Permutation(mlp, hidden, f"{mlp}.fc2", ((f"{mlp}.fc1.weight", 0), (f"{mlp}.fc1.bias", 0)),
                            ((f"{mlp}.fc2.weight", 1),)),
            ]  # fmt: skip
        return found
