"""Perplexity against transformers' own loss, one text at a time, and against numbers worked out by hand."""

import json
import math

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from fusionbench.errors import ConfigError, MissingData, MissingPart, NotFinite
from fusionbench.families import family_named, load_module
from fusionbench.tasks import build_task, evaluate
from fusionbench.tasks.perplexity import perplexity, token_loss
from fusionbench.weights.sources import open_source

TEXTS = ("good film a day", "bad", "film good good bad yes no maybe")


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/test.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return {"kind": "perplexity", "dataset": str(tmp_path / "data")}


@pytest.fixture
def base(cache, causal_lm_folder):
    return open_source(causal_lm_folder)


@pytest.fixture
def module(base):
    return load_module(family_named("causal_lm"), base)


def opened(spec, base):
    return build_task("language", spec, family_named("causal_lm"), base)


class Fused:
    def __init__(self, module):
        self.module = module

    def for_task(self, task):
        return task.bind(self.module)


def theirs(folder) -> list[tuple[float, int]]:
    """Σ −log p and the number of tokens, from the loss of transformers, which is the mean over all but the first."""
    model, tokenizer = LlamaForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    found = []
    for text in TEXTS:
        tokens = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            count = tokens.shape[1] - 1
            found.append((model(input_ids=tokens, labels=tokens).loss.item() * count, count))
    return found


def test_two_chunks_of_mean_loss_1_and_2_have_the_perplexity_of_their_mean():
    rows = {"loss": np.array([8.0, 16.0]), "tokens": np.array([8, 8])}
    assert token_loss(rows)[0] == pytest.approx(1.5)
    assert perplexity(rows)[0] == pytest.approx(4.4817, abs=1e-4)


def test_long_texts_count_for_more():
    rows = {"loss": np.array([1.0, 30.0]), "tokens": np.array([1, 9])}
    assert token_loss(rows)[0] == pytest.approx(3.1)
    assert perplexity(rows)[0] == pytest.approx(math.exp(3.1))


def test_equal_texts_have_no_standard_error():
    rows = {"loss": np.array([4.0, 4.0, 4.0]), "tokens": np.array([2, 2, 2])}
    assert perplexity(rows)[1] == pytest.approx(0.0, abs=1e-12)
    assert perplexity({**rows, "loss": np.array([2.0, 4.0, 6.0])})[1] > 0.5


@pytest.mark.parametrize("batch", [1, 3])
def test_rows_are_sums_of_losses_and_numbers_of_tokens(base, module, spec, causal_lm_folder, batch):
    result = evaluate(Fused(module), opened(spec, base), batch=batch, keep_rows=True)
    expected = theirs(causal_lm_folder)
    assert result.rows["tokens"].tolist() == [count for _, count in expected] == [4, 1, 7]
    np.testing.assert_allclose(result.rows["loss"], [loss for loss, _ in expected], rtol=1e-4)
    mean = sum(loss for loss, _ in expected) / 12
    assert result.scores["token_loss"].value == pytest.approx(mean, rel=1e-4)
    assert result.scores["perplexity"].value == pytest.approx(math.exp(mean), rel=1e-4)


def test_the_loss_is_the_mean_over_tokens_and_lower_is_better(base, module, spec, causal_lm_folder):
    task = opened(spec, base)
    (batch,) = task.batches("test", size=3)
    with torch.no_grad():
        loss = task.loss(task.bind(module), batch)
    assert loss.item() == pytest.approx(sum(loss for loss, _ in theirs(causal_lm_folder)) / 12, rel=1e-4)
    assert {metric.better for metric in task.metrics} == {"lower"}
    assert [metric.unit for metric in task.metrics] == ["perplexity", "nats"]


def test_the_objective_is_the_mean_over_texts_of_the_mean_entropy_and_needs_no_labels(
    base, module, spec, causal_lm_folder
):
    task = opened(spec, base)
    (batch,) = task.batches("test", size=3, labels=False)
    assert "labels" not in batch
    model, tokenizer = (
        LlamaForCausalLM.from_pretrained(causal_lm_folder),
        AutoTokenizer.from_pretrained(causal_lm_folder),
    )
    entropies = []
    with torch.no_grad():
        for text in TEXTS:
            p = model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits[0, :-1].softmax(-1)
            entropies.append(-(p * p.log()).sum(-1).mean().item())
        assert task.objective(task.bind(module), batch).item() == pytest.approx(np.mean(entropies), rel=1e-4)


def test_joined_texts_are_cut_into_pieces_of_one_length_and_the_rest_is_left_out(base, spec):
    task = opened(spec | {"options": {"joined": True, "length": 4}}, base)
    # </s> good film a | day⏎⏎bad⏎⏎film good good bad | yes no maybe: blank lines do not cut this tokenizer's words.
    (batch,) = task.batches("test", size=3)
    assert task.size("test") == 2
    assert batch["input_ids"].tolist() == [[1], [2]]
    assert batch["labels"].shape == (2, 3)
    assert batch["real"].all()
    assert batch["labels"][1, 0] == batch["labels"][1, 1] != batch["labels"][1, 2]


def test_a_text_without_a_token_to_predict_is_refused(base, spec, tmp_path):
    (tmp_path / "data/test.jsonl").write_text('{"text": "good day"}\n{"text": ""}\n')
    with pytest.raises(MissingData, match="language: example 1 of the split 'test' has fewer than two tokens"):
        next(opened(spec, base).batches("test", size=1))


def test_a_split_or_column_that_is_missing_is_named(base, spec):
    with pytest.raises(MissingData, match=r"no split 'train'. It has: test"):
        opened(spec, base).size("train")
    with pytest.raises(MissingData, match=r"no column body\. It has: text"):
        next(opened(spec | {"columns": {"text": "body"}}, base).batches("test", size=1))
    with pytest.raises(MissingData, match="no examples"):
        next(opened(spec, base).batches("test", size=1, limit=0))


def test_broken_weights_are_refused(base, module, spec):
    with torch.no_grad():
        module.model.norm.weight.fill_(torch.nan)
    task = opened(spec, base)
    (batch,) = task.batches("test", size=3)
    with torch.no_grad(), pytest.raises(NotFinite, match="language hold NaN or Inf"):
        task.rows(task.bind(module), batch)


def test_descriptions_that_make_no_sense_are_refused(base, spec, clip_folder):
    with pytest.raises(ConfigError, match="has its own metrics"):
        opened(spec | {"metrics": ["accuracy"]}, base)
    with pytest.raises(ConfigError, match="of the kind 'perplexity', which takes no templates"):
        opened(spec | {"templates": ["a {}"]}, base)
    with pytest.raises(ConfigError, match="length is 1"):
        opened(spec | {"options": {"length": 1}}, base)
    with pytest.raises(MissingPart, match="language"):
        build_task("language", spec, family_named("clip"), open_source(clip_folder))
