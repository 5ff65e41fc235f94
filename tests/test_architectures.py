"""Merged folders of ten architectures: plain transformers loads them whole, and they compute what the formula says."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from independent import ties
from safetensors.torch import load_file
from torch import Tensor

from checkpoints import save_model
from fusionbench.config import Recipe
from fusionbench.merge import merge

SMALL = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = SMALL | {"vocab_size": 11, "max_position_embeddings": 16}
GROUPED = TEXT | {"num_key_value_heads": 1, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
IMAGE = {"image_size": 8, "patch_size": 4}


class Kind(NamedTuple):
    """An architecture: its classes in transformers, a small configuration, inputs, and the prefix of what is fused."""

    model: str
    config: dict[str, Any]
    inputs: Callable[[], dict[str, Tensor]]
    tower: str = ""


def tokens() -> dict[str, Tensor]:
    return {"input_ids": torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]])}


def both() -> dict[str, Tensor]:
    return {**tokens(), "decoder_input_ids": torch.tensor([[0, 5], [0, 6]])}


def image(side: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.linspace(-1, 1, 2 * 3 * side * side).view(2, 3, side, side)}


def sound() -> dict[str, Tensor]:
    return {"input_features": torch.linspace(-1, 1, 4 * 20).view(1, 4, 20), "decoder_input_ids": torch.tensor([[1, 5]])}


ARCHITECTURES = {
    "llama": Kind("LlamaForCausalLM", GROUPED, tokens),
    "mistral": Kind("MistralForCausalLM", GROUPED | {"sliding_window": 8}, tokens),
    "qwen2": Kind("Qwen2ForCausalLM", GROUPED | {"tie_word_embeddings": True}, tokens),
    "gpt2": Kind(
        "GPT2LMHeadModel",
        {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 16, "vocab_size": 11}
        | {"bos_token_id": 1, "eos_token_id": 2},
        tokens,
    ),
    "bert": Kind("BertModel", TEXT, tokens),
    "t5": Kind(
        "T5ForConditionalGeneration",
        {"d_model": 8, "d_ff": 12, "d_kv": 4, "num_layers": 2, "num_heads": 2, "vocab_size": 11}
        | {"decoder_start_token_id": 0, "tie_word_embeddings": True},
        both,
    ),
    "clip": Kind(
        "CLIPModel",
        {
            "text_config": TEXT | {"eos_token_id": 10, "bos_token_id": 1, "pad_token_id": 0},
            "vision_config": SMALL | IMAGE,
            "projection_dim": 6,
        },
        lambda: tokens() | image(8),
        "vision_model.",
    ),
    "vit": Kind("ViTModel", SMALL | IMAGE, lambda: image(8)),
    "resnet": Kind(
        "ResNetModel",
        {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"},
        lambda: image(32),
    ),
    "whisper": Kind(
        "WhisperForConditionalGeneration",
        {
            "vocab_size": 11, "num_mel_bins": 4, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1,
            "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 12, "decoder_ffn_dim": 12,
            "max_source_positions": 10, "max_target_positions": 8, "pad_token_id": 0, "bos_token_id": 1,
            "eos_token_id": 2, "decoder_start_token_id": 1, "suppress_tokens": None, "begin_suppress_tokens": None,
        },
        sound,
    ),
}  # fmt: skip


def saved(kind: Kind, folder: Path, seed: int, base: Path | None = None) -> Path:
    """Write a random model, or one near a base, as transformers writes it."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    cls = getattr(transformers, kind.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = cls(cls.config_class(**kind.config)) if base is None else cls.from_pretrained(base)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
            for name, buffer in model.named_buffers():
                if name.endswith(("running_mean", "running_var")):
                    buffer.add_(0.1 * torch.rand_like(buffer))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Path]]:
    made: dict[str, dict[str, Path]] = {}

    def models_of(name: str) -> dict[str, Path]:
        if name not in made:
            root = tmp_path_factory.mktemp(name)
            base = saved(ARCHITECTURES[name], root / "base", 0)
            experts = {e: saved(ARCHITECTURES[name], root / e, n, base) for n, e in enumerate("ab", start=1)}
            made[name] = {"base": base, **experts}
        return made[name]

    return models_of


def numbers(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {name: tensor.double().numpy() for name, tensor in load_file(folder / "model.safetensors").items()}


def expected(method: str, paths: Mapping[str, Path], tower: str) -> dict[str, np.ndarray[Any, Any]]:
    """The formula on whole arrays; outside the tower, and for counters, the base's; statistics of a mixture."""
    base, experts = numbers(paths["base"]), [numbers(paths[e]) for e in "ab"]
    statistics = {name for name in base if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    fused = [name for name in base if name.startswith(tower) and name not in statistics]
    inputs = {name: base[name] for name in fused}, [{name: e[name] for name in fused} for e in experts]
    if method == "ties":
        merged = ties(*inputs, density=0.3, scale=0.9)
    else:
        merged = {n: inputs[0][n] + 0.4 * sum(e[n] - inputs[0][n] for e in inputs[1]) for n in fused}
    found = {**base, **merged}
    for name in statistics:
        if name.endswith("running_mean"):
            found[name] = sum(e[name] for e in experts) / 2
            variance = name.replace("running_mean", "running_var")
            squares = sum(e[variance] + e[name] ** 2 for e in experts) / 2
            found[variance] = squares - found[name] ** 2
    return found


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_merged_folder_loads_in_transformers_and_computes_what_the_formula_says(
    name: str, method: str, models: Callable[[str], dict[str, Path]], tmp_path: Path
) -> None:
    import transformers

    kind, paths = ARCHITECTURES[name], models(name)
    values = {"ties": ["method.density=0.3", "method.scale=0.9"], "task_arithmetic": ["method.scale=0.4"]}[method]
    named = [f"base={paths['base']}", *(f"experts.{e}={paths[e]}" for e in "ab")]
    merge(Recipe.load(None, [*named, f"method={method}", *values, "runtime.threads=1"]), tmp_path / "out")

    formula = expected(method, paths, kind.tower)
    written = numbers(tmp_path / "out")
    assert written.keys() == formula.keys()
    for tensor, value in formula.items():
        np.testing.assert_allclose(written[tensor], value, atol=2e-6, err_msg=tensor)

    cls = getattr(transformers, kind.model)
    merged, info = cls.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    written_by_hand = save_model(tmp_path / "dense", {n: torch.from_numpy(v).float() for n, v in formula.items()})
    shutil.copyfile(paths["base"] / "config.json", written_by_hand / "config.json")
    dense = cls.from_pretrained(written_by_hand)
    with torch.inference_mode():
        ours, theirs = merged.eval()(**kind.inputs())[0], dense.eval()(**kind.inputs())[0]
    assert torch.isfinite(ours).all()
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
