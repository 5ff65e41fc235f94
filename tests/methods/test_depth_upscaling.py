"""Depth up-scaling: a plain model whose layers are the ones that were asked for, and which writes with its cache."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from causal import load_causal, logits, merged, save_causal, written

from fusionbench.errors import ConfigError
from fusionbench.methods.depth_upscaling import depth_upscaling


def test_a_tensor_is_copied():
    assert depth_upscaling([torch.tensor([1.0, 2.0])]).tolist() == [1, 2]
    with pytest.raises(ConfigError, match="exactly one expert"):
        depth_upscaling([torch.ones(1), torch.ones(1)])


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("llama", {}), ("mistral", {}), ("qwen2", {"use_sliding_window": False}), ("gpt2", {"n_embd": 16, "n_head": 2})],
)
def test_the_result_is_what_transformers_makes_of_the_same_layers(kind, changes, tmp_path):
    save_causal(tmp_path / "model", kind, **changes)
    out = merged(tmp_path / "out", [f"experts.m={tmp_path / 'model'}", "method=depth_upscaling"])
    model, deep = load_causal(tmp_path / "model"), load_causal(out)
    blocks = model.transformer.h if kind == "gpt2" else model.model.layers
    chosen = torch.nn.ModuleList([blocks[number] for number in (0, 1, 2, 1, 2, 3)])
    if kind == "gpt2":
        model.transformer.h = chosen
    else:
        model.model.layers = chosen
        model.config.num_hidden_layers = 6
        model.config.layer_types = deep.config.layer_types if hasattr(deep.config, "layer_types") else None
    torch.testing.assert_close(logits(deep), logits(model), rtol=1e-5, atol=1e-5)
    assert deep.config.num_hidden_layers == 6


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_writing_with_and_without_the_cache_agrees(kind, tmp_path):
    save_causal(tmp_path / "model", kind)
    layers = 'method.layers=["range(0,3)", 1, "range(1,4)"]'
    deep = load_causal(merged(tmp_path / "out", [f"experts.m={tmp_path / 'model'}", "method=depth_upscaling", layers]))
    assert [layer.self_attn.layer_idx for layer in deep.model.layers] == list(range(7))
    assert written(deep, cache=True) == written(deep, cache=False)


def test_lists_of_the_configuration_follow_their_layers(tmp_path):
    kinds = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    save_causal(tmp_path / "model", "qwen2", layer_types=kinds, use_sliding_window=True, sliding_window=4)
    out = merged(
        tmp_path / "out", [f"experts.m={tmp_path / 'model'}", "method=depth_upscaling", "method.layers=[1,1,2]"]
    )
    deep = load_causal(out)
    assert deep.config.layer_types == ["sliding_attention", "sliding_attention", "full_attention"]
    assert written(deep, cache=True) == written(deep, cache=False)


def test_one_of_several_models_is_chosen_by_name(tmp_path):
    for seed, name in enumerate("ab"):
        save_causal(tmp_path / name, seed=seed, layers=2)
    named = [f"experts.{name}={tmp_path / name}" for name in "ab"]
    with pytest.raises(ConfigError, match=r"there are 2: choose one with method\.expert=NAME"):
        merged(tmp_path / "out", [*named, "method=depth_upscaling"])
    deep = load_causal(
        merged(tmp_path / "out", [*named, "method=depth_upscaling", "method.expert=b", "method.layers=[1]"])
    )
    other = load_causal(tmp_path / "b")
    found, expected = deep.model.layers[0].state_dict(), other.model.layers[1].state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_base_is_a_model_of_the_pool_too(tmp_path):
    for seed, name in enumerate("ab"):
        save_causal(tmp_path / name, layers=2, seed=seed)
    named = [f"base={tmp_path / 'a'}", f"experts.m={tmp_path / 'b'}", "method=depth_upscaling", "method.expert=base"]
    out = merged(tmp_path / "out", [*named, "method.layers=[0,1,1]"])
    same = load_causal(merged(tmp_path / "same", [f"experts.m={tmp_path / 'a'}", *named[2:3], "method.layers=[0,1,1]"]))
    assert torch.equal(logits(load_causal(out)), logits(same))
    with pytest.raises(ConfigError, match="there is no expert 'base'"):
        merged(tmp_path / "more", [f"experts.m={tmp_path / 'b'}", *named[2:]])


def test_layers_that_are_not_there_are_refused_and_nothing_is_written(tmp_path):
    save_causal(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"'range\(2,5\)' is beyond the model's layers, 0 to 3"):
        merged(
            tmp_path / "out",
            [f"experts.m={tmp_path / 'model'}", "method=depth_upscaling", 'method.layers=["range(2,5)"]'],
        )
    assert not (tmp_path / "out").exists()


def test_a_model_of_two_towers_is_refused(tmp_path):
    from tiny_clip import make_clip

    make_clip(tmp_path / "clip", seed=0)
    with pytest.raises(ConfigError, match="one stack of numbered layers"):
        merged(tmp_path / "out", [f"experts.m={tmp_path / 'clip'}", "method=depth_upscaling"])


def test_no_torch_is_needed(tmp_path: Path) -> None:
    save_causal(tmp_path / "model", layers=2)
    code = (
        "import sys\nfrom fusionbench.compat import load_stages\nfrom fusionbench.stages import merge_stages\n"
        f"from pathlib import Path\nstages = load_stages(None, ['experts.m={tmp_path / 'model'}', "
        f"'method=depth_upscaling', 'runtime.threads=1'])\nmerge_stages(stages, Path('{tmp_path / 'out'}'))\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert load_causal(tmp_path / "out").config.num_hidden_layers == 4
