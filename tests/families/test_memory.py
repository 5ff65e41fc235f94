"""A checkpoint is loaded without a second copy: the peak of a process of its own, in resident memory."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROBE = """
import json, resource, sys
from fusionbench.families import family_named, load_module
from fusionbench.weights.sources import open_source

family, tiny, large = family_named(sys.argv[1]), *sys.argv[2:]
load_module(family, open_source(tiny))  # imports, threads and caches are there before anything is measured
def peak():
    # getrusage would tell the peak of the process that started this one, where that was larger.
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
before = resident()
module = load_module(family, open_source(large))
size = sum(p.numel() * p.element_size() for p in module.parameters())
print(json.dumps({"before": before, "peak": peak(), "weights": size}))
"""
CLIP_TOWER = {"num_hidden_layers": 4, "num_attention_heads": 8}


def config(kind: str, width: int) -> Any:
    from transformers import CLIPConfig, LlamaConfig, T5Config

    if kind == "clip":
        tower = CLIP_TOWER | {"hidden_size": width, "intermediate_size": 4 * width}
        text = tower | {"vocab_size": 100, "bos_token_id": 1, "eos_token_id": 3}
        return CLIPConfig(text_config=text, vision_config=tower | {"image_size": 32, "patch_size": 8})
    if kind == "t5":
        return T5Config(vocab_size=1000, d_model=width, d_kv=64, d_ff=4 * width, num_layers=4, num_heads=width // 64)
    return LlamaConfig(
        vocab_size=1000, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=6,
        num_attention_heads=width // 64, tie_word_embeddings=False,
    )  # fmt: skip


def stored(folder: Path, kind: str, width: int) -> Path:
    import torch
    from transformers import CLIPModel, LlamaForCausalLM, T5ForConditionalGeneration

    classes = {"clip": CLIPModel, "t5": T5ForConditionalGeneration, "causal_lm": LlamaForCausalLM}
    with torch.device("meta"):
        model = classes[kind](config(kind, width))
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.zero_()
    model.save_pretrained(folder)
    return folder


def test_memory_that_was_given_back_is_read_from_the_file_again(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from fusionbench.weights.safetensors import open_safetensors

    tensors = {"a": torch.arange(5000.0), "b": torch.arange(3.0), "none": torch.empty(0)}
    save_file(tensors, tmp_path / "model.safetensors")
    source = open_safetensors("model", tmp_path)
    assert source is not None
    for name, tensor in tensors.items():
        before = bytes(source.read(name))
        source.let_go(name)
        assert bytes(source.read(name)) == before == tensor.numpy().tobytes()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("kind", ["clip", "t5", "causal_lm"])
def test_loading_takes_less_than_1_3_times_the_weights(tmp_path: Path, kind: str) -> None:
    tiny, large = stored(tmp_path / "tiny", kind, 64), stored(tmp_path / "large", kind, 1024)

    run = [sys.executable, "-c", PROBE, kind, str(tiny), str(large)]
    found = json.loads(subprocess.run(run, capture_output=True, text=True, check=True).stdout)

    assert found["weights"] > 2.5e8
    # Pages of the file that are mapped while they are copied count too.
    assert found["peak"] - found["before"] < 1.3 * found["weights"]
