"""T5 and Flan-T5: encoder and decoder, every task a text to be read and a text to be written; all of it is fused."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from fusionbench.families.base import Backbone, Batch, LinearSite, MlpParts, Permutation
from fusionbench.families.decoding import greedy
from fusionbench.families.permutations import Block, block_groups, outputs, stream_group
from fusionbench.families.registration import family
from fusionbench.families.stacks import blocks_in
from fusionbench.families.text_codec import TextCodec, read_text_codec
from fusionbench.weights.headers import Source, TensorSpec

EMBEDDING, HEAD = "shared.weight", "lm_head.weight"
COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
"""Names under which files hold the one embedding again."""
IGNORED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
"""A tensor of the first T5 checkpoints that no module reads."""
PAD, NO_LABEL = 0, -100
WRITTEN, MEMORY = "decoder_input_ids", "memory"
"""Keys of a batch: what the decoder is given, and where each backbone's encoder output is kept while a text is written
token by token."""


@family
class T5:
    """T5 (arXiv:1910.10683) and Flan-T5 (arXiv:2210.11416), whole; the language-model head is fused like any tensor.

    The attention mask is always passed: without it, transformers 5 attends to the padding of encoder–decoders, while
    the versions of the papers' time inferred the mask from the padding.
    """

    name: str = "t5"
    version: int = 1
    tower: str = ""
    model_types: tuple[str, ...] = ("t5",)

    def matches(self, config: Mapping[str, Any]) -> bool:
        """Tell whether a `config.json` describes a T5."""
        return config.get("model_type") in self.model_types

    def skeleton(self, config: Mapping[str, Any]) -> nn.Module:
        """Return a `T5ForConditionalGeneration` in eval mode, its parameters on the meta device."""
        from accelerate import init_empty_weights
        from transformers import T5Config, T5ForConditionalGeneration

        # Building draws random numbers even for tensors that are then dropped.
        with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
            module: nn.Module = T5ForConditionalGeneration(T5Config.from_dict(dict(config)))
        return module.eval()

    def names(self, specs: Mapping[str, TensorSpec]) -> Mapping[str, str]:
        """Return the module's name of each tensor of a file.

        The embedding has one place, whatever names a file holds it under; the head has its own where a file has one
        (T5 1.1, Flan-T5), else it is the embedding.
        """
        found = {name: name for name in specs if name not in (*COPIES, IGNORED)}
        copies = [name for name in COPIES if name in specs]
        if EMBEDDING not in specs and copies:
            found[copies[0]] = EMBEDDING
        return found

    def text_codec(self, source: Source) -> TextCodec:
        """Return how texts become the model's tokens, as the checkpoint's folder and configuration say.

        Raises:
            CheckpointError: where the folder holds no tokenizer.
        """
        return read_text_codec(source)

    def collate(self, examples: Sequence[Mapping[str, Any]], processor: TextCodec | None = None) -> Batch:
        """Return examples as one batch, padded on the right to its longest text.

        Args:
            examples: "input_ids", the tokens of the text that is read, and "label", those of the text to be written,
                where there is one.
            processor: the base's codec; None takes T5's constants.

        Returns:
            "input_ids" and "attention_mask", `(examples, tokens)` int64, and "labels", `(examples, tokens)` int64,
            −100 where they are padding.
        """
        pad = PAD if processor is None else processor.pad
        texts = [torch.as_tensor(example["input_ids"], dtype=torch.int64) for example in examples]
        batch: Batch = {
            "input_ids": pad_sequence(texts, batch_first=True, padding_value=pad),
            "attention_mask": pad_sequence([torch.ones_like(text) for text in texts], batch_first=True),
        }
        if "label" in examples[0]:
            labels = [torch.as_tensor(example["label"], dtype=torch.int64).reshape(-1) for example in examples]
            batch["labels"] = pad_sequence(labels, batch_first=True, padding_value=NO_LABEL)
        return batch

    def features(self, backbone: Backbone, batch: Batch) -> Tensor:
        """Return logits over the vocabulary, `(examples, positions, vocabulary)`.

        Args:
            backbone: a `T5ForConditionalGeneration`, or a callable with its signature.
            batch: "input_ids" and "attention_mask"; "decoder_input_ids" `(examples · answers, positions)`, the answers
                to a question next to each other, without which there is one position, that of the start token;
                "memory", a weak dictionary in which the encoder's output is kept from one call to the next, by
                backbone.
        """
        given = batch.get(WRITTEN)
        if given is None:
            given = torch.full_like(batch["input_ids"][:, :1], _start(backbone))
        memory = batch.get(MEMORY, {})
        answers = len(given) // len(batch["input_ids"])
        if answers > 1:
            return self._several(backbone, batch, given, answers)
        read = memory.get(backbone)
        source = {"input_ids": batch["input_ids"]} if read is None else {"encoder_outputs": (read,)}
        written = backbone(
            **source, attention_mask=batch["attention_mask"], decoder_input_ids=given, use_cache=False, return_dict=True
        )
        memory[backbone] = written.encoder_last_hidden_state
        logits: Tensor = written.logits
        return logits

    def _several(self, backbone: Backbone, batch: Batch, given: Tensor, answers: int) -> Tensor:
        """Read each question once, and return the logits of all answers to it."""
        memory = batch.get(MEMORY, WeakKeyDictionary())
        if backbone not in memory:
            self.features(backbone, {**batch, WRITTEN: given[::answers, :1], MEMORY: memory})
        kept: WeakKeyDictionary[Any, Tensor] = WeakKeyDictionary()
        kept[backbone] = memory[backbone].repeat_interleave(answers, dim=0)
        repeated = {key: batch[key].repeat_interleave(answers, dim=0) for key in ("input_ids", "attention_mask")}
        return self.features(backbone, {**repeated, WRITTEN: given, MEMORY: kept})

    def token_mask(self, batch: Batch) -> Tensor | None:
        """Return `(examples, tokens)` of the text that is read, true where a token is real."""
        mask: Tensor = batch["attention_mask"]
        return mask.bool()

    def decode(self, backbone: Backbone, batch: Batch, tokens: int) -> Tensor:
        """Return the most probable token at each position, `(examples, ≤ tokens)`, padded after the end of a text."""
        kept = {**batch, MEMORY: WeakKeyDictionary()}

        def following(written: Tensor) -> Tensor:
            return self.features(backbone, {**kept, WRITTEN: written})[:, -1]

        config = getattr(backbone, "config", None)
        first = torch.full_like(batch["input_ids"][:, :1], _start(backbone))
        return greedy(
            following, first, tokens, end=getattr(config, "eos_token_id", 1), pad=getattr(config, "pad_token_id", PAD)
        )

    def linears(self, module: nn.Module) -> Iterator[LinearSite]:
        """Yield the linear maps, encoder before decoder, block by block; the head only where it is not the embedding.

        Names are the module's own.
        """
        for name, site in module.named_modules():
            tied = name == "lm_head" and site.weight is module.get_parameter(EMBEDDING)
            if isinstance(site, nn.Linear) and not tied:
                yield LinearSite(name, site)

    def blocks(self, module: nn.Module) -> list[str]:
        """Return the names of the blocks, the encoder's before the decoder's."""
        return blocks_in(module, "encoder.block", "decoder.block")

    def mlps(self, module: nn.Module) -> list[str]:
        """Return the names of the feed-forward networks, one a block."""
        last = {"encoder": 1, "decoder": 2}
        return [f"{block}.layer.{last[block.partition('.')[0]]}.DenseReluDense" for block in self.blocks(module)]

    def mlp_parts(self, module: nn.Module) -> MlpParts:
        """Return the names of a feed-forward network's linear maps; T5 1.1 and Flan-T5 have a gate."""
        if module.config.is_gated_act:  # type: ignore[union-attr]
            return MlpParts(up="wi_1", down="wo", gate="wi_0")
        return MlpParts(up="wi", down="wo")

    def width(self, config: Mapping[str, Any]) -> int:
        """Return the width of the features, which is the vocabulary's size."""
        return int(config.get("vocab_size", 32128))

    def permutations(self, config: Mapping[str, Any]) -> Sequence[Permutation]:
        """Return attention heads, hidden units, and the residual stream, one of both stacks: one embedding begins it.

        The heads of self-attention go together in all blocks of a stack: the first one holds what they add by distance.
        """
        module = self.skeleton(config)
        named, count = dict(module.named_modules()), int(config.get("num_heads", 8))
        cross = Block(tuple(f"EncDecAttention.{part}" for part in "qkv"), "EncDecAttention.o", count)
        inner = (("DenseReluDense.wi",), ("DenseReluDense.wi_0", "DenseReluDense.wi_1"))
        hidden = [Block(made, "DenseReluDense.wo") for made in inner]
        found = list(block_groups(module, (cross, *hidden)))
        for stack in ("encoder", "decoder"):
            sites = [name for name in named if name.startswith(stack) and name.endswith("SelfAttention")]
            added = ((f"{sites[0]}.relative_attention_bias.weight", 1),)
            made = outputs(named, [f"{site}.{part}" for site in sites for part in "qkv"])
            read = tuple((f"{site}.o.weight", 1) for site in sites)
            found.append(Permutation(f"{stack}.heads", count, f"{sites[0]}.o", (*made, *added), read))
        stream = stream_group(
            module, "lm_head", tables=("shared",), norms=("layer_norm",), write=("Attention.o", "DenseReluDense.wo"),
            read=("Attention.q", "Attention.k", "Attention.v", ".wi", ".wi_0", ".wi_1"),
            # What transformers 5 makes of tie_word_embeddings, which it then says of every T5.
            tied=bool(module.config.scale_decoder_outputs),  # type: ignore[union-attr]
        )  # fmt: skip
        return [*found, stream]


def _start(backbone: Backbone) -> int:
    """Return the token with which a text begins: the padding's, unless the configuration says otherwise."""
    start = getattr(getattr(backbone, "config", None), "decoder_start_token_id", None)
    return PAD if start is None else int(start)
