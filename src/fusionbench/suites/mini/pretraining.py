"""Contrastive pretraining of a small CLIP, both towers, on captioned images."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fusionbench.suites.images.splits import SIDE
from fusionbench.suites.images.streams import stream
from fusionbench.suites.mini.recipe import Pretraining, Towers
from fusionbench.suites.mini.words import BOS, EOS, LENGTH, PAD, make_tokenizer, vocabulary, write_image_processor

if TYPE_CHECKING:
    from torch import Tensor

    from fusionbench.training import Loop

MEAN, DEVIATION = 0.5, 0.3
"""Pixels of 0 to 1 become (pixel − mean) / deviation, in every channel."""


def pretrain(
    images: NDArray[np.uint8],
    captions: Sequence[str],
    prompts: Sequence[str],
    out: Path,
    *,
    towers: Towers,
    training: Pretraining,
    seed: int,
    loop: "Loop",
) -> None:
    """Train a CLIP from nothing and write it in Hugging Face form: model, tokenizer, image processor.

    Args:
        images: (examples, 32, 32, 3).
        captions: one for each image.
        prompts: further texts whose words the tokenizer must know.
        out: an empty folder.
        towers: widths and depths.
        training: rates, steps, batch.
        seed: of the weights and the batches.
        loop: keeps the state of an unfinished training.
    """
    import torch

    distinct, text_of = np.unique(np.asarray(captions), return_inverse=True)
    words = vocabulary([*captions, *prompts])
    tokenizer = make_tokenizer(words)
    tokens = tokenizer(distinct.tolist(), padding="max_length", return_tensors="pt")
    module = _new_model(towers, len(words), training.logit_scale, seed)
    optimizer = torch.optim.AdamW(
        module.parameters(), training.learning_rate, training.betas, weight_decay=training.weight_decay, fused=True
    )

    def batches(start: int) -> Iterator[dict[str, "Tensor"]]:
        position = start
        while True:
            chosen = stream(seed, "pretraining", position).integers(0, len(images), training.batch)
            texts, target = np.unique(text_of[chosen], return_inverse=True)
            yield {
                "pixels": torch.from_numpy(images[chosen]),
                "input_ids": tokens["input_ids"][texts],
                "attention_mask": tokens["attention_mask"][texts],
                "target": torch.from_numpy(target),
            }
            position += 1

    from fusionbench.training import step_of, tensors_of

    loop.run("pretraining", training.course(seed), step_of(_loss_of(module)), batches, tensors_of(module), optimizer)
    _write(module, tokenizer, out)


def _new_model(towers: Towers, words: int, logit_scale: float, seed: int) -> Any:
    import torch
    from transformers import CLIPConfig, CLIPModel

    vision = {
        "hidden_size": towers.width,
        "intermediate_size": towers.mlp,
        "num_hidden_layers": towers.depth,
        "num_attention_heads": towers.heads,
        "image_size": SIDE,
        "patch_size": towers.patch,
        "projection_dim": towers.projection,
        "hidden_act": "gelu",
    }
    text = {
        "hidden_size": towers.text_width,
        "intermediate_size": 2 * towers.text_width,
        "num_hidden_layers": towers.text_depth,
        "num_attention_heads": towers.heads,
        "vocab_size": words,
        "max_position_embeddings": LENGTH,
        "projection_dim": towers.projection,
        "hidden_act": "gelu",
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        # without it the text tower reads the token with the largest number instead of the last
        "eos_token_id": EOS,
    }
    config = CLIPConfig(
        projection_dim=towers.projection,
        text_config=text,
        vision_config=vision,
        logit_scale_init_value=float(np.log(logit_scale)),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CLIPModel(config).train()


def _loss_of(module: Any) -> "Callable[[dict[str, Tensor]], Tensor]":
    """Return the contrastive loss with several images to a caption (UniCL, arXiv:2204.03610, §3.2).

    Image to text: cross-entropy over the distinct captions of the batch. Text to image, at half the weight: for each
    caption the mean of −log softmax over its images.
    """
    import torch
    from torch.nn import functional as F

    def loss(batch: "dict[str, Tensor]") -> "Tensor":
        pixels = (batch["pixels"].permute(0, 3, 1, 2).float() / 255 - MEAN) / DEVIATION
        seen = module.visual_projection(module.vision_model(pixel_values=pixels).pooler_output)
        read = module.text_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).pooler_output
        said = module.text_projection(read)
        scale = module.logit_scale.exp().clamp(max=100)
        logits = scale * F.normalize(seen, dim=-1) @ F.normalize(said, dim=-1).T
        positive = F.one_hot(batch["target"], logits.shape[1]).float()
        to_image = -(positive / positive.sum(0) * F.log_softmax(logits, 0)).sum(0).mean()
        return torch.add(F.cross_entropy(logits, batch["target"]), to_image, alpha=0.5)

    return loss


def _write(module: Any, tokenizer: Any, out: Path) -> None:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    # There is one progress bar, and it is the runner's.
    logging.disable_progress_bar()
    try:
        module.save_pretrained(out)
    finally:
        if shown:
            logging.enable_progress_bar()
    tokenizer.save_pretrained(out)
    write_image_processor(out, SIDE, MEAN, DEVIATION)
