"""Routers that know their experts before any training: by what the base makes of prompts for each."""

import logging
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from fusionbench.errors import ConfigError, MissingPart
from fusionbench.families import HasTextToText, load_module
from fusionbench.merge import Pool
from fusionbench.mixing.build import family_of
from fusionbench.parameters import EachExpert
from fusionbench.registry import suggestion

logger = logging.getLogger(__name__)
GateMode = Literal["random", "hidden", "hidden_avg"]
Prompts = Annotated[Sequence[str], EachExpert()]
ByExpert = Mapping[str, Sequence[str]]
LENGTH = 512
"""Most tokens of a prompt that are read."""
SIMILAR = 5.0
"""Condition number of a layer's gate vectors from which they are reported, as mergekit does."""


def check_prompts(
    experts: Sequence[str],
    gate_mode: GateMode,
    positive: Mapping[str, object] | None,
    negative: Mapping[str, object] | None,
) -> None:
    """Refuse prompts that nobody reads, experts without any, and prompts of nobody.

    Raises:
        ConfigError: naming the parameter and the experts.
    """
    given = {"positive_prompts": positive, "negative_prompts": negative}
    for name, prompts in given.items():
        if prompts is None:
            continue
        if gate_mode == "random":
            raise ConfigError(f"method.{name}: gate_mode=random reads no prompts. Add method.gate_mode=hidden.")
        if not isinstance(prompts, Mapping):
            raise ConfigError(
                f"method.{name}: expected prompts by expert, such as {{{experts[0]}: [How many are 2 and 3 ?]}}; "
                f"got {prompts!r}."
            )
        for expert, texts in prompts.items():
            if expert not in experts:
                raise ConfigError(f"method.{name}: there is no expert {expert!r}. {suggestion(expert, list(experts))}")
            if not isinstance(texts, Sequence) or isinstance(texts, str) or not texts:
                raise ConfigError(f"method.{name}.{expert}: expected a list of prompts, got {texts!r}.")
    lacking = [expert for expert in experts if expert not in (positive or {})]
    if gate_mode != "random" and lacking:
        raise ConfigError(
            f"method.positive_prompts: gate_mode={gate_mode} needs prompts for every expert; there are none for "
            f"{', '.join(lacking)}."
        )


def prompted_gates(
    pool: Pool,
    *,
    gate_mode: GateMode = "random",
    positive_prompts: ByExpert | None = None,
    negative_prompts: ByExpert | None = None,
) -> Tensor | None:
    """Return a router's weights for each layer, `(layers, experts, width)` float32; None where they are random.

    Args:
        pool: its base reads the prompts.
        gate_mode: see `moe_merging`.
        positive_prompts: by expert.
        negative_prompts: by expert.

    Raises:
        MissingPart: where the base writes no texts.
        CheckpointError: where it has no tokenizer.
    """
    if gate_mode == "random":
        return None
    liked, unlike = positive_prompts or {}, negative_prompts or {}
    family = family_of(pool)
    if not isinstance(family, HasTextToText):
        raise MissingPart(family.name, f"text that it reads, as gate_mode={gate_mode} asks", ("moe_merging",))
    codec, module = family.text_codec(pool.reference), load_module(family, pool.reference).float()

    def heard(prompts: Sequence[str]) -> Tensor:
        tokens = codec.encode([str(prompt) for prompt in prompts], LENGTH)
        return hidden_states(module, tokens, average=gate_mode == "hidden_avg")

    vectors = [
        gate_vectors(heard(liked[expert]), heard(unlike[expert]) if expert in unlike else None)
        for expert in pool.experts
    ]
    gates = torch.stack(vectors, dim=1)
    alike = [depth for depth, gate in enumerate(gates) if float(torch.linalg.cond(gate)) > SIMILAR]
    if alike:
        logger.warning(
            "The prompts of some experts are nearly the same to the layers %s, whose routers can hardly tell them "
            "apart. Choose prompts that differ more, or gate_mode=hidden_avg.",
            ", ".join(map(str, alike)),
        )
    return gates


@torch.no_grad()
def hidden_states(module: nn.Module, texts: Sequence[Sequence[int]], *, average: bool) -> Tensor:
    """Return what goes into each block, of a text's last token or averaged over its tokens: `(texts, layers, width)`.

    Texts are read one at a time, so that none is padded.
    """
    rows = []
    for text in texts:
        states = module(input_ids=torch.tensor([list(text)]), output_hidden_states=True, use_cache=False).hidden_states
        inputs = torch.stack(states[:-1])[:, 0]
        rows.append(inputs.mean(dim=1) if average else inputs[:, -1])
    return torch.stack(rows)


def gate_vectors(positive: Tensor, negative: Tensor | None = None) -> Tensor:
    """Return g / ‖g‖ with g = mean(positive) − mean(negative), `(layers, width)`; zero where the means agree.

    Args:
        positive: of each prompt, `(prompts, layers, width)`.
        negative: the same of prompts that are not for the expert.
    """
    gate = positive.mean(dim=0)
    if negative is not None:
        gate = gate - negative.mean(dim=0)
    length: Tensor = torch.linalg.vector_norm(gate, dim=-1, keepdim=True)
    return gate / length.clamp(min=1e-8)
