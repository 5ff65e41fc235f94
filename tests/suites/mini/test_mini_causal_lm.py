"""`mini/causal_lm` at a size of its own, built in seconds; what `tiny` shows is a slow test."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fusionbench.errors import ConfigError
from fusionbench.families import load_module
from fusionbench.finetune.tune import score
from fusionbench.registry import suites
from fusionbench.suites import load_suite
from fusionbench.suites.mini import causal_lm
from fusionbench.suites.mini.causal_lm_recipe import MiniCausalLmRecipe, recipes
from fusionbench.suites.mini.causal_lm_texts import GROUPS, MADE, all_texts, answer, documents, question
from fusionbench.suites.mini.t5_words import END, make_tokenizer, vocabulary
from fusionbench.suites.tasks import open_tasks
from fusionbench.suites.texts import records_of
from fusionbench.weights.sources import open_source
from tiny_causal_lm import MICRO

EXPERTS = ("categories", "arithmetic", "sentiment")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSIONBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(
            causal_lm, "recipes", lambda: ({"micro": MiniCausalLmRecipe.read(MICRO)}, {"ties": {"scale": 0.3}})
        )
        yield load_suite("mini/causal_lm", size="micro")


@pytest.fixture(scope="module")
def records():
    return {name: records_of(kind, seed=0, train=66, validation=6, test=6)["train"] for name, kind in MADE.items()}


def folder_of(resolved) -> Path:
    return Path(resolved.suite.pool.base).parent


def test_it_is_listed_with_a_summary_and_its_sizes():
    assert suites["mini/causal_lm"].summary.startswith("Choices, written answers and perplexity")
    assert set(recipes()[0]) == {"tiny", "small", "large"}
    for recipe in recipes()[0].values():
        assert recipe.network.key_value_heads < recipe.network.heads


def test_the_words_of_a_category_are_its_own_and_the_others_are_not(records):
    for record in records["categories"]:
        words = [record[column] for column in ("first", "second", "third")]
        assert [word in GROUPS[record["kind"]] for word in words] == [place == record["label"] for place in range(3)]
    assert sorted(Counter(record["label"] for record in records["categories"]).values()) == [22, 22, 22]


def test_the_sum_of_the_numbers_in_a_story_is_its_label(records):
    for record in records["arithmetic"]:
        assert sum(int(word) for word in record["story"].split() if word.isdigit()) == record["label"]
    assert {record["label"] for record in records["arithmetic"]} == set(range(11))


def test_documents_have_the_right_answer_as_often_as_asked_and_language_has_none(records):
    asked = {name: records[name] for name in EXPERTS}
    right = [f"{question(task, one)} {answer(task, one, one['label'])}" for task in asked for one in asked[task]]
    assert list(documents(asked, 1.0, np.random.default_rng(0))) == right
    wrong = list(documents(asked, 0.0, np.random.default_rng(0)))
    assert not set(wrong) & set(right)
    half = list(documents(asked, 0.5, np.random.default_rng(0)))
    assert 70 < sum(one == other for one, other in zip(half, right, strict=True)) < 128
    plain = {"language": records["language"]}
    assert list(documents(plain, 0.0, np.random.default_rng(0))) == [one["text"] for one in records["language"]]


def test_the_tokenizer_knows_every_word_and_begins_each_text_with_the_end_of_the_last(records):
    tokenizer = make_tokenizer(vocabulary(all_texts(records), ()), "</s> $A")
    texts = list(documents(records, 0.0, np.random.default_rng(1)))
    tokens = tokenizer(texts)["input_ids"]
    assert all(line[0] == END and line.count(END) == 1 and tokenizer.unk_token_id not in line for line in tokens)
    assert tokenizer.batch_decode(tokens, skip_special_tokens=True) == texts
    assert max(map(len, tokens)) < 80


def test_there_are_three_experts_and_four_kinds_of_task(built):
    assert built.suite.seen == EXPERTS
    assert built.suite.unseen == ("language",)
    tasks = open_tasks(built.suite)
    assert [type(task).__name__ for task in tasks.values()] == [
        "ChoiceTask", "TextToTextTask", "TextToTextTask", "PerplexityTask",
    ]  # fmt: skip
    assert [task.metrics[0].name for task in tasks.values()] == ["accuracy"] * 3 + ["perplexity"]


def test_questions_and_answers_are_those_of_the_pretraining(built):
    for name, task in open_tasks(built.suite, EXPERTS).items():
        first = json.loads((folder_of(built) / f"data/{name}/test.jsonl").read_text().splitlines()[0])
        (batch,) = task.batches("test", size=1, limit=1)
        asked, said = batch["input_ids"], batch["labels"]
        if name == "categories":
            asked, said = asked[0], batch["choices"][0, 0, batch["labels"]]
        assert task.codec.decode(asked.tolist()) == [question(name, first)]
        assert task.codec.decode(said.tolist()) == [answer(name, first, first["label"])]


def test_plain_transformers_loads_base_and_experts(built):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(built.suite.pool.base)
    for reference in (built.suite.pool.base, built.suite.pool.experts["arithmetic"].model, built.suite.pool.mtl):
        module = AutoModelForCausalLM.from_pretrained(reference)
        assert module.config.model_type == "llama"
        assert module.config.vocab_size == len(tokenizer)
        assert module.config.eos_token_id == tokenizer.eos_token_id
        assert module.lm_head.weight is module.model.embed_tokens.weight


def test_the_manifests_scores_can_be_measured_again(built):
    scores = json.loads((folder_of(built) / "manifest.json").read_text())["scores"]
    base = open_source(built.suite.pool.base)
    task = open_tasks(built.suite, ("language",), base=base)["language"]
    assert score(load_module(task.family, base), task, "test") == scores["pretrained"]["language"]
    assert set(scores["individual"]) == set(scores["traditional_mtl"]) == set(EXPERTS)


def test_reports_are_told_that_the_texts_are_generated_and_defaults_are_the_suites(built):
    assert "generated by code" in built.notes[0]
    assert built.suite.method_defaults == {"ties": {"scale": 0.3}}


def test_an_unknown_size_is_refused_with_the_known_ones(built):
    with pytest.raises(ConfigError, match=r"mini/causal_lm has no size 'mikro'. Did you mean micro"):
        load_suite("mini/causal_lm", size="mikro")
