"""BERT and its kin as classifiers of texts: embeddings, blocks and BERT's pooler are fused, heads are not."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from fusionbench.errors import MissingPart
from fusionbench.families.base import Backbone, Batch, LinearSite, MlpParts, Permutation
from fusionbench.families.bodies import names_in_body
from fusionbench.families.permutations import Block, block_groups, stream_group
from fusionbench.families.registration import family
from fusionbench.families.stacks import blocks_in, linears_in
from fusionbench.families.tokens import TokenProcessor, pad_together, read_token_processor
from fusionbench.registry import methods_that_need
from fusionbench.weights.headers import Source, TensorSpec

CLASSIFIERS = MappingProxyType(
    {
        "bert": "BertForSequenceClassification",
        "roberta": "RobertaForSequenceClassification",
        "xlm-roberta": "XLMRobertaForSequenceClassification",
    }
)
TOKEN_TYPES, POOLER = "embeddings.token_type_embeddings.weight", "pooler."
POOLED = ("bert",)
"""Model types whose classifiers read a pooled token; in the others the head has a dense layer of its own."""


class BertHead(nn.Linear):
    """BERT's: dropout, then a linear map of the pooled first token."""

    def __init__(self, width: int, outputs: int, chance: float) -> None:
        super().__init__(width, outputs)
        self.chance = chance

    def forward(self, features: Tensor) -> Tensor:
        """Map `(examples, width)` to `(examples, outputs)`."""
        return super().forward(dropout(features, self.chance, self.training))


class RobertaHead(nn.Module):
    """RoBERTa's: dropout, a dense layer with tanh, dropout, then a linear map of the first token."""

    def __init__(self, width: int, outputs: int, chance: float) -> None:
        super().__init__()
        self.dense, self.out_proj, self.chance = nn.Linear(width, width), nn.Linear(width, outputs), chance

    def forward(self, features: Tensor) -> Tensor:
        """Map `(examples, width)` to `(examples, outputs)`."""
        inner = torch.tanh(self.dense(dropout(features, self.chance, self.training)))
        outputs: Tensor = self.out_proj(dropout(inner, self.chance, self.training))
        return outputs


@family
class Encoder:
    """BERT, RoBERTa and models of their form such as MiniLM: a task's head reads the first token."""

    name: str = "encoder"
    version: int = 1
    tower: str = ""
    model_types: tuple[str, ...] = ("bert", "roberta", "xlm-roberta")
    head: str = "classifier."
    unused: tuple[str, ...] = ("roberta.pooler.dense.",)
    bodies: Mapping[str, str] = MappingProxyType({"bert": "bert.", "roberta": "roberta.", "xlm-roberta": "roberta."})

    def matches(self, config: Mapping[str, Any]) -> bool:
        """Tell whether a `config.json` describes such an encoder, with whatever head."""
        return config.get("model_type") in self.model_types

    def skeleton(self, config: Mapping[str, Any]) -> nn.Module:
        """Return the bare encoder in eval mode, its parameters on the meta device and its buffers real.

        BERT's has its pooler, which its classifiers read; RoBERTa's classifiers read the first token itself.
        """
        from accelerate import init_empty_weights
        from transformers import AutoConfig, AutoModel

        known = AutoConfig.for_model(config["model_type"]).from_dict(dict(config))
        pooled = config["model_type"] in POOLED
        with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
            module: nn.Module = AutoModel.from_config(known, trust_remote_code=False, add_pooling_layer=pooled)
        return module.eval()

    def names(self, specs: Mapping[str, TensorSpec]) -> Mapping[str, str]:
        """Return the module's name of each tensor of the encoder, with or without `bert.` or `roberta.` before it.

        The pooler that RoBERTa's files may hold is left out: its classifiers do not use it. A bare model is a RoBERTa
        where it knows one kind of token only.
        """
        found = names_in_body(specs, self.bodies)
        single = any(own == TOKEN_TYPES and specs[name].shape[0] == 1 for name, own in found.items())
        other = single or any(name.startswith(self.bodies["roberta"]) for name in specs)
        outside = (self.head, POOLER) if other else (self.head,)
        return {name: own for name, own in found.items() if not own.startswith(outside)}

    def token_processor(self, source: Source, length: int | None = None) -> TokenProcessor:
        """Return how a text, or a pair of texts, becomes tokens, 512 at most."""
        return read_token_processor(source, length)

    def collate(self, examples: Sequence[Mapping[str, Any]], processor: TokenProcessor | None = None) -> Batch:
        """Return examples as one batch, filled up on the right.

        Args:
            examples: "input_ids", "token_type_ids" where the tokenizer makes them, and "label" where there is one.
            processor: of the base; None fills up with token 0.

        Returns:
            These and "attention_mask", `(examples, longest)` int64, and "labels", `(examples,)` int64.
        """
        return pad_together(examples, processor.pad if processor else 0)

    def token_mask(self, batch: Batch) -> Tensor | None:
        """Return `(examples, tokens)`, true where a token is real."""
        mask: Tensor = batch["attention_mask"].bool()
        return mask

    def features(self, backbone: Backbone, batch: Batch) -> Tensor:
        """Return the first token: BERT's pooled, RoBERTa's last hidden state, `(examples, hidden_size)`.

        Args:
            backbone: the bare encoder.
            batch: with "input_ids" and "attention_mask".
        """
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in batch}
        found = backbone(**inputs)
        pooled: Tensor | None = found.pooler_output
        first: Tensor = found.last_hidden_state[:, 0]
        return first if pooled is None else pooled

    def head_module(self, config: Mapping[str, Any], outputs: int) -> nn.Module:
        """Return a new classifier of the architecture's form, weights N(0, initializer_range²), biases 0."""
        chance = config.get("classifier_dropout")
        chance = config.get("hidden_dropout_prob", 0.1) if chance is None else chance
        kind = BertHead if config["model_type"] in POOLED else RobertaHead
        head = kind(self.width(config), outputs, chance)
        for name, parameter in head.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=config.get("initializer_range", 0.02))
        return head

    def head_config(self, config: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
        """Return what makes plain transformers load the folder by `AutoModelForSequenceClassification`."""
        return {
            "architectures": [CLASSIFIERS[config["model_type"]]],
            "id2label": {str(number): label for number, label in enumerate(labels)},
            "label2id": {label: number for number, label in enumerate(labels)},
        }

    def linears(self, module: nn.Module) -> Iterator[LinearSite]:
        """Return the linear maps, block by block (query, key, value, attention, two of the MLP), and the pooler."""
        return linears_in(module)

    def blocks(self, module: nn.Module) -> list[str]:
        """Return the names of the blocks, in order of depth."""
        return blocks_in(module, "encoder.layer")

    def mlps(self, module: nn.Module) -> list[str]:  # noqa: ARG002
        """Refuse: the residual connection runs through the middle of what would be the MLP.

        Raises:
            MissingPart: always.
        """
        raise MissingPart(self.name, "MLP as one module", methods_that_need("mlps"))

    def mlp_parts(self, module: nn.Module) -> MlpParts:  # noqa: ARG002
        """Return the names of an MLP's linear maps inside a block; it has no gate."""
        return MlpParts(up="intermediate.dense", down="output.dense")

    def width(self, config: Mapping[str, Any]) -> int:
        """Return the width of the features, `hidden_size`."""
        return int(config.get("hidden_size", 768))

    def permutations(self, config: Mapping[str, Any]) -> Sequence[Permutation]:
        """Return attention heads and hidden units of each block; of BERT, whose pooler reads it, the residual stream.

        RoBERTa's heads, which are not fused, read the stream itself, so it stays in its order.
        """
        module = self.skeleton(config)
        parts = ("attention.self.query", "attention.self.key", "attention.self.value")
        heads = Block(parts, "attention.output.dense", int(config.get("num_attention_heads", 12)))
        found = [*block_groups(module, (heads, Block(("intermediate.dense",), "output.dense")))]
        if config["model_type"] not in POOLED:
            return found
        tables = [f"embeddings.{kind}_embeddings" for kind in ("word", "position", "token_type")]
        read = (*(part.removeprefix("attention.") for part in parts), "intermediate.dense")
        stream = stream_group(
            module, "pooler.dense", tables=tables, norms=("LayerNorm",), write=("output.dense",), read=read
        )
        return [*found, stream]
