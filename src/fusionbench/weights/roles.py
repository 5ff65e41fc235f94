"""What a tensor is, told from its name, its shape and the model's configuration. No torch here."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fusionbench.weights.headers import TensorSpec

Role = Literal["matrix", "conv", "embedding", "norm", "bias", "head", "other"]

_BLOCK = re.compile(r"(?:^|\.)(?:layers|layer|blocks|block|resblocks|h)\.(\d+)\.")
_STAGE = re.compile(r"(?:^|\.)stages\.(\d+)\.")
_EMBEDDING = re.compile(r"(embed|\bwte\b|\bwpe\b|(^|\.)shared\.weight$|relative_attention_bias)")
_NORM = re.compile(r"(norm|(^|\.|_)ln(_|\.|\d|$)|(^|\.)bn\d*\.|layrnorm)", re.IGNORECASE)
_HEAD = re.compile(r"(^|\.)(lm_head|score|classifier|qa_outputs|head)\.(\d+\.)?(weight|bias)$")
_CONV1D = re.compile(r"\.(c_attn|c_proj|c_fc|q_attn)\.weight$")
_POSITIONS = re.compile(r"wpe|position", re.IGNORECASE)
_STATISTIC = re.compile(r"(^|\.)running_(mean|var)$")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor stands in its model: its stack ("encoder", "decoder" or ""), its block, the stack's blocks."""

    stack: str = ""
    depth: int | None = None
    depths: int = 1


def role(spec: TensorSpec) -> Role:
    """Return the part that a tensor plays."""
    if _HEAD.search(spec.name):
        return "head"
    if _NORM.search(spec.name) and len(spec.shape) <= 1:
        return "norm"
    if spec.name.endswith("bias") and len(spec.shape) <= 1:
        return "bias"
    embedding = bool(_EMBEDDING.search(spec.name))
    if len(spec.shape) > 2:
        # ViT's (1, positions, width), and the matrices of several experts in one tensor.
        table, stacked = embedding and spec.shape[0] == 1, ".experts." in spec.name
        return "embedding" if table else "other" if stacked else "conv"
    if len(spec.shape) == 2:
        return "embedding" if embedding else "matrix"
    return "embedding" if embedding else "other"


def is_positions(name: str) -> bool:
    """Tell whether a table is one of positions, not of tokens."""
    return bool(_POSITIONS.search(name))


def is_statistic(name: str) -> bool:
    """Tell whether a tensor is a BatchNorm statistic, which no method's arithmetic may touch."""
    return bool(_STATISTIC.search(name))


def inputs_last(spec: TensorSpec, config: Mapping[str, Any]) -> bool:
    """Tell whether a matrix is `(out, in)`; the Conv1D layers of GPT-2's kind are `(in, out)`."""
    conv1d = config.get("model_type") in ("gpt2", "openai-gpt", "gptj", "imagegpt", "decision_transformer")
    return not (conv1d and len(spec.shape) == 2 and _CONV1D.search(spec.name))


def places(names: Iterable[str]) -> dict[str, Place]:
    """Return where each tensor stands; blocks are counted within their stack, stages end to end."""
    found = {name: _find(name) for name in names}
    blocks: dict[str, set[tuple[int, int]]] = {}
    for stack, block in found.values():
        if block is not None:
            blocks.setdefault(stack, set()).add(block)
    ranks = {stack: {block: rank for rank, block in enumerate(sorted(held))} for stack, held in blocks.items()}
    words = {stack: word for stack in blocks for word in ("encoder", "decoder") if word in stack.split(".")}
    two_stacks = len(set(words.values())) == 2
    return {
        name: Place(words.get(stack, "") if two_stacks else "", ranks[stack][block], len(ranks[stack]))
        if block is not None
        else Place()
        for name, (stack, block) in found.items()
    }


def _find(name: str) -> tuple[str, tuple[int, int] | None]:
    """Return a tensor's stack and its (stage, block), None outside all blocks; the first number of a path counts."""
    stage, block = _STAGE.search(name), _BLOCK.search(name)
    outer = stage or block
    if outer is None:
        return "", None
    return name[: outer.start()], (int(stage[1]) if stage else 0, int(block[1]) if block else 0)
