"""GPT-2 as a classifier of texts: the transformer is fused, the score layer is a task's own."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from fusionbench.families.base import Backbone, Batch, LinearSite, MlpParts, Permutation
from fusionbench.families.bodies import names_in_body
from fusionbench.families.permutations import Block, block_groups
from fusionbench.families.registration import family
from fusionbench.families.stacks import blocks_in
from fusionbench.families.tokens import TokenProcessor, pad_together, read_token_processor
from fusionbench.weights.headers import Source, TensorSpec


@family
class Gpt2:
    """GPT-2 for sequence classification: a task's head reads the last real token; the transformer is fused."""

    name: str = "gpt2"
    version: int = 1
    tower: str = ""
    model_types: tuple[str, ...] = ("gpt2",)
    head: str = "score."
    bodies: Mapping[str, str] = MappingProxyType({"gpt2": "transformer."})

    def matches(self, config: Mapping[str, Any]) -> bool:
        """Tell whether a `config.json` describes a GPT-2, with whatever head."""
        return config.get("model_type") in self.model_types

    def skeleton(self, config: Mapping[str, Any]) -> nn.Module:
        """Return a `GPT2Model` in eval mode, its parameters on the meta device and its buffers real."""
        from accelerate import init_empty_weights
        from transformers import GPT2Config, GPT2Model

        with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
            module: nn.Module = GPT2Model(GPT2Config.from_dict(dict(config)))
        return module.eval()

    def names(self, specs: Mapping[str, TensorSpec]) -> Mapping[str, str]:
        """Return the module's name of each tensor of the transformer, with or without `transformer.` before it."""
        return {name: own for name, own in names_in_body(specs, self.bodies).items() if not own.startswith(self.head)}

    def token_processor(self, source: Source, length: int | None = None) -> TokenProcessor:
        """Return how a text becomes tokens, 512 at most; the two texts of a pair simply follow each other."""
        return read_token_processor(source, length)

    def collate(self, examples: Sequence[Mapping[str, Any]], processor: TokenProcessor | None = None) -> Batch:
        """Return examples as one batch, filled up on the right.

        Args:
            examples: "input_ids", and "label" where there is one.
            processor: of the base; None fills up with token 0.

        Returns:
            "input_ids" and "attention_mask", `(examples, longest)` int64, and "labels", `(examples,)` int64.
        """
        return pad_together(examples, processor.pad if processor else 0)

    def token_mask(self, batch: Batch) -> Tensor | None:
        """Return `(examples, tokens)`, true where a token is real."""
        mask: Tensor = batch["attention_mask"].bool()
        return mask

    def features(self, backbone: Backbone, batch: Batch) -> Tensor:
        """Return the last real token's hidden state after the final norm, `(examples, n_embd)`.

        Positions are counted over real tokens, so that it does not matter how much is filled up, nor on which side.

        Args:
            backbone: a `GPT2Model`.
            batch: with "input_ids" and "attention_mask".
        """
        mask = batch["attention_mask"]
        counted = mask.cumsum(dim=-1)
        hidden: Tensor = backbone(
            input_ids=batch["input_ids"],
            attention_mask=mask,
            position_ids=(counted - 1).clamp(min=0),
            use_cache=False,
        ).last_hidden_state
        last = counted.argmax(dim=-1).view(-1, 1, 1).expand(-1, 1, hidden.shape[-1])
        return hidden.gather(1, last).squeeze(1)

    def head_module(self, config: Mapping[str, Any], outputs: int) -> nn.Module:
        """Return a new score layer, `(n_embd) -> (outputs)` without bias, N(0, initializer_range²)."""
        head = nn.Linear(self.width(config), outputs, bias=False)
        nn.init.normal_(head.weight, std=config.get("initializer_range", 0.02))
        return head

    def head_config(self, config: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
        """Return what makes plain transformers load the folder as a `GPT2ForSequenceClassification`.

        The padding token is among it: that class finds the last real token by it.
        """
        pad = config.get("pad_token_id")
        return {
            "architectures": ["GPT2ForSequenceClassification"],
            "id2label": {str(number): label for number, label in enumerate(labels)},
            "label2id": {label: number for number, label in enumerate(labels)},
            "pad_token_id": config.get("eos_token_id", 50256) if pad is None else pad,
        }

    def linears(self, module: nn.Module) -> Iterator[LinearSite]:
        """Yield the linear maps, block by block: c_attn, c_proj, c_fc, c_proj, whose weights are `(in, out)`."""
        from transformers.pytorch_utils import Conv1D

        for name, site in module.get_submodule("h").named_modules(prefix="h"):
            if isinstance(site, Conv1D):
                yield LinearSite(name, site, inputs_last=False)

    def blocks(self, module: nn.Module) -> list[str]:
        """Return the names of the blocks, in order of depth."""
        return blocks_in(module, "h")

    def mlps(self, module: nn.Module) -> list[str]:
        """Return the names of the MLPs, in order of depth."""
        return [f"{block}.mlp" for block in self.blocks(module)]

    def mlp_parts(self, module: nn.Module) -> MlpParts:  # noqa: ARG002
        """Return the names of an MLP's linear maps; it has no gate."""
        return MlpParts(up="c_fc", down="c_proj")

    def width(self, config: Mapping[str, Any]) -> int:
        """Return the width of the features, `n_embd`."""
        return int(config.get("n_embd", 768))

    def permutations(self, config: Mapping[str, Any]) -> Sequence[Permutation]:
        """Return attention heads and hidden units of each block; the stream, which heads of tasks read, stays."""
        heads = Block(("attn.c_attn",), "attn.c_proj", int(config.get("n_head", 12)), runs=3)
        blocks = (heads, Block(("mlp.c_fc",), "mlp.c_proj"))
        return list(block_groups(self.skeleton(config), blocks, inputs_last=False))
