"""Decoder-only language models: Llama, Mistral, Mixtral, Qwen, Gemma; every task is a text that is gone on with."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from fusionbench.errors import MissingPart
from fusionbench.families.base import Backbone, Batch, LinearSite, MlpParts, Permutation
from fusionbench.families.decoding import greedy
from fusionbench.families.permutations import Block, block_groups, stream_group
from fusionbench.families.registration import family
from fusionbench.families.separate_experts import separate
from fusionbench.families.stacks import blocks_in
from fusionbench.families.text_codec import TextCodec, read_continuing_codec
from fusionbench.weights.headers import Source, TensorSpec

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
FREQUENCIES = "rotary_emb.inv_freq"
"""End of the names of buffers that old checkpoints hold, and that follow from the configuration."""
SPARSE = "mixtral"
IN_FILES, IN_MODULE = ".block_sparse_moe.", ".mlp."
"""What a Mixtral's sparse block is called."""
NO_LABEL = -100
WRITTEN, LABELS, CHOICES, MEMORY = "decoder_input_ids", "labels", "choices", "memory"
REAL = "real"


@family
class CausalLm:
    """A decoder-only language model, whole; the language-model head is fused like any tensor.

    It is asked as an encoder–decoder is: a batch has the questions, padded on the left, and under "decoder_input_ids"
    what was written after them, padded on the right, whose first column stands for the start and is not read. Positions
    are counted over real tokens, so that padding changes nothing.
    """

    name: str = "causal_lm"
    version: int = 1
    tower: str = ""
    model_types: tuple[str, ...] = ("llama", "mistral", SPARSE, "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")

    def matches(self, config: Mapping[str, Any]) -> bool:
        """Tell whether a `config.json` describes one of these architectures."""
        return config.get("model_type") in self.model_types

    def skeleton(self, config: Mapping[str, Any]) -> nn.Module:
        """Return the architecture's `…ForCausalLM` in eval mode, its parameters on the meta device."""
        from accelerate import init_empty_weights
        from transformers import AutoConfig, AutoModelForCausalLM

        settings = AutoConfig.for_model(**dict(config))
        # Building draws random numbers even for tensors that are then dropped.
        with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
            module: nn.Module = AutoModelForCausalLM.from_config(settings, trust_remote_code=False)
        if settings.model_type == SPARSE:
            separate(module, settings)
        return module.eval()

    def names(self, specs: Mapping[str, TensorSpec]) -> Mapping[str, str]:
        """Return the module's name of each tensor of a file; the head has its own where a file has one."""
        return {name: name.replace(IN_FILES, IN_MODULE) for name in specs if not name.endswith(FREQUENCIES)}

    def text_codec(self, source: Source) -> TextCodec:
        """Return how texts become the model's tokens, as the tokenizer beside the checkpoint says.

        Raises:
            CheckpointError: where the folder holds no tokenizer, or one without a token that ends a text.
        """
        return read_continuing_codec(source)

    def collate(self, examples: Sequence[Mapping[str, Any]], processor: TextCodec | None = None) -> Batch:
        """Return examples as one batch: questions are padded on the left, answers on the right.

        Args:
            examples: "input_ids", the tokens of the text that is read, at least one, and "label", those of the text
                to be written, where there is one.
            processor: the base's codec; None pads with token 0.

        Returns:
            "input_ids" and "attention_mask", `(examples, tokens)` int64, and "labels", `(examples, tokens)` int64,
            −100 where they are padding.
        """
        pad = 0 if processor is None else processor.pad
        texts = [torch.as_tensor(example["input_ids"], dtype=torch.int64) for example in examples]
        real = [torch.ones_like(text) for text in texts]
        batch: Batch = {
            "input_ids": pad_sequence(texts, batch_first=True, padding_value=pad, padding_side="left"),
            "attention_mask": pad_sequence(real, batch_first=True, padding_side="left"),
        }
        if "label" in examples[0]:
            labels = [torch.as_tensor(example["label"], dtype=torch.int64).reshape(-1) for example in examples]
            batch[LABELS] = pad_sequence(labels, batch_first=True, padding_value=NO_LABEL)
        return batch

    def features(self, backbone: Backbone, batch: Batch) -> Tensor:
        """Return logits over the vocabulary, `(examples, positions, vocabulary)`.

        Args:
            backbone: a `…ForCausalLM`, or a callable with its signature.
            batch: "input_ids" and "attention_mask"; "decoder_input_ids" `(examples · answers, positions)`, the answers
                to a question next to each other, without which there is one position, that after the question;
                "memory", a weak dictionary in which keys and values are kept from one call to the next, by backbone,
                while one answer to each question is gone on with: then new positions alone are run, the last returned.
        """
        asked, mask = batch["input_ids"], batch["attention_mask"]
        given = batch.get(WRITTEN, asked[:, :1])
        answers = len(given) // len(asked)
        tokens = torch.cat([asked.repeat_interleave(answers, dim=0), given[:, 1:]], dim=1)
        real = torch.cat([mask.repeat_interleave(answers, dim=0), torch.ones_like(given[:, 1:])], dim=1)
        positions = (real.cumsum(dim=-1) - 1).clamp(min=0)
        memory = batch.get(MEMORY)
        if memory is not None and answers == 1:
            return _continued(backbone, tokens, real, positions, memory)
        logits: Tensor = backbone(
            input_ids=tokens,
            attention_mask=real,
            position_ids=positions,
            use_cache=False,
            logits_to_keep=given.shape[1],
        ).logits
        return logits

    def token_mask(self, batch: Batch) -> Tensor | None:
        """Return `(rows, tokens)` of all that `features` runs, question and answer, true where a token is real.

        Of "decoder_input_ids" all tokens count, or those that "real" marks; of "labels", and of "choices", which stand
        behind each of their questions, those from which a token is predicted.
        """
        mask: Tensor = batch["attention_mask"].bool()
        if CHOICES in batch:
            said = batch[CHOICES].flatten(0, 2)
            answered = mask.flatten(0, 1).repeat_interleave(batch[CHOICES].shape[2], dim=0)
            return torch.cat([answered, said[:, 1:] != NO_LABEL], dim=1)
        if REAL in batch:
            return torch.cat([mask, batch[REAL][:, 1:].bool()], dim=1)
        if WRITTEN in batch:
            return torch.cat([mask, torch.ones_like(batch[WRITTEN][:, 1:], dtype=torch.bool)], dim=1)
        if LABELS in batch:
            return torch.cat([mask, batch[LABELS][:, 1:] != NO_LABEL], dim=1)
        return mask

    def decode(self, backbone: Backbone, batch: Batch, tokens: int) -> Tensor:
        """Return the most probable token at each position, `(examples, ≤ tokens)`, padded after the end of a text."""
        kept = {**batch, MEMORY: WeakKeyDictionary()}

        def following(written: Tensor) -> Tensor:
            return self.features(backbone, {**kept, WRITTEN: written})[:, -1]

        config = getattr(backbone, "config", None)
        ends = getattr(config, "eos_token_id", None)
        end = ends[0] if isinstance(ends, list) else ends
        pad = getattr(config, "pad_token_id", None)
        # Without such a token no text ends, since none has the number −1.
        last = -1 if end is None else int(end)
        return greedy(following, batch["input_ids"][:, :1], tokens, end=last, pad=max(last, 0) if pad is None else pad)

    def linears(self, module: nn.Module) -> Iterator[LinearSite]:
        """Yield the linear maps, block by block; the head only where it is not the embedding. Names are its own."""
        embedding = module.get_parameter(EMBEDDING)
        for name, site in module.named_modules():
            if isinstance(site, nn.Linear) and site.weight is not embedding:
                yield LinearSite(name, site)

    def blocks(self, module: nn.Module) -> list[str]:
        """Return the names of the blocks, in order of depth."""
        return blocks_in(module, "model.layers")

    def mlps(self, module: nn.Module) -> list[str]:
        """Return the names of the MLPs, in order of depth.

        Raises:
            MissingPart: of a Mixtral, each of whose blocks has several.
        """
        if self.routers(module):
            raise MissingPart(self.name, "single MLP a block in a mixture of experts, which this model is already")
        return [f"{block}.mlp" for block in self.blocks(module)]

    def routers(self, module: nn.Module) -> list[str]:
        """Return the names of the maps that choose experts, in order of depth; a dense model has none."""
        return [
            f"{block}.mlp.gate" for block in self.blocks(module) if hasattr(module.get_submodule(block).mlp, "gate")
        ]

    def mlp_parts(self, module: nn.Module) -> MlpParts:  # noqa: ARG002
        """Return the names of an MLP's linear maps, its gate among them."""
        return MlpParts(up="up_proj", down="down_proj", gate="gate_proj")

    def width(self, config: Mapping[str, Any]) -> int:
        """Return the width of the features, which is the vocabulary's size."""
        return int(config.get("vocab_size", 32000))

    def permutations(self, config: Mapping[str, Any]) -> Sequence[Permutation]:
        """Return the heads of keys with their queries, the hidden units, and the residual stream.

        Of a mixture of experts the heads alone: its experts are reached by few inputs.
        """
        module = self.skeleton(config)
        known = module.config
        parts = tuple(f"self_attn.{part}_proj" for part in "qkv")
        heads = Block(parts, "self_attn.o_proj", known.num_key_value_heads)  # type: ignore[union-attr,arg-type]
        found = list(block_groups(module, (heads, Block(("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"))))
        if known.model_type == SPARSE:  # type: ignore[union-attr]
            return found
        stream = stream_group(
            module, "lm_head", tables=("model.embed_tokens",), norms=("layernorm", "model.norm"),
            write=("o_proj", "down_proj"), read=("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"),
            tied=bool(known.tie_word_embeddings),  # type: ignore[union-attr]
        )  # fmt: skip
        return [*found, stream]


def _continued(
    backbone: Backbone, tokens: Tensor, real: Tensor, positions: Tensor, memory: WeakKeyDictionary[Any, tuple[Any, int]]
) -> Tensor:
    """Return the logits behind the last token, having run only those that the backbone has not read yet."""
    cache, read = memory.get(backbone, (None, 0))
    found = backbone(
        input_ids=tokens[:, read:],
        attention_mask=real,
        position_ids=positions[:, read:],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    memory[backbone] = (found.past_key_values, tokens.shape[1])
    logits: Tensor = found.logits
    return logits
