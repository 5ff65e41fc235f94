"""Adapters that are trained here, against PEFT's own reading of their folders, and against their definitions."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from test_tune import make_task
from torch import nn
from torch.func import functional_call, jvp

from fusionbench.errors import ConfigError, IncompatibleModels, Interrupted
from fusionbench.families import family_named, load_module
from fusionbench.finetune.adapters import adapt, settled
from fusionbench.finetune.recipe import AdapterRecipe, FinetuneRecipe
from fusionbench.finetune.tune import finetune, score
from fusionbench.tasks.prompts import Prompt
from fusionbench.tasks.seq2seq import TextToTextTask
from fusionbench.tasks.table_data import from_rows
from fusionbench.weights.adapters import open_adapter
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights

ADAPTER = AdapterRecipe(r=4, alpha=6, dropout=0.0)
RECIPE = FinetuneRecipe(steps=5, batch=6, learning_rate=1e-2, seed=3)
SENTENCES = ("good film", "bad day", "a good good day", "bad bad film a day", "day good", "bad")
KINDS = ("lora", "l_lora", "ia3")


def recipe_of(tuning: str) -> FinetuneRecipe:
    return RECIPE if tuning == "ia3" else RECIPE.model_copy(update={"adapter": ADAPTER})


@pytest.fixture
def words(cache, t5_folder) -> TextToTextTask:
    rows = [{"sentence": text, "label": int("good" in text)} for text in SENTENCES]
    family, split = family_named("t5"), from_rows(rows)
    prompt = Prompt(template="Given the sentence {sentence} , determine sentiment", targets=("negative", "positive"))
    data = {"train": split, "validation": split, "test": split}
    return TextToTextTask("words", family, family.text_codec(open_source(t5_folder)), prompt, data)


@pytest.fixture
def cats(cache, clip_folder):
    return make_task(clip_folder, "cats", ("cat", "dog"), 10)


@pytest.fixture(params=["clip", "t5"])
def case(request, clip_folder, t5_folder):
    """A base and a task for it."""
    if request.param == "clip":
        return clip_folder, request.getfixturevalue("cats")
    return t5_folder, request.getfixturevalue("words")


def loaded_by_peft(base: Path, adapter: Path) -> nn.Module:
    from transformers import CLIPModel, T5ForConditionalGeneration

    kind = T5ForConditionalGeneration if open_source(base).config["model_type"] == "t5" else CLIPModel
    with warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5.23 by a name that it has deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        return PeftModel.from_pretrained(kind.from_pretrained(base), adapter).eval()


@pytest.mark.parametrize("tuning", KINDS)
def test_peft_loads_the_folder_and_computes_what_base_plus_adapter_computes_here(tmp_path, case, tuning):
    base, task = case
    record = finetune(base, {task.name: task}, tmp_path / "expert", recipe_of(tuning), tuning=tuning)
    theirs = loaded_by_peft(base, tmp_path / "expert")
    source = open_adapter(tmp_path / "expert", open_source(base), "dense")
    ours = load_module(task.family, source)
    (batch,) = task.batches("test", size=100)
    with torch.no_grad():
        merged = task.bind(theirs.base_model.model)(batch)
        torch.testing.assert_close(task.bind(ours)(batch), merged, atol=1e-4, rtol=1e-4)
        plain = task.bind(load_module(task.family, open_source(base)))(batch)
    assert not torch.allclose(plain, merged, atol=1e-3)
    assert score(ours, task, "test") == pytest.approx(record["scores"][task.name]["test"])


@pytest.mark.parametrize("tuning", KINDS)
def test_only_the_targets_of_the_tower_change(tmp_path, case, tuning):
    base, task = case
    finetune(base, {task.name: task}, tmp_path / "expert", recipe_of(tuning), tuning=tuning)
    before = LazyWeights(open_source(base))
    after = LazyWeights(open_adapter(tmp_path / "expert", open_source(base), "dense"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    ends = {
        ("clip", "ia3"): ("k_proj", "v_proj", "fc2"),
        ("t5", "ia3"): (".k", ".v", ".wo"),
        ("clip", "lora"): ("q_proj", "v_proj"),
        ("t5", "lora"): (".q", ".v"),
    }[task.family.name, "ia3" if tuning == "ia3" else "lora"]
    wanted = {
        name
        for name in before
        if name.startswith(task.family.tower) and name.rpartition(".")[0].endswith(ends) and not name.endswith("bias")
    }
    assert {name for name in changed if not name.endswith("bias")} == wanted
    assert all(name.removesuffix("bias") + "weight" in wanted for name in changed if name.endswith("bias"))


def test_the_folder_holds_an_adapter_in_pefts_format_and_its_record(tmp_path, t5_folder, words):
    record = finetune(t5_folder, {"words": words}, tmp_path / "expert", recipe_of("lora"), tuning="lora")
    names = {path.name for path in (tmp_path / "expert").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "fusionbench.json", "curve.jsonl"}
    config = json.loads((tmp_path / "expert/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 6.0, "LORA")
    assert config["target_modules"] == ["q", "v"]
    assert config["base_model_name_or_path"] == str(t5_folder)
    tensors = LazyWeights(open_source(tmp_path / "expert/adapter_model.safetensors"))
    name = "base_model.model.decoder.block.1.layer.1.EncDecAttention.v.lora_A.weight"
    assert tensors[name].shape == (4, 16)
    # encoder: 2 self-attentions, decoder: 2 self- and 2 cross-attentions; q and v of each; A and B
    assert len(tensors) == 6 * 2 * 2
    assert record["tuning"] == "lora"
    assert record["recipe"]["adapter"] == {
        "r": 4, "alpha": 6.0, "dropout": 0.0, "targets": None, "feedforward": None,
    }  # fmt: skip


@pytest.fixture
def layers(t5_folder):
    """The same map with a LoRA and a linearised one at their start, and inputs."""
    source, family = open_source(t5_folder), family_named("t5")
    found = []
    for tuning in ("lora", "l_lora"):
        module = load_module(family, source)
        adapt(module, family, source, tuning, ADAPTER, seed=0)
        found.append(module.encoder.block[0].layer[0].SelfAttention.q.eval())
    return (*found, torch.randn(3, 16, generator=torch.Generator().manual_seed(0)))


def test_linearised_lora_is_the_taylor_expansion_of_lora_at_its_start(layers):
    plain, linear, inputs = layers
    start = {name: parameter.detach() for name, parameter in plain.named_parameters()}
    assert all(torch.equal(start[name], parameter) for name, parameter in linear.named_parameters())
    generator = torch.Generator().manual_seed(1)
    moved = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in start.items() if "lora" in name}
    step = {name: moved.get(name, torch.zeros_like(tensor)) for name, tensor in start.items()}
    with warnings.catch_warnings():
        # What torch itself imports for the first jvp is deprecated there.
        warnings.simplefilter("ignore", DeprecationWarning)
        value, change = jvp(lambda given: functional_call(plain, given, (inputs,)), (start,), (step,))
    with torch.no_grad():
        for name, parameter in linear.named_parameters():
            if parameter.requires_grad:
                parameter += step[name]
        torch.testing.assert_close(linear(inputs), value + change)
        # Plain LoRA is not linear in what is trained: the same step leads elsewhere.
        for name, parameter in plain.named_parameters():
            parameter += step[name]
        assert not torch.allclose(plain(inputs), value + change, atol=1e-2)


def test_linearised_lora_trains_b_alone_and_lora_both(layers):
    plain, linear, _ = layers
    for layer, trained in ((plain, {"lora_A", "lora_B"}), (linear, {"lora_B"})):
        free = {name.partition(".")[0] for name, parameter in layer.named_parameters() if parameter.requires_grad}
        assert free == trained


def test_adapters_of_one_seed_start_alike_and_of_another_elsewhere(tmp_path, t5_folder, words):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        recipe = recipe_of("l_lora").model_copy(update={"seed": seed})
        finetune(t5_folder, {"words": words}, tmp_path / name, recipe, tuning="l_lora")
    a, b, c = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_merged_linearised_adapters_are_the_mean_of_their_changes(tmp_path, t5_folder, words):
    for name, rate in (("a", 1e-2), ("b", 3e-2)):
        recipe = recipe_of("l_lora").model_copy(update={"learning_rate": rate})
        finetune(t5_folder, {"words": words}, tmp_path / name, recipe, tuning="l_lora")
    held = [LazyWeights(open_source(tmp_path / name / "adapter_model.safetensors")) for name in "ab"]
    dense = [LazyWeights(open_adapter(tmp_path / name, open_source(t5_folder))) for name in "ab"]
    base = LazyWeights(open_source(t5_folder))
    place = "encoder.block.0.layer.0.SelfAttention.q"
    starts = [tensors[f"base_model.model.{place}.lora_A.weight"] for tensors in held]
    assert torch.equal(*starts)
    mean_of_b = sum(tensors[f"base_model.model.{place}.lora_B.weight"] for tensors in held) / 2
    merged = sum(tensors[f"{place}.weight"] for tensors in dense) / 2
    torch.testing.assert_close(merged - base[f"{place}.weight"], 6 / 4 * mean_of_b @ starts[0])


@pytest.mark.parametrize("tuning", KINDS)
def test_an_interrupted_training_goes_on_to_the_bits_of_an_unbroken_one(tmp_path, t5_folder, words, tuning):
    def stop_at_three(name: str, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    recipe = recipe_of(tuning)
    if tuning != "ia3":
        # Dropout draws random numbers, which have to go on too.
        recipe = recipe.model_copy(update={"adapter": ADAPTER.model_copy(update={"dropout": 0.3})})
    tasks = {"words": words}
    finetune(t5_folder, tasks, tmp_path / "whole", recipe, tuning=tuning)
    with pytest.raises(Interrupted, match="after step 3 of 5"):
        finetune(
            t5_folder, tasks, tmp_path / "broken", recipe, tuning=tuning, checkpoint_every=2, progress=stop_at_three
        )
    finetune(t5_folder, tasks, tmp_path / "broken", recipe, tuning=tuning, checkpoint_every=2)
    whole, broken = (tmp_path / name / "adapter_model.safetensors" for name in ("whole", "broken"))
    assert whole.read_bytes() == broken.read_bytes()


def test_several_tasks_share_one_adapter(tmp_path, t5_folder, words):
    from dataclasses import replace

    other = replace(words, name="other", prompt=Prompt(template="Is it {sentence}", targets=("no", "yes")))
    record = finetune(t5_folder, {"words": words, "other": other}, tmp_path / "mtl", recipe_of("lora"), tuning="lora")
    assert set(record["scores"]) == {"words", "other"}
    assert (tmp_path / "mtl/adapter_model.safetensors").is_file()


def test_named_targets_win_and_are_found_by_the_ends_of_names(tmp_path, t5_folder, words):
    recipe = RECIPE.model_copy(update={"adapter": AdapterRecipe(r=2, targets=("DenseReluDense.wi", "o"))})
    finetune(t5_folder, {"words": words}, tmp_path / "expert", recipe, tuning="lora")
    names = set(LazyWeights(open_source(tmp_path / "expert/adapter_model.safetensors")))
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in names} == {"wi", "o"}


def test_what_ia3_scales_of_a_feedforward_network_are_its_inputs(tmp_path, t5_folder, words):
    finetune(t5_folder, {"words": words}, tmp_path / "expert", RECIPE, tuning="ia3")
    tensors = LazyWeights(open_source(tmp_path / "expert/adapter_model.safetensors"))
    shapes = {name.split(".ia3_l")[0].rpartition(".")[2]: tuple(tensor.shape) for name, tensor in tensors.items()}
    # k and v: outputs (heads · d_kv = 16), wo: inputs (d_ff = 32)
    assert shapes == {"k": (16, 1), "v": (16, 1), "wo": (1, 32)}


@pytest.mark.parametrize(
    ("tuning", "adapter", "message"),
    [
        ("full", {"r": 4}, "tuning=full trains no adapter"),
        ("ia3", {"r": 4}, "tuning=ia3 has no r"),
        ("lora", {"feedforward": ["wo"]}, "tuning=lora has no feedforward"),
        ("lora", {"targets": ["q_proj"]}, "no linear map of the fused part is called 'q_proj'"),
        ("ia3", {"targets": ["k"], "feedforward": ["wo"]}, r"wo is not among the targets \['k'\]"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path, t5_folder, words, tuning, adapter, message):
    recipe = RECIPE.model_copy(update={"adapter": AdapterRecipe.read(adapter)})
    with pytest.raises(ConfigError, match=message):
        finetune(t5_folder, {"words": words}, tmp_path / "expert", recipe, tuning=tuning)
    assert not any(tmp_path.glob("expert*"))


def test_an_architecture_without_known_targets_asks_for_them(t5_folder):
    family, source = family_named("t5"), open_source(t5_folder)
    module = load_module(family, source)
    source.config["model_type"] = "nonesuch"
    with pytest.raises(ConfigError, match=r"'nonesuch' model is not known. Name them: recipe.adapter.targets"):
        adapt(module, family, source, "lora", ADAPTER, seed=0)


def test_the_adapter_of_a_recipe_without_one_is_the_papers():
    assert settled(RECIPE, "lora").adapter == AdapterRecipe(r=16, alpha=32, dropout=0.1)
    assert settled(RECIPE, "full") is RECIPE


def test_a_recipe_without_an_adapter_says_nothing_of_one():
    assert "adapter" not in RECIPE.model_dump()
    assert "adapter" not in json.loads(RECIPE.model_dump_json())
    spelled = recipe_of("lora")
    assert FinetuneRecipe.read(spelled.model_dump(mode="json")) == spelled


def test_an_adapter_of_another_base_is_refused(tmp_path, t5_folder, words):
    from tiny_t5 import make_t5

    finetune(t5_folder, {"words": words}, tmp_path / "expert", recipe_of("lora"), tuning="lora")
    make_t5(tmp_path / "same_shape", seed=1)
    with pytest.raises(IncompatibleModels, match=r"expert was trained on another model than .*same_shape"):
        open_adapter(tmp_path / "expert", open_source(tmp_path / "same_shape"))
    make_t5(tmp_path / "wider", d_model=24)
    with pytest.raises(IncompatibleModels, match="expert"):
        open_adapter(tmp_path / "expert", open_source(tmp_path / "wider"))
    (tmp_path / "expert/fusionbench.json").unlink()
    with pytest.raises(IncompatibleModels, match=r"does not fit .*wider"):
        open_adapter(tmp_path / "expert", open_source(tmp_path / "wider"))
