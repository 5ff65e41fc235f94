"""A Mixtral that is made of a dense Llama or Mistral: its configuration, and what its maps are called."""

import re
from collections.abc import Mapping
from typing import Any

from fusionbench.errors import ConfigError

DENSE = ("llama", "mistral")
DENSE_MLP = re.compile(r"^(.*\.layers\.(\d+)\.)mlp\.((?:gate|up|down)_proj\.weight)$")
"""A map of a dense MLP: what stands before it, its layer, and which one it is."""
PARTS = {"gate_proj.weight": "w1.weight", "down_proj.weight": "w2.weight", "up_proj.weight": "w3.weight"}
"""A dense MLP's maps, and what the same are called in a Mixtral's files."""
SHARED = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps", "use_cache",
    "pad_token_id", "bos_token_id", "eos_token_id", "tie_word_embeddings", "rope_parameters", "attention_dropout",
)  # fmt: skip
"""Keys that mean the same in all three."""


def mixtral_config(config: Mapping[str, Any], experts: int, top_k: int) -> dict[str, Any]:
    """Return the `config.json` of a Mixtral of a dense model's sizes.

    Values that the dense model's file leaves out are those of its architecture, not Mixtral's. Attention has no
    window: a Mistral's, which matters beyond its length only, is left out.

    Args:
        config: of the dense model.
        experts: MLPs a layer.
        top_k: how many of them a token passes.

    Raises:
        ConfigError: where the dense model is neither a Llama nor a Mistral, or has biases, which a Mixtral lacks.
    """
    from transformers import AutoConfig, MixtralConfig

    kind = config.get("model_type")
    if kind not in DENSE:
        raise ConfigError(f"A Mixtral is made of a {' or '.join(DENSE)} model; this one is {kind!r}.")
    biased = [key for key in ("attention_bias", "mlp_bias") if config.get(key)]
    if biased:
        raise ConfigError(f"A Mixtral has no biases; this model has, by {' and '.join(biased)} in its config.json.")
    dense = AutoConfig.for_model(**dict(config)).to_dict()
    given = {key: dense[key] for key in SHARED if key in dense}
    made = MixtralConfig(
        **given, num_local_experts=experts, num_experts_per_tok=top_k, sliding_window=None, output_router_logits=False
    )
    made.architectures = ["MixtralForCausalLM"]
    kinds = {key: config[key] for key in ("dtype", "torch_dtype") if key in config}
    return {**made.to_diff_dict(), **kinds}
