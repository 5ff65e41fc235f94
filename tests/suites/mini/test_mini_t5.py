"""`mini/t5` and `mini/t5_lora` at a size of their own, built in seconds; what `tiny` shows is a slow test."""

import json
from pathlib import Path

import pytest

from fusionbench.errors import ConfigError
from fusionbench.families import load_module
from fusionbench.finetune.tune import score
from fusionbench.registry import suites
from fusionbench.suites import load_suite
from fusionbench.suites.mini import t5
from fusionbench.suites.mini.t5_recipe import MiniT5AdapterRecipe, MiniT5Recipe, lora_recipes, recipes
from fusionbench.suites.tasks import open_tasks
from fusionbench.suites.texts import KINDS
from fusionbench.weights.adapters import open_adapter
from fusionbench.weights.sources import open_source

NAMES = ("inference", "similarity")
STEPS = {"steps": 3, "batch": 4, "learning_rate": 1e-2}
MICRO = MiniT5Recipe.read(
    {
        "texts": {"tasks": NAMES, "train": 24, "validation": 6, "test": 12},
        "network": {"width": 16, "depth": 1, "heads": 2, "feedforward": 16},
        "pretraining": {"steps": 4, "batch": 8, "warmup": 2},
        "experts": STEPS,
        "mtl": STEPS,
    }
)
ADAPTED = {**STEPS, "adapter": {"r": 2, "dropout": 0.0}}
MICRO_LORA = MiniT5AdapterRecipe.read({"base_size": "micro", "experts": ADAPTED, "mtl": ADAPTED})


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Both suites of size micro."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSIONBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(t5, "recipes", lambda: ({"micro": MICRO}, {"ties": {"density": 0.3}}))
        patch.setattr(t5, "lora_recipes", lambda: ({"micro": MICRO_LORA}, {}))
        yield {name: load_suite(name, size="micro") for name in ("mini/t5", "mini/t5_lora")}


def folder_of(resolved) -> Path:
    return Path(resolved.suite.pool.base).parent


def test_both_are_listed_with_a_summary_and_their_sizes():
    assert suites["mini/t5"].summary.startswith("Eight generated tasks in GLUE's columns")
    assert "LoRA experts" in suites["mini/t5_lora"].summary
    assert set(recipes()[0]) == set(lora_recipes()[0]) == {"tiny", "small", "large"}


def test_small_and_large_have_all_eight_tasks_and_two_sizes_of_the_model():
    sizes, _ = recipes()
    assert sizes["small"].texts.tasks == sizes["large"].texts.tasks == tuple(KINDS)
    assert sizes["small"].network.width < sizes["large"].network.width


def test_the_lora_experts_have_the_papers_rank_and_scale():
    for recipe in lora_recipes()[0].values():
        assert (recipe.experts.adapter.r, recipe.experts.adapter.alpha) == (16, 32)


def test_each_task_asks_by_the_papers_prompt_and_scores_what_glue_scores(built):
    tasks = open_tasks(built["mini/t5"].suite)
    assert list(tasks) == list(NAMES)
    assert tasks["inference"].prompt.targets == ("entailment", "neutral", "contradiction")
    assert [metric.name for metric in tasks["inference"].metrics] == ["accuracy"]
    assert [metric.name for metric in tasks["similarity"].metrics] == ["spearman", "accuracy"]
    batch = next(tasks["inference"].batches("test", size=1))
    (text,) = tasks["inference"].codec.decode(batch["input_ids"].tolist())
    assert text.startswith("Does the premise: 'the ")
    assert text.endswith("'? Answere with 'entailment', 'contradiction', or 'neutral'.")


def test_plain_transformers_loads_base_and_experts(built):
    from transformers import AutoTokenizer, T5ForConditionalGeneration

    suite = built["mini/t5"].suite
    tokenizer = AutoTokenizer.from_pretrained(suite.pool.base)
    for reference in (suite.pool.base, suite.pool.experts["inference"].model, suite.pool.mtl):
        module = T5ForConditionalGeneration.from_pretrained(reference)
        assert module.config.vocab_size == len(tokenizer)
        assert module.config.is_gated_act


def test_the_manifests_scores_can_be_measured_again(built):
    for resolved in built.values():
        manifest = json.loads((folder_of(resolved) / "manifest.json").read_text())
        base = open_source(resolved.suite.pool.base)
        task = open_tasks(resolved.suite, ("inference",), base=base)["inference"]
        assert score(load_module(task.family, base), task, "test") == manifest["scores"]["pretrained"]["inference"]
        assert set(manifest["scores"]["individual"]) == set(NAMES)


def test_the_lora_suite_has_the_same_texts_and_base_and_adapters_on_it(built):
    full, lora = (folder_of(built[name]) for name in ("mini/t5", "mini/t5_lora"))
    for path in ("data/inference/test.jsonl", "base/model.safetensors", "base/tokenizer.json"):
        assert (full / path).read_bytes() == (lora / path).read_bytes()
    expert = built["mini/t5_lora"].suite.pool.experts["inference"]
    assert Path(expert.model) == lora / "base"
    source = open_adapter(expert.adapter, open_source(expert.model))
    base = open_source(expert.model)
    changed = {name for name in base.specs if bytes(source.read(name)) != bytes(base.read(name))}
    assert {name.split(".")[-2] for name in changed} == {"q", "v"}


def test_reports_are_told_that_the_texts_are_generated(built):
    assert "generated by code" in built["mini/t5"].notes[0]


def test_method_defaults_are_the_suites(built):
    assert built["mini/t5"].suite.method_defaults == {"ties": {"density": 0.3}}


def test_another_base_is_another_build_of_the_lora_suite(built, monkeypatch, tmp_path):
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path))
    network = MICRO.network.model_copy(update={"feedforward": 24})
    monkeypatch.setattr(t5, "recipes", lambda: ({"micro": MICRO.model_copy(update={"network": network})}, {}))
    monkeypatch.setattr(t5, "lora_recipes", lambda: ({"micro": MICRO_LORA}, {}))
    other = load_suite("mini/t5_lora", size="micro")
    assert folder_of(other).name != folder_of(built["mini/t5_lora"]).name


@pytest.mark.parametrize("name", ["mini/t5", "mini/t5_lora"])
def test_an_unknown_size_is_refused_with_the_known_ones(built, name):
    with pytest.raises(ConfigError, match=rf"{name} has no size 'mikro'. Did you mean micro"):
        load_suite(name, size="mikro")
