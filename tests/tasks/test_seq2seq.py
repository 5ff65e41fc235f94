"""Text-to-text tasks against transformers' own loss and generate."""

import json

import pytest
import torch
from transformers import AutoTokenizer, T5ForConditionalGeneration

from fusionbench.errors import ConfigError, MissingData, MissingPart, NotFinite
from fusionbench.families import family_named, load_module
from fusionbench.methods._fisher import Terms
from fusionbench.mixing.ensemble import Ensemble
from fusionbench.mixing.members import Member
from fusionbench.tasks import ACCURACY, build_task, evaluate
from fusionbench.tasks.answers import SPEARMAN
from fusionbench.tasks.prompts import Prompt
from fusionbench.tasks.seq2seq import TextToTextTask, number_in
from fusionbench.tasks.table_data import from_rows
from fusionbench.weights.sources import open_source
from tiny_t5 import make_t5

SENTIMENT = Prompt(template="Given the sentence '{sentence}' , determine sentiment .", targets=("negative", "positive"))
RATING = Prompt(template="Consider {sentence} rate")
SENTENCES = ("good film", "bad day", "a good good day", "film", "bad bad film a day", "day", "good")


def split(labels):
    return from_rows([{"sentence": text, "label": label} for text, label in zip(SENTENCES, labels, strict=False)])


@pytest.fixture
def base(cache, t5_folder):
    return open_source(t5_folder)


@pytest.fixture
def module(base):
    return load_module(family_named("t5"), base)


@pytest.fixture
def sentiment(base) -> TextToTextTask:
    family = family_named("t5")
    data = {"test": split([1, 0, 1, 0, 0, 1, 1]), "train": split([1, 0, 1, 0])}
    return TextToTextTask("sentiment", family, family.text_codec(base), SENTIMENT, data)


@pytest.fixture
def rating(base) -> TextToTextTask:
    family = family_named("t5")
    metrics = (SPEARMAN, ACCURACY)
    return TextToTextTask(
        "rating", family, family.text_codec(base), RATING, {"test": split([3.8, 1, 0])}, metrics=metrics
    )


def test_batches_hold_the_prompts_and_the_answers_as_the_tokenizer_makes_them(sentiment, t5_folder):
    tokenizer = AutoTokenizer.from_pretrained(t5_folder)
    (batch,) = sentiment.batches("test", size=7)
    expected = tokenizer(
        [SENTIMENT.question({"sentence": text}) for text in SENTENCES], padding=True, return_tensors="pt"
    )
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])
    words = tokenizer.batch_decode(batch["labels"], skip_special_tokens=True)
    assert words == ["positive", "negative", "positive", "negative", "negative", "positive", "positive"]
    assert (batch["labels"][:, -1] == 1).all()


def test_unlabelled_batches_show_no_label(sentiment):
    (batch,) = sentiment.batches("test", size=7, labels=False)
    assert sorted(batch) == ["attention_mask", "input_ids"]


def test_numbers_are_written_with_a_decimal_and_padded_with_the_number_that_is_ignored(rating, t5_folder):
    tokenizer = AutoTokenizer.from_pretrained(t5_folder)
    (batch,) = rating.batches("test", size=3)
    assert tokenizer.batch_decode(batch["labels"], skip_special_tokens=True) == ["3.8", "1.0", "0.0"]


def test_the_loss_is_that_of_transformers(sentiment, rating, module, t5_folder):
    model = T5ForConditionalGeneration.from_pretrained(t5_folder)
    for task in (sentiment, rating):
        (batch,) = task.batches("test", size=7)
        with torch.no_grad():
            ours, theirs = task.loss(task.bind(module), batch), model(**batch).loss
        torch.testing.assert_close(ours, theirs)


def test_the_objective_is_the_entropy_over_all_words_at_the_first_position_after_the_start_token(sentiment, module):
    (batch,) = sentiment.batches("test", size=7, labels=False)
    with torch.no_grad():
        logits = module(**batch, decoder_input_ids=torch.zeros(7, 1, dtype=torch.int64)).logits[:, 0].double()
        p = logits.exp() / logits.exp().sum(-1, keepdim=True)
        expected = -(p * p.log()).sum(-1).mean()
        found = sentiment.objective(sentiment.bind(module), batch)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_objective_does_not_look_at_labels(sentiment, module):
    predict = sentiment.bind(module)
    labelled, unlabelled = (next(iter(sentiment.batches("test", size=7, labels=labels))) for labels in (True, False))
    with torch.no_grad():
        assert torch.equal(sentiment.objective(predict, labelled), sentiment.objective(predict, unlabelled))


def answering(module, answers):
    """Return a predictor that writes given tokens, whatever it reads."""

    def predict(batch):
        written = batch["decoder_input_ids"]
        logits = torch.zeros(len(written), module.config.vocab_size)
        for row, answer, so_far in zip(logits, answers, written, strict=True):
            place = len(so_far) - 1
            row[answer[place] if place < len(answer) else 1] = 1
        return logits

    return predict


def test_an_answer_is_right_where_it_is_the_label_word_for_word(sentiment, module, t5_folder):
    tokenizer = AutoTokenizer.from_pretrained(t5_folder)
    said = ["positive", "positive", "positive good", "negative", "", "Is positive", "positive"]
    (batch,) = sentiment.batches("test", size=7)
    rows = sentiment.rows(answering(module, [tokenizer(text)["input_ids"] for text in said]), batch)
    assert rows["correct"].tolist() == [True, False, False, True, False, False, True]
    assert sorted(rows) == ["correct"]


def test_answers_that_are_no_numbers_count_as_zero(rating, module, t5_folder):
    tokenizer = AutoTokenizer.from_pretrained(t5_folder)
    (batch,) = rating.batches("test", size=3)
    rows = rating.rows(answering(module, [tokenizer(text)["input_ids"] for text in ("2.5", "two", "0.0")]), batch)
    assert rows["answer"].tolist() == [2.5, 0.0, 0.0]
    assert rows["target"].tolist() == [3.8, 1.0, 0.0]
    assert rows["correct"].tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("text", "number"), [("3.8", 3.8), (" 4 ", 4.0), ("x", 0.0), ("", 0.0), ("nan", 0.0), ("inf", 0.0), ("3,8", 0.0)]
)
def test_the_parsing_rule(text, number):
    assert number_in(text) == number


def test_what_is_scored_is_what_greedy_generate_writes(sentiment, module, t5_folder):
    model, tokenizer = T5ForConditionalGeneration.from_pretrained(t5_folder), AutoTokenizer.from_pretrained(t5_folder)
    (batch,) = sentiment.batches("test", size=7)
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        written = tokenizer.batch_decode(model.generate(**inputs, max_new_tokens=10), skip_special_tokens=True)
        found = sentiment._answers(sentiment.bind(module), batch)
    assert tokenizer.batch_decode(found, skip_special_tokens=True) == written


def test_a_model_trained_on_the_task_answers_it(sentiment, module):
    predict = sentiment.bind(module.train())
    optimizer = torch.optim.AdamW(module.parameters(), 1e-2)
    for batch, _ in zip(sentiment.batches("test", size=7, seed=0), range(60), strict=False):
        optimizer.zero_grad()
        sentiment.loss(predict, batch).backward()
        optimizer.step()

    class Trained:
        def for_task(self, task):
            return task.bind(module.eval())

    assert evaluate(Trained(), sentiment).scores["accuracy"].value == 1.0
    assert evaluate(Trained(), sentiment, batch=2).rows == {}


def test_broken_weights_are_refused(sentiment, module):
    with torch.no_grad():
        module.shared.weight.fill_(torch.nan)
    (batch,) = sentiment.batches("test", size=7)
    with torch.no_grad(), pytest.raises(NotFinite, match="sentiment hold NaN or Inf"):
        sentiment.rows(sentiment.bind(module), batch)


def test_an_ensemble_agrees_on_each_word(sentiment, base, tmp_path):
    make_t5(tmp_path / "other", seed=5)
    sources = {"one": base, "two": open_source(tmp_path / "other")}
    members = [Member(name, source, sentiment.family, base, None, alike=True) for name, source in sources.items()]
    modules = [load_module(sentiment.family, source) for source in sources.values()]
    (batch,) = sentiment.batches("test", size=7)
    for resident in (True, False):
        ensemble = Ensemble(
            members,
            lambda _, outputs: torch.stack(list(outputs.values())).mean(0),
            about={},
            resident=resident,
        )
        with torch.no_grad():
            found = sentiment._answers(ensemble.for_task(sentiment), batch)
            written = torch.zeros(7, 1, dtype=torch.int64)
            inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
            for _ in range(found.shape[1]):
                logits = sum(m(**inputs, decoder_input_ids=written).logits[:, -1] for m in modules)
                written = torch.cat([written, logits.argmax(-1, keepdim=True)], 1)
        for ours, theirs in zip(found.tolist(), written[:, 1:].tolist(), strict=True):
            end = ours.index(1) + 1 if 1 in ours else len(ours)
            assert ours[:end] == theirs[:end]


def test_the_fisher_information_sees_a_distribution_over_words(sentiment, module):
    (batch,) = sentiment.batches("test", size=7, labels=False)
    logs = Terms(sentiment, module)(batch)
    assert logs.shape == (7, module.config.vocab_size)
    torch.testing.assert_close(logs.exp().sum(-1), torch.ones(7))


def test_what_a_model_writes_is_read_again_in_one_pass(sentiment, module):
    (batch,) = sentiment.batches("test", size=7)
    predict = sentiment.bind(module)
    with torch.no_grad():
        answers = sentiment._answers(predict, batch)
        again = sentiment.written(predict, batch)
        given = again["decoder_input_ids"]
        logits = module(**{key: batch[key] for key in ("input_ids", "attention_mask")}, decoder_input_ids=given).logits
    assert "labels" not in again
    assert given[:, 0].tolist() == [0] * 7
    live = (answers != 1).cumprod(1).bool()
    assert torch.equal(logits.argmax(-1)[live], answers[live])
    assert torch.equal(given[:, 1:], answers[:, :-1])


def test_regmeans_statistics_see_every_position_that_is_written(sentiment, module):
    from types import SimpleNamespace

    from fusionbench.methods.regmean import collect_grams

    seen = []
    site = "decoder.block.1.layer.2.DenseReluDense.wo"
    module.get_submodule(site).register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    context = SimpleNamespace(family=sentiment.family, seed=0, device=torch.device("cpu"))
    found = collect_grams(sentiment, module, context, examples=4, batch=4, split="train")
    rows = seen[-1].flatten(0, 1)
    assert len(rows) > 4
    torch.testing.assert_close(found[f"{site}.weight"], rows.T @ rows / len(rows))


def described(tmp_path, **options):
    (tmp_path / "data").mkdir(exist_ok=True)
    rows = [{"sentence": text, "label": number % 2} for number, text in enumerate(SENTENCES)]
    (tmp_path / "data/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"kind": "text_to_text", "dataset": str(tmp_path / "data"), "options": options}


def test_a_suites_description_makes_the_task(base, tmp_path):
    spec = described(tmp_path, prompt="glue/sst2", tokens=3, length=40)
    task = build_task("films", spec, family_named("t5"), base)
    assert (task.size("test"), task.tokens, task.length) == (7, 3, 40)
    assert task.prompt.targets == ("negative", "positive")
    own = described(tmp_path, template=SENTIMENT.template, targets=["no", "yes"])
    task = build_task("films", own, family_named("t5"), base)
    (batch,) = task.batches("test", size=2, limit=2)
    assert task.codec.decode(batch["labels"].tolist()) == ["no", "yes"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs options.prompt, such as glue/cola, or options.template"),
        ({"prompt": "glue/sst2", "template": "{sentence}"}, "not both"),
        ({"prompt": "glue/sst2", "targets": ["a", "b"]}, "brings its targets"),
        ({"prompt": "glue/sts"}, "Did you mean glue/stsb"),
        ({"template": "{0}"}, "must name columns in braces"),
        ({"template": "{sentence}", "target": ["a", "b"]}, "target"),
        ({"template": "{sentence}", "targets": ["a"]}, "targets"),
    ],
)
def test_a_wrong_description_is_refused(base, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        build_task("films", described(tmp_path, **options), family_named("t5"), base)


def test_words_have_no_ranks(base, tmp_path):
    spec = described(tmp_path, prompt="glue/sst2") | {"metrics": ["spearman"]}
    with pytest.raises(ConfigError, match="spearman ranks numbers, its answers are negative, positive"):
        build_task("films", spec, family_named("t5"), base)


def test_a_column_that_is_not_there_is_named(base, tmp_path):
    task = build_task("pairs", described(tmp_path, prompt="glue/rte"), family_named("t5"), base)
    with pytest.raises(MissingData, match=r"'test' has no column sentence1 and no column sentence2.*sentence, label"):
        next(task.batches("test", size=2))


@pytest.mark.parametrize("label", [2, -1, 0.5])
def test_a_label_without_a_word_is_refused(sentiment, label):
    from dataclasses import replace

    task = replace(sentiment, data={"test": split([0, 1, label])})
    with pytest.raises(
        ConfigError, match=r"example 2 of the split 'test' has the label .*0 to 1 \(negative, positive\)"
    ):
        next(task.batches("test", size=2))


def test_a_missing_split_or_an_empty_one_is_refused(sentiment):
    with pytest.raises(MissingData, match=r"no split 'validation'. It has: test, train"):
        sentiment.size("validation")
    with pytest.raises(MissingData, match="no examples"):
        next(sentiment.batches("test", size=2, limit=0))


def test_a_family_that_writes_no_texts_is_refused(cache, clip_folder, tmp_path):
    with pytest.raises(MissingPart, match="'clip' has no text output, which the task films is about"):
        build_task("films", described(tmp_path, prompt="glue/sst2"), family_named("clip"), open_source(clip_folder))


def test_long_prompts_are_cut(base, tmp_path):
    task = build_task("films", described(tmp_path, prompt="glue/sst2", length=6), family_named("t5"), base)
    (batch,) = task.batches("test", size=7)
    assert batch["input_ids"].shape == (7, 6)
    assert (batch["input_ids"][:, -1] == 1).all()


def test_another_prompt_is_prepared_anew(base, tmp_path, cache):
    first, second = (
        build_task("films", described(tmp_path, prompt=name), family_named("t5"), base)
        for name in ("glue/sst2", "glue/cola")
    )
    one, two = (next(task.batches("test", size=7))["input_ids"] for task in (first, second))
    assert one.shape != two.shape or not torch.equal(one, two)
    assert len(list((cache / "texts").glob("*.npz"))) == 2
    assert torch.equal(one, next(first.batches("test", size=7))["input_ids"])
    assert len(list((cache / "texts").glob("*.npz"))) == 2


def test_a_score_that_is_no_number_is_refused(rating):
    from dataclasses import replace

    task = replace(rating, data={"test": split([3.8, float("nan")])})
    with pytest.raises(ConfigError, match=r"example 1 of the split 'test' has the label nan, expected a number"):
        next(task.batches("test", size=2))


def test_metrics_of_classes_are_refused_where_answers_are_written(base, tmp_path):
    spec = described(tmp_path, prompt="glue/cola") | {"metrics": ["accuracy", "matthews"]}
    with pytest.raises(ConfigError, match="no metric named 'matthews' of the task films"):
        build_task("films", spec, family_named("t5"), base)


@pytest.mark.parametrize("key", ["class_names", "templates"])
def test_what_such_a_task_makes_nothing_of_is_not_passed_over(base, tmp_path, key):
    spec = described(tmp_path, prompt="glue/sst2") | {key: ["{} film"]}
    with pytest.raises(ConfigError, match=f"films is of the kind 'text_to_text', which takes no {key}"):
        build_task("films", spec, family_named("t5"), base)
