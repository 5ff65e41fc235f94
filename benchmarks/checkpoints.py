"""Make the checkpoints that the benchmarks merge: a Llama of 134 M parameters and experts close to it."""

import json
import math
import struct
from pathlib import Path

import numpy as np

WIDTH, LAYERS, MLP, VOCABULARY, KEY_VALUE = 576, 30, 1536, 49152, 192
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": WIDTH,
    "intermediate_size": MLP,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def llama_shapes(layers: int = LAYERS) -> list[tuple[str, tuple[int, ...]]]:
    """Return names and shapes of the tensors of a Llama with tied embeddings."""
    shapes: list[tuple[str, tuple[int, ...]]] = [("model.embed_tokens.weight", (VOCABULARY, WIDTH))]
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        shapes += [
            (f"{prefix}.self_attn.q_proj.weight", (WIDTH, WIDTH)),
            (f"{prefix}.self_attn.k_proj.weight", (KEY_VALUE, WIDTH)),
            (f"{prefix}.self_attn.v_proj.weight", (KEY_VALUE, WIDTH)),
            (f"{prefix}.self_attn.o_proj.weight", (WIDTH, WIDTH)),
            (f"{prefix}.mlp.gate_proj.weight", (MLP, WIDTH)),
            (f"{prefix}.mlp.up_proj.weight", (MLP, WIDTH)),
            (f"{prefix}.mlp.down_proj.weight", (WIDTH, MLP)),
            (f"{prefix}.input_layernorm.weight", (WIDTH,)),
            (f"{prefix}.post_attention_layernorm.weight", (WIDTH,)),
        ]
    return [*shapes, ("model.norm.weight", (WIDTH,))]


def make(folder: Path, experts: int, layers: int = LAYERS) -> tuple[Path, list[Path]]:
    """Write a base and `experts` bfloat16 checkpoints below `folder`, once; return their folders."""
    base, others = folder / "base", [folder / f"expert{i}" for i in range(experts)]
    for number, place in enumerate([base, *others]):
        if not (place / "config.json").is_file():
            _write(place, number, layers)
    return base, others


def _write(place: Path, number: int, layers: int) -> None:
    place.mkdir(parents=True, exist_ok=True)
    shapes = llama_shapes(layers)
    table, start = {}, 0
    for name, shape in shapes:
        size = 2 * math.prod(shape)
        table[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, start + size]}
        start += size
    header = json.dumps(table).encode()
    header += b" " * (-len(header) % 8)
    with (place / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for index, (_, shape) in enumerate(shapes):
            values = np.random.default_rng(index).standard_normal(math.prod(shape), dtype=np.float32) * 0.02
            if number:
                noise = np.random.default_rng((number, index)).standard_normal(math.prod(shape), dtype=np.float32)
                values += noise * 0.002
            bits = values.view(np.uint32)
            file.write((((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)).tobytes())
    (place / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": layers}, indent=1))
