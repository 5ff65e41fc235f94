"""An adapter on a base is the model that PEFT itself makes of the two; and (IA)³ merges in its own space."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, LlamaModel

from checkpoints import read_model, save_model
from fusionbench import fuse
from fusionbench.config import Recipe
from fusionbench.errors import CheckpointError, ConfigError, IncompatibleModels, NotFinite
from fusionbench.merge import merge, open_pool, plan_of_recipe
from fusionbench.weights.adapters import AdaptedSource, is_adapter, open_adapter
from fusionbench.weights.headers import NUMPY
from fusionbench.weights.sources import open_source


def llama(**changes) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1, **changes))


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=16, **ends))


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv1d(6, 4, 1)


def adapt(folder: Path, model: nn.Module, config, seed: int = 1) -> dict[str, torch.Tensor]:
    """Save a base and an adapter with random numbers; return what PEFT's own merge makes of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not (folder / "base").exists():
            if hasattr(model, "save_pretrained"):
                model.save_pretrained(folder / "base")
            else:
                save_model(folder / "base", model.state_dict())
        adapted = get_peft_model(model, config)
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator) * 0.3
                positive = "magnitude" in name or "ia3" in name
                parameter.data = parameter.data + (noise.abs() if positive else noise)
        adapted.save_pretrained(folder / f"adapter{seed}")
        merged = adapted.merge_and_unload()
    (folder / f"merged{seed}").mkdir()
    weights = {name: tensor.contiguous() for name, tensor in merged.state_dict().items()}
    save_model(folder / f"merged{seed}", {name: weights[name].clone() for name in open_source(folder / "base").specs})
    return weights


def opened(folder: Path, space=None, seed: int = 1) -> AdaptedSource:
    return open_adapter(folder / f"adapter{seed}", open_source(folder / "base"), space)


def values(source, name: str) -> np.ndarray:
    spec = source.specs[name]
    return np.frombuffer(source.read(name), NUMPY[spec.dtype]).reshape(spec.shape)


def edit_config(folder: Path, **changes) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
GPT2_ALL = ["c_attn", "c_proj", "c_fc"]
CASES = {
    "lora": (llama, LoraConfig(r=4, lora_alpha=6, target_modules=ALL)),
    "rank-stabilised": (llama, LoraConfig(r=4, lora_alpha=6, target_modules=ALL, use_rslora=True)),
    "ranks and alphas by pattern": (
        llama,
        LoraConfig(r=4, target_modules=ALL, rank_pattern={"q_proj": 2, r"layers\.1\.mlp\..*": 3},
                   alpha_pattern={"q_proj": 5, "layers.0.self_attn.v_proj": 7}),
    ),
    "conv1d, of which some are square": (gpt2, LoraConfig(r=4, target_modules=GPT2_ALL, fan_in_fan_out=True)),
    "every bias": (gpt2, LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True, bias="all")),
    "biases of targets": (gpt2, LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True, bias="lora_only")),
    "bias of B": (gpt2, LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True, lora_bias=True)),
    "modules saved whole": (llama, LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head", "norm"])),
    "embedding": (llama, LoraConfig(r=4, target_modules=["embed_tokens", "lm_head", "q_proj"])),
    "dora": (llama, LoraConfig(r=4, target_modules=ALL, use_dora=True)),
    "dora of conv1d": (gpt2, LoraConfig(r=4, target_modules=GPT2_ALL, fan_in_fan_out=True, use_dora=True)),
    "dora of an embedding": (llama, LoraConfig(r=4, target_modules=["embed_tokens"], use_dora=True)),
    "convolutions": (Convolutions, LoraConfig(r=2, target_modules=["first", "second"])),
    "dora of convolutions": (Convolutions, LoraConfig(r=2, target_modules=["first", "second"], use_dora=True)),
}  # fmt: skip
IA3_CASES = {
    "ia3": (llama, IA3Config(target_modules=["k_proj", "o_proj", "down_proj"], feedforward_modules=["down_proj"])),
    "ia3 of conv1d": (
        gpt2,
        IA3Config(target_modules=["c_attn", "mlp.c_proj", "attn.c_proj"], feedforward_modules=["mlp.c_proj"],
                  fan_in_fan_out=True),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", [*CASES, *IA3_CASES])
@pytest.mark.parametrize("tile", [1 << 17, 37], ids=["one panel", "many panels"])
def test_base_and_adapter_are_what_peft_makes_of_them(tmp_path, monkeypatch, case, tile):
    monkeypatch.setattr("fusionbench.weights.adapters.dense.TILE", tile)
    make, config = (CASES | IA3_CASES)[case]
    expected = adapt(tmp_path, make(), config)
    source = opened(tmp_path, "dense")
    base = open_source(tmp_path / "base")
    assert set(source.specs) == set(base.specs)
    changed = {name for name in source.specs if not np.array_equal(values(source, name), values(base, name))}
    assert changed
    for name in source.specs:
        np.testing.assert_allclose(values(source, name), expected[name].numpy(), atol=1e-6, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("case", ["lora", "dora of conv1d", "convolutions"])
def test_values_do_not_depend_on_how_a_tensor_is_cut(tmp_path, monkeypatch, case):
    monkeypatch.setattr("fusionbench.weights.adapters.dense.TILE", 37)
    adapt(tmp_path, CASES[case][0](), CASES[case][1])
    source, other = opened(tmp_path), opened(tmp_path)
    for name, spec in source.specs.items():
        whole = bytes(source.read(name))
        for step in (1 + spec.size // 3, 29):
            places = range(0, spec.size, step)
            parts = {start: bytes(other.read(name, start, min(start + step, spec.size))) for start in reversed(places)}
            assert b"".join(parts[start] for start in places) == whole


def test_what_is_added_to_bfloat16_is_not_rounded_to_it(tmp_path):
    weight = torch.tensor([[1.0, 2.0], [4.0, 8.0]], dtype=torch.bfloat16)
    base = save_model(tmp_path / "base", {"w.weight": weight, "n.weight": weight})
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    factors = {"A": torch.tensor([[0.001, 0.0]]), "B": torch.tensor([[1.0], [2.0]])}
    save_file(
        {f"base_model.model.w.lora_{f}.weight": v for f, v in factors.items()}, adapter / "adapter_model.safetensors"
    )
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 3}))
    source = open_adapter(adapter, open_source(base))
    assert (source.specs["w.weight"].dtype, source.specs["n.weight"].dtype) == ("F32", "BF16")
    np.testing.assert_array_equal(values(source, "w.weight"), np.float32([[1.003, 2.0], [4.006, 8.0]]))


def test_an_adapter_of_the_whole_model_fits_a_base_that_was_saved_without_the_head(tmp_path):
    model = llama()
    expected = adapt(tmp_path, model, LoraConfig(r=4, target_modules=ALL))
    inner = LlamaModel(llama().config)
    inner.load_state_dict(llama().model.state_dict())
    inner.save_pretrained(tmp_path / "inner")
    source = open_adapter(tmp_path / "adapter1", open_source(tmp_path / "inner"))
    name = "layers.1.mlp.up_proj.weight"
    np.testing.assert_allclose(values(source, name), expected[f"model.{name}"].numpy(), atol=1e-6)


def recipe(folder: Path, *overrides: str, method: str = "task_arithmetic", experts: str = "adapter") -> Recipe:
    named = [f"experts.e{seed}={folder / f'{experts}{seed}'}" for seed in (1, 2)]
    return Recipe.load(None, [f"base={folder / 'base'}", *named, f"method={method}", "runtime.threads=1", *overrides])


@pytest.fixture
def two(tmp_path) -> Path:
    for seed in (1, 2):
        adapt(tmp_path, llama(), LoraConfig(r=4 * seed, target_modules=ALL), seed)
    return tmp_path


@pytest.mark.parametrize(("method", "scale"), [("task_arithmetic", 0.3), ("ties", 0.7), ("simple_average", None)])
def test_lora_experts_merge_to_what_their_dense_models_merge_to(two, method, scale):
    extra = [] if scale is None else [f"method.scale={scale}"]
    merge(recipe(two, *extra, method=method), two / "ours")
    merge(recipe(two, *extra, method=method, experts="merged"), two / "dense")
    ours, dense = read_model(two / "ours"), read_model(two / "dense")
    assert set(ours) == set(dense)
    for name, tensor in dense.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-6, rtol=1e-5)
    assert {path.name for path in (two / "ours").iterdir()} == {path.name for path in (two / "base").iterdir()}


def test_a_model_and_an_adapter_named_apart_are_one_expert(two):
    apart = [f"experts.e{seed}={{model: {two / 'base'}, adapter: {two / f'adapter{seed}'}}}" for seed in (1, 2)]
    merge(Recipe.load(None, [f"base={two / 'base'}", *apart, "method=task_arithmetic"]), two / "apart")
    merge(recipe(two), two / "bare")
    ours, bare = read_model(two / "apart"), read_model(two / "bare")
    assert all(torch.equal(ours[name], bare[name]) for name in bare)


def test_without_a_base_in_the_recipe_the_model_of_the_adapter_is_the_base(two):
    for seed in (1, 2):
        edit_config(two / f"adapter{seed}", base_model_name_or_path=str(two / "base"))
    merge(recipe(two, "base=null"), two / "without")
    merge(recipe(two), two / "with")
    without, named = read_model(two / "without"), read_model(two / "with")
    assert all(torch.equal(without[name], named[name]) for name in named)


def test_python_takes_adapter_folders(two):
    pool = {"base": two / "base", "e1": two / "adapter1", "e2": two / "adapter2"}
    merge(recipe(two, "method.scale=0.3"), two / "out")
    weights = fuse("task_arithmetic", pool, scale=0.3).weights
    assert all(torch.equal(weights[name], tensor) for name, tensor in read_model(two / "out").items())


def test_the_plan_says_that_changed_tensors_are_wider_than_a_narrow_base(two):
    narrow = {name: tensor.bfloat16() for name, tensor in read_model(two / "base").items()}
    save_model(two / "base", narrow)
    notes = plan_of_recipe(recipe(two), open_pool(recipe(two))).notes
    assert any("14 tensors are F32" in note for note in notes)


def test_fingerprints_tell_adapters_and_their_scales_apart(two):
    marks = {opened(two).fingerprint(), opened(two, seed=2).fingerprint(), open_source(two / "base").fingerprint()}
    edit_config(two / "adapter1", lora_alpha=99)
    assert len(marks | {opened(two).fingerprint()}) == 4
    edit_config(two / "adapter1", base_model_name_or_path="elsewhere", lora_alpha=8)
    assert opened(two).fingerprint() in marks


TORCH_FREE = """
import sys
from pathlib import Path
from fusionbench.config import Recipe
from fusionbench.merge import merge
merge(Recipe.load(None, sys.argv[2:]), Path(sys.argv[1]))
assert not {"torch", "transformers", "peft"} & set(sys.modules)
"""


def test_adapters_are_merged_without_torch(two):
    experts = [f"experts.e{seed}={two / f'adapter{seed}'}" for seed in (1, 2)]
    arguments = [str(two / "out"), f"base={two / 'base'}", *experts, "method=ties"]
    subprocess.run([sys.executable, "-c", TORCH_FREE, *arguments], check=True)
    assert (two / "out" / "model.safetensors").is_file()


@pytest.fixture
def vectors(tmp_path) -> Path:
    for seed in (1, 2):
        adapt(tmp_path, *(part() if callable(part) else part for part in IA3_CASES["ia3 of conv1d"]), seed)
    return tmp_path


def test_ia3_vectors_are_merged_around_ones_into_an_adapter_that_peft_loads(vectors):
    merge(recipe(vectors, "space=adapter", "method.scale=0.5"), vectors / "out")
    one, two = (load_file(vectors / f"adapter{seed}" / "adapter_model.safetensors") for seed in (1, 2))
    merged = load_file(vectors / "out" / "adapter_model.safetensors")
    assert set(merged) == set(one)
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, 1 + 0.5 * (one[name] - 1 + two[name] - 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(gpt2(), vectors / "out")
    loaded = {name.replace(".default", ""): tensor for name, tensor in model.state_dict().items() if "ia3_l" in name}
    assert set(loaded) == set(merged)
    assert all(torch.equal(loaded[name], merged[name]) for name in merged)


def test_ia3_vectors_of_any_float_kind_begin_at_one(vectors):
    file = vectors / "adapter1" / "adapter_model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(file).items()}, file)
    merge(recipe(vectors, "space=adapter", "method.scale=0"), vectors / "out")
    merged = load_file(vectors / "out" / "adapter_model.safetensors")
    assert all(tensor.dtype == torch.bfloat16 and bool((tensor == 1).all()) for tensor in merged.values())


def test_what_an_ia3_adapter_holds_whole_begins_as_the_models(tmp_path):
    config = IA3Config(target_modules=["k_proj"], feedforward_modules=[], modules_to_save=["lm_head"])
    for seed in (1, 2):
        adapt(tmp_path, llama(), config, seed)
    merge(recipe(tmp_path, "space=adapter", "method.scale=0"), tmp_path / "out")
    merged = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert torch.equal(merged["base_model.model.lm_head.weight"], read_model(tmp_path / "base")["lm_head.weight"])
    with pytest.raises(ConfigError, match=r"lm_head\.weight whole. Name the pretrained model"):
        open_pool(recipe(tmp_path, "space=adapter", "base=null"))


def test_ia3_asks_for_its_space(vectors):
    with pytest.raises(ConfigError, match=r"space=adapter merges the vectors.*space=dense merges the weights"):
        open_pool(recipe(vectors))
    assert isinstance(open_pool(recipe(vectors, "space=dense")).experts["e1"], AdaptedSource)


def test_lora_is_not_merged_in_its_own_space(two):
    with pytest.raises(ConfigError, match=r"adapter1 is a LoRA adapter.*mean of B times the mean of A is not"):
        open_pool(recipe(two, "space=adapter"))


def test_whole_models_have_no_adapter_space(two):
    with pytest.raises(ConfigError, match="no adapters are e1, e2"):
        open_pool(recipe(two, "space=adapter", experts="merged"))


def test_a_folder_with_a_whole_model_beside_the_adapter_is_that_model(two):
    assert is_adapter(two / "adapter1")
    assert not is_adapter(two / "base")
    save_model(two / "adapter1", {"w": torch.ones(1)})
    assert not is_adapter(two / "adapter1")


def test_an_adapter_for_another_base_is_refused_with_every_difference(two):
    weights = read_model(two / "base")
    del weights["model.layers.0.mlp.up_proj.weight"]
    weights["model.layers.1.self_attn.q_proj.weight"] = torch.ones(7, 16)
    weights["model.layers.1.self_attn.k_proj.weight"] = torch.ones(8, 16, dtype=torch.int8)
    save_model(two / "other", weights)
    edit_config(two / "adapter1", base_model_name_or_path="org/right")
    with pytest.raises(IncompatibleModels) as caught:
        open_adapter(two / "adapter1", open_source(two / "other"))
    message = str(caught.value)
    assert "(3 differences)" in message
    assert "layers.0.mlp.up_proj.weight is adapted, the base has no such tensor" in message
    assert (
        "layers.1.self_attn.q_proj.weight is [7, 16] in the base, the adapter is made for B [16, 4] · A [4, 16]"
        in message
    )
    assert "layers.1.self_attn.k_proj.weight holds I8" in message
    assert "org/right" in message


def test_ranks_other_than_the_configuration_says_are_refused(two):
    edit_config(two / "adapter1", r=3)
    with pytest.raises(IncompatibleModels, match="adapted at rank 4, its configuration says 3"):
        opened(two)


def test_an_adapter_that_lost_a_factor_is_refused(two):
    file = two / "adapter1" / "adapter_model.safetensors"
    tensors = load_file(file)
    del tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"]
    save_file(tensors, file)
    with pytest.raises(IncompatibleModels, match=r"layers\.0\.self_attn\.q_proj\.weight has one of A and B"):
        opened(two)


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=4, target_modules=["embed_tokens"]),
        LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"]),
    ],
    ids=["low rank", "saved whole"],
)
def test_a_tied_embedding_that_is_changed_on_one_side_is_refused(tmp_path, config):
    adapt(tmp_path, llama(tie_word_embeddings=True), config)
    with pytest.raises(IncompatibleModels, match=r"embed_tokens\.weight is tied"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"peft_type": "VERA"}, "of the kind 'VERA'"),
        ({"init_lora_weights": "pissa_niter_4"}, "changing the base's own weights"),
        ({"trainable_token_indices": [1]}, "rows of the embedding"),
        ({"target_parameters": ["experts.gate"]}, "bare parameters"),
        ({"use_new_variant": True}, "use_new_variant: not known here"),
        ({"use_dora": True, "lora_bias": True}, "how the magnitude acts"),
    ],
)
def test_adapters_that_are_more_than_base_and_update_are_refused_with_the_fix(two, changes, reason):
    edit_config(two / "adapter1", **changes)
    with pytest.raises(CheckpointError, match=reason) as caught:
        opened(two)
    assert "merge_and_unload" in str(caught.value)


def test_tensors_of_an_unknown_variant_are_refused(two):
    file = two / "adapter1" / "adapter_model.safetensors"
    save_file(load_file(file) | {"base_model.model.model.norm.lora_C.weight": torch.ones(2)}, file)
    with pytest.raises(CheckpointError, match=r"norm\.lora_C\.weight"):
        opened(two)


def test_a_folder_that_lacks_a_part_is_refused(two):
    with pytest.raises(CheckpointError, match=r"is no adapter: it has no adapter_config\.json"):
        open_adapter(two / "base")
    edit_config(two / "adapter1", base_model_name_or_path=None)
    with pytest.raises(ConfigError, match="does not name its model"):
        open_adapter(two / "adapter1")
    (two / "adapter1" / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no|no adapter_model\.safetensors"):
        opened(two)
    (two / "adapter1" / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        opened(two)


def test_a_nan_in_an_adapter_is_found_and_named(two):
    file = two / "adapter2" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"][0, 0] = torch.nan
    save_file(tensors, file)
    with pytest.raises(NotFinite, match=r"adapter2.*q_proj|q_proj.*adapter2"):
        merge(recipe(two), two / "out")
    assert not (two / "out").exists()


def test_an_adapter_in_torchs_own_format_is_read_too(two):
    file = two / "adapter1" / "adapter_model.safetensors"
    expected = bytes(opened(two).read("model.layers.0.mlp.up_proj.weight"))
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    assert bytes(opened(two).read("model.layers.0.mlp.up_proj.weight")) == expected
