"""Any fused folder as a module: plain ones as transformers loads them, mixtures by their blueprint; both write text."""

from pathlib import Path

import pytest
import torch

import fusionbench
from fusionbench.config import Recipe
from fusionbench.errors import CheckpointError, ConfigError
from fusionbench.run.rebuild import rebuild_to
from tiny_causal_lm import make_causal_lm

TOKENS = torch.tensor([[1, 5, 7, 3], [1, 9, 2, 4]])
METHODS = {
    "moe_merging": (),
    "smile": ("method.k=4", "method.gate_k=2"),
    "bitdelta": ("method.expert=a",),
}


def made(tmp_path: Path, method: str) -> Path:
    for seed, name in enumerate(("base", "a", "b")):
        make_causal_lm(tmp_path / name, seed)
    named = [f"base={tmp_path / 'base'}", *(f"experts.{n}={tmp_path / n}" for n in "ab")]
    rebuild_to(Recipe.load(None, [*named, f"method={method}", *METHODS[method]]), tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize("method", METHODS)
def test_it_writes_the_same_with_and_without_the_cache(method: str, tmp_path: Path) -> None:
    module = fusionbench.load_model(made(tmp_path, method))
    assert not module.training
    asked = {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS), "max_new_tokens": 6, "min_new_tokens": 6}
    written = [module.generate(**asked, do_sample=False, use_cache=cache).tolist() for cache in (True, False)]
    assert written[0] == written[1]
    assert len(written[0][0]) == 10


def test_a_plain_result_is_what_transformers_loads(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    out = made(tmp_path, "moe_merging")
    with torch.no_grad():
        ours, theirs = fusionbench.load_model(out)(TOKENS), AutoModelForCausalLM.from_pretrained(out)(TOKENS)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-4, atol=1e-4)


def test_what_is_no_model_or_of_no_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        fusionbench.load_model(tmp_path / "nowhere")
    make_causal_lm(tmp_path / "m")
    config = tmp_path / "m" / "config.json"
    config.write_text(config.read_text().replace('"model_type": "llama"', '"model_type": "mamba"'))
    with pytest.raises(ConfigError, match="mamba"):
        fusionbench.load_model(tmp_path / "m")
