"""Tasks of the LM Evaluation Harness: what it says of a model, against this package's own kinds of task.

Those that run the harness are skipped where the extra `lm-eval` is not installed.
"""

import importlib.util
import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fusionbench.errors import ConfigError, FusionBenchError, MissingData, MissingExtra, MissingPart, NotAdaptable
from fusionbench.families import family_named, load_module
from fusionbench.suites.mini.causal_lm_harness import TASKS, write_tasks
from fusionbench.tasks import build_task, evaluate
from fusionbench.tasks.lm_eval import LmEvalTask, mean_score
from fusionbench.weights.sources import open_source

harness = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="the extra lm-eval is not installed")
# The harness and what it imports warn of their own dependencies.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("cache")]
ROWS = {
    "categories": [
        {"kind": "good", "first": "film", "second": "a bad day", "third": "yes", "label": 0},
        {"kind": "bad", "first": "no", "second": "maybe", "third": "one two", "label": 2},
        {"kind": "a day", "first": "rate", "second": "good", "third": "film", "label": 1},
    ],
    "arithmetic": [{"story": "one two", "label": 3}],
    "sentiment": [{"sentence": "a good film", "label": 1}, {"sentence": "a bad film", "label": 0}],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, rows in ROWS.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "data" / name / "test.jsonl").write_text(text)
    return tmp_path / "data"


def spec(data: Path, name: str, **changes) -> dict:
    include, _ = write_tasks(data)
    described = TASKS[name]
    return {"kind": "lm_eval", **described, "options": {**described["options"], "include": str(include), **changes}}


@pytest.fixture
def base(causal_lm_folder):
    return open_source(causal_lm_folder)


@pytest.fixture
def fused(base):
    module = load_module(family_named("causal_lm"), base)

    class Fused:
        def for_task(self, task):
            return task.bind(module)

    return Fused()


def own(base, data, tmp_path):
    """The same questions and answers as a task of choices of this package's."""
    wording = {
        "template": "Which of these is {kind} : {first} , {second} or {third} ? Answer :",
        "choices": ["{first}", "{second}", "{third}"],
    }
    document = {"kind": "choices", "dataset": str(data / "categories"), "options": {"wordings": [wording]}}
    return build_task("categories", document, family_named("causal_lm"), base)


@harness
def test_the_harness_finds_the_answers_that_our_own_scores_find(base, data, fused, tmp_path):
    task = build_task("harness", spec(data, "harness_categories"), family_named("causal_lm"), base)
    result = evaluate(fused, task, keep_rows=True)
    ours = own(base, data, tmp_path)
    (batch,) = ours.batches("test", size=3)
    with torch.inference_mode():
        # Ours ends each answer with the token that ends a text; the harness does not.
        words = batch["choices"].flatten(0, 2)
        lost = ours._surprise(load_module(family_named("causal_lm"), base), batch, words)
    last = (words != -100).sum(dim=-1, keepdim=True) - 1
    scores = -(lost.sum(dim=-1) - lost.gather(1, last)[:, 0]).view(3, 3)
    right = scores.argmax(-1) == torch.tensor([0, 2, 1])
    assert result.rows["score"].tolist() == right.float().tolist()
    assert (result.scores["acc"].value, result.scores["acc"].n) == (pytest.approx(float(right.float().mean())), 3)
    mass = build_task("mass", spec(data, "harness_mass"), family_named("causal_lm"), base)
    expected = scores.softmax(-1)[torch.arange(3), torch.tensor([0, 2, 1])]
    np.testing.assert_allclose(evaluate(fused, mass, keep_rows=True).rows["score"], expected, rtol=1e-4)


@harness
@pytest.mark.parametrize(
    ("name", "metric", "count"), [("harness_arithmetic", "exact_match", 1), ("harness_sentiment", "acc_norm", 2)]
)
def test_written_answers_and_answers_by_length_are_scored_too(name, metric, count, base, data, fused):
    task = build_task(name, spec(data, name), family_named("causal_lm"), base)
    assert task.size("test") == count
    scores = evaluate(fused, task).scores
    assert list(scores) == [metric]
    assert scores[metric].n == count


@harness
def test_a_limit_is_of_examples_and_generators_of_random_numbers_stay_as_they_were(base, data, fused):
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    task = build_task("harness", spec(data, "harness_categories"), family_named("causal_lm"), base)
    assert evaluate(fused, task, limit=2).scores["acc"].n == 2
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


@harness
def test_a_metric_or_a_task_that_is_not_there_is_refused_with_those_that_are(base, data, fused):
    wrong = build_task("harness", spec(data, "harness_sentiment", metric="f1"), family_named("causal_lm"), base)
    with pytest.raises(ConfigError, match="it gives acc,none, acc_norm,none"):
        evaluate(fused, wrong)
    other = build_task("harness", spec(data, "harness_arithmetic", filter="none"), family_named("causal_lm"), base)
    with pytest.raises(ConfigError, match="exact_match,flexible-extract, exact_match,strict-match"):
        evaluate(fused, other)
    absent = build_task(
        "harness", {**spec(data, "harness_mass"), "dataset": "no_such_task"}, family_named("causal_lm"), base
    )
    with pytest.raises(MissingData, match="no_such_task"):
        absent.size("test")


def test_without_the_extra_one_error_names_it(base, monkeypatch):
    for module in [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingExtra, match=r"pip install 'fusionbench\[lm-eval\]'"):
        build_task("mmlu", {"kind": "lm_eval", "dataset": "mmlu"}, family_named("causal_lm"), base)


def made(folder: Path, **changes) -> LmEvalTask:
    return LmEvalTask("mmlu", family_named("causal_lm"), folder, "mmlu", "acc", **changes)


def test_it_is_scored_as_a_whole_and_nothing_is_learnt_from_it(tmp_path):
    task = made(tmp_path)
    assert list(task.batches("test", size=7)) == [{}]
    assert list(task.batches("test", size=7, limit=3)) == [{"limit": 3}]
    for asked in ({"seed": 1}, {"labels": False}, {"start": 1}):
        with pytest.raises(MissingData, match="nothing can be learnt"):
            next(task.batches("test", size=1, **asked))
    with pytest.raises(MissingData, match="no split but test"):
        next(task.batches("train", size=1))
    for refuse in (task.loss, task.objective):
        with pytest.raises(NotAdaptable):
            refuse(lambda batch: None, {})
    with pytest.raises(FusionBenchError, match="runs one language model; a function is none"):
        task.bind(lambda: None)


def test_the_score_is_the_mean_over_examples():
    # By hand: mean of 1, 0, 0.5, 0.5 is 0.5; s² = (0.25 + 0.25) / 3, s / √4.
    value, error = mean_score({"score": np.array([1.0, 0.0, 0.5, 0.5])})
    assert (value, error) == (0.5, pytest.approx((0.5 / 3) ** 0.5 / 2))
    assert mean_score({"score": np.array([1.0])}) == (1.0, 0.0)


def test_the_four_local_tasks_read_the_data_of_a_build(data):
    include, digest = write_tasks(data)
    assert write_tasks(data) == (include, digest)
    names = sorted(path.name for path in include.iterdir())
    assert names == ["arithmetic.yaml", "categories.yaml", "categories_mass.yaml", "scores.py", "sentiment.yaml"]
    for path in include.glob("*.yaml"):
        assert f"{{data_files: {{test: {data}/" in path.read_text()
    other, same = write_tasks(data.parent)
    assert other != include
    assert same == digest


@harness
def test_a_family_that_writes_nothing_is_refused(clip_folder):
    document = {"kind": "lm_eval", "dataset": "mmlu", "options": {"metric": "acc"}}
    with pytest.raises(MissingPart, match="text output"):
        build_task("mmlu", document, family_named("clip"), open_source(clip_folder))
