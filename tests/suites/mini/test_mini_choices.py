"""`mini/t5_choices` and `mini/ia3` at a size of their own, built in seconds; what `tiny` shows is a slow test."""

import json
from pathlib import Path

import numpy as np
import pytest

from fusionbench.errors import ConfigError
from fusionbench.families import load_module
from fusionbench.finetune.tune import score
from fusionbench.registry import suites
from fusionbench.suites import load_suite
from fusionbench.suites.mini import choices
from fusionbench.suites.mini.choices_recipe import IA3, TIES, ChoicesMixture, MiniChoicesRecipe, ia3_recipes, recipes
from fusionbench.suites.mini.t5_recipe import MiniT5AdapterRecipe
from fusionbench.suites.opening import open_suite
from fusionbench.suites.tasks import open_tasks
from fusionbench.suites.texts.choices import CHOICES
from fusionbench.tasks.wordings import wording_list
from fusionbench.weights.adapters import open_adapter_tensors
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights

NAMES = ("blank", "science", "consequence")
STEPS = {"steps": 3, "batch": 4, "learning_rate": 1e-2}
MICRO = MiniChoicesRecipe.read(
    {
        "texts": {"tasks": NAMES, "train": 24, "validation": 6, "test": 12},
        "network": {"width": 16, "depth": 1, "heads": 2, "feedforward": 16},
        "pretraining": {"steps": 4, "batch": 8, "warmup": 2, "bias_rate": 20},
        "experts": STEPS,
        "mtl": STEPS,
    }
)
MICRO_IA3 = MiniT5AdapterRecipe.read({"base_size": "micro", "experts": STEPS, "mtl": STEPS})


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Both suites of size micro."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSIONBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(choices, "recipes", lambda: ({"micro": MICRO}, {"ties": {"density": 0.3}}))
        patch.setattr(choices, "ia3_recipes", lambda: ({"micro": MICRO_IA3}, {}))
        yield {name: load_suite(name, size="micro") for name in ("mini/t5_choices", "mini/ia3")}


def folder_of(resolved) -> Path:
    return Path(resolved.suite.pool.base).parent


def test_both_are_listed_with_a_summary_and_their_sizes():
    assert suites["mini/t5_choices"].summary.startswith("Seven generated tasks of choices")
    assert "(IA)³ experts" in suites["mini/ia3"].summary
    assert set(recipes()[0]) == set(ia3_recipes()[0]) == {"tiny", "small", "large"}


def test_the_suites_have_the_shapes_of_the_papers_tables():
    assert [CHOICES[name].wordings for name in TIES] == [
        "paws", "qasc", "quartz", "story_cloze", "wiki_qa", "winogrande", "wsc",
    ]  # fmt: skip
    assert [CHOICES[name].wordings for name in IA3] == [
        "rte", "cb", "winogrande", "wic", "wsc", "copa", "hellaswag", "story_cloze", "anli", "anli", "anli",
    ]  # fmt: skip
    sizes, _ = recipes()
    assert set(sizes["small"].texts.tasks) == set(sizes["large"].texts.tasks) == {*TIES, *IA3}
    assert sizes["small"].network.width < sizes["large"].network.width


def test_each_suite_scores_its_own_tasks_in_the_papers_wordings(built):
    full, adapted = (open_tasks(built[name].suite) for name in ("mini/t5_choices", "mini/ia3"))
    assert list(full) == ["science", "blank"]
    assert list(adapted) == ["consequence", "blank"]
    assert full["science"].choices == 8
    assert full["blank"].wordings == wording_list("winogrande").wordings[:1]
    assert adapted["blank"].wordings == wording_list("winogrande").wordings[:3]


def test_no_word_of_a_question_or_an_answer_is_unknown_to_the_tokenizer(built):
    for name in ("mini/t5_choices", "mini/ia3"):
        for task in open_tasks(built[name].suite).values():
            unknown = task.codec.encode(["zebrafish"], 8)[0][0]
            for batch in task.batches("test", size=4):
                assert not (batch["input_ids"] == unknown).any()


def test_the_manifests_scores_can_be_measured_again(built):
    for resolved in built.values():
        manifest = json.loads((folder_of(resolved) / "manifest.json").read_text())
        base = open_source(resolved.suite.pool.base)
        task = open_tasks(resolved.suite, ("blank",), base=base)["blank"]
        assert score(load_module(task.family, base), task, "test") == manifest["scores"]["pretrained"]["blank"]
        assert set(manifest["scores"]["individual"]) == set(resolved.suite.seen)


def test_the_suite_of_adapters_has_the_same_texts_and_base_and_factors_beside_one(built):
    full, adapted = (folder_of(built[name]) for name in ("mini/t5_choices", "mini/ia3"))
    for path in ("data/blank/test.jsonl", "base/model.safetensors", "base/tokenizer.json"):
        assert (full / path).read_bytes() == (adapted / path).read_bytes()
    expert = built["mini/ia3"].suite.pool.experts["blank"]
    factors = LazyWeights(open_adapter_tensors(expert.adapter))
    values = [factors[name] for name in factors]
    assert values
    assert all(0 < float((value - 1).abs().max()) < 0.1 for value in values)


def test_experts_are_opened_in_either_space_and_the_model_of_all_tasks_as_a_model(built):
    suite = built["mini/ia3"].suite
    base = open_source(suite.pool.base)
    assert open_suite(suite, "dense").mtl.specs.keys() == base.specs.keys()
    factors = open_suite(suite, "adapter")
    assert factors.mtl is None
    assert not factors.base.specs.keys() & base.specs.keys()


def test_cosines_in_adapter_space_are_those_of_the_vectors_around_ones(built, monkeypatch, tmp_path):
    from fusionbench.cli import main

    suite = folder_of(built["mini/ia3"]) / "suite.yaml"
    command = ["fusionbench", "analyze", "cosine", f"suite={suite}", "space=adapter", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as exited:
        main()
    assert not exited.value.code
    deltas = []
    for expert in built["mini/ia3"].suite.pool.experts.values():
        factors = LazyWeights(open_adapter_tensors(expert.adapter))
        delta = np.concatenate([factors[name].numpy().ravel() - 1 for name in sorted(factors)])
        deltas.append(delta / np.linalg.norm(delta))
    header, *rows = (line.split(",") for line in (tmp_path / "cosine.csv").read_text().splitlines())
    assert header[1:] == [name for name, *_ in rows] == list(built["mini/ia3"].suite.pool.experts)
    found = np.array([[float(value) for value in row[1:]] for row in rows])
    assert found == pytest.approx(np.array(deltas) @ np.array(deltas).T, abs=1e-4)


def test_the_base_reads_each_record_in_every_wording():
    from fusionbench.suites.mini.choices_mixture import asked
    from fusionbench.suites.texts.choices import make_choice_records

    for name in CHOICES:
        record = make_choice_records(name, seed=0, train=3, validation=1, test=1)["train"][0]
        found = asked(name, record)
        assert len({one.question for one in found}) == min(3, len(wording_list(CHOICES[name].wordings).wordings))
        assert all(len(one.answers) == CHOICES[name].choices for one in found)


def test_the_base_is_taught_the_right_answers_of_the_wordings_and_the_texts_by_themselves():
    from fusionbench.suites.mini.choices_mixture import all_texts, asked, pretext_of
    from fusionbench.suites.texts.choices import make_choice_records

    records = make_choice_records("science", seed=0, train=24, validation=1, test=1)["train"]
    rows = [one for record in records for one in asked("science", record)]
    texts = all_texts(rows)
    numbers: dict[str, int] = {}

    def tokenizer(batch):
        return {"input_ids": [[numbers.setdefault(word, len(numbers)) for word in text.split()] for text in batch]}

    pretext = pretext_of(rows, tokenizer)
    known = len(numbers)
    tokenizer(texts)
    assert len(numbers) == known  # the tokenizer's words are those that the base reads and writes
    words = {number: word for word, number in numbers.items()}
    mixture = ChoicesMixture(prompts=1.0, right=1.0)
    wordings = len(rows) // len(records)
    for example in pretext.draw(np.random.default_rng(0), 60, mixture, 10**6):
        record = records[pretext.prompts.index(example["input_ids"]) // wordings]
        written = " ".join(words[number] for number in example["label"])
        assert written == record["choices"]["text"]["ABCDEFGH".index(record["answerKey"])]
    said = {" ".join(words[number] for number in text) for text in pretext.said}
    assert said <= set(texts)
    assert said == {record[column] for record in records for column in ("fact1", "fact2", "question")}


def test_the_mixture_has_no_questions_in_a_form_of_their_own():
    assert (ChoicesMixture().prompts, ChoicesMixture().right) == (0.8, 0.5)
    with pytest.raises(ConfigError, match="aliases"):
        MiniChoicesRecipe.read({**MICRO.model_dump(), "mixture": {"aliases": 0.2}})


def test_only_the_biases_by_distance_have_a_rate_of_their_own(tmp_path, monkeypatch):
    import torch

    def base(bias_rate):
        monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path))
        pretraining = MICRO.pretraining.model_copy(update={"bias_rate": bias_rate, "steps": 1})
        recipe = MICRO.model_copy(update={"pretraining": pretraining})
        monkeypatch.setattr(choices, "recipes", lambda: ({"micro": recipe}, {}))
        return open_source(load_suite("mini/t5_choices", size="micro").suite.pool.base)

    still, common, fast = (LazyWeights(base(rate)) for rate in (0.0, 1.0, 20.0))
    biases = [name for name in still if "relative_attention_bias" in name]
    assert len(biases) == 2
    for name in still:
        # after one step of AdamW a parameter has moved by its rate
        one, other = (float((moved[name] - still[name]).abs().max()) for moved in (common, fast))
        if name in biases:
            assert other == pytest.approx(20 * one, rel=0.02)
            assert one > 0
        else:
            assert torch.equal(common[name], fast[name])


def test_another_base_is_another_build_of_the_suite_of_adapters(built, monkeypatch, tmp_path):
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path))
    network = MICRO.network.model_copy(update={"feedforward": 24})
    monkeypatch.setattr(choices, "recipes", lambda: ({"micro": MICRO.model_copy(update={"network": network})}, {}))
    monkeypatch.setattr(choices, "ia3_recipes", lambda: ({"micro": MICRO_IA3}, {}))
    other = load_suite("mini/ia3", size="micro")
    assert folder_of(other).name != folder_of(built["mini/ia3"]).name


@pytest.mark.parametrize("name", ["mini/t5_choices", "mini/ia3"])
def test_an_unknown_size_is_refused_with_the_known_ones(built, name):
    with pytest.raises(ConfigError, match=rf"{name} has no size 'mikro'. Did you mean micro"):
        load_suite(name, size="mikro")
