import json
from pathlib import Path

import datasets
import pytest

from fusionbench.errors import CheckpointError, ConfigError, MissingData, MissingPart
from fusionbench.families import family_named
from fusionbench.tasks import build_task
from fusionbench.weights.sources import open_source
from tiny_texts import SENTENCES, write_text_task

GPT2 = family_named("gpt2")


@pytest.fixture
def lines(tmp_path) -> dict:
    return {
        "kind": "text_lines",
        "dataset": str(write_text_task(tmp_path / "data")),
        "class_names": ["bad", "good"],
    }


@pytest.fixture
def saved(tmp_path) -> Path:
    """Pairs as `datasets` saves them, under GLUE's names of columns and splits."""
    features = datasets.Features(
        {
            "premise": datasets.Value("string"),
            "hypothesis": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["entailment", "neutral"]),
            "idx": datasets.Value("int32"),
        }
    )
    rows = {
        "premise": ["the cat runs", "a dog sleeps"],
        "hypothesis": ["a cat runs", "a bird sleeps"],
        "label": [0, 1],
        "idx": [0, 1],
    }
    split = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": split, "validation_matched": split}).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


PAIRS = {"text": "premise", "pair": "hypothesis"}
SPLITS = {"train": "train", "test": "validation_matched"}


def build(spec: dict, base: Path, family=GPT2):
    return build_task("moods", spec, family, open_source(base))


def test_lines_of_json_become_batches_of_tokens(lines, cache, gpt2_folder):
    task = build(lines, gpt2_folder)
    assert [task.size(split) for split in ("train", "validation", "test")] == [24, 24, 24]
    batch = next(task.batches("test", size=2))
    assert batch["input_ids"].tolist() == [[4, 6, 11, 12], [5, 7, 11, 13]]
    assert batch["labels"].tolist() == [1, 0]
    assert task.class_names == ("bad", "good")


def test_a_saved_data_set_of_pairs_brings_its_class_names(saved, cache, gpt2_folder, bert_folder):
    spec = {"kind": "text", "dataset": str(saved), "columns": PAIRS, "splits": SPLITS}
    task = build(spec, gpt2_folder)
    assert task.class_names == ("entailment", "neutral")
    (batch,) = task.batches("test", size=9)
    assert batch["input_ids"].tolist() == [[4, 6, 9, 5, 6, 9], [5, 7, 10, 5, 8, 10]]
    (batch,) = build(spec, bert_folder, family_named("encoder")).batches("test", size=9)
    assert batch["token_type_ids"].tolist() == [[0] * 5 + [1] * 4] * 2


def test_a_split_is_tokenised_once(lines, cache, gpt2_folder, monkeypatch):
    from fusionbench.families.tokens import TokenProcessor

    calls = []
    prepare = TokenProcessor.prepare
    monkeypatch.setattr(TokenProcessor, "prepare", lambda *given: calls.append(1) or prepare(*given))
    for _ in range(2):
        next(build(lines, gpt2_folder).batches("test", size=2))
    assert calls == [1]
    next(build({**lines, "options": {"length": 3}}, gpt2_folder).batches("test", size=2))
    assert calls == [1, 1]


def test_the_length_may_be_chosen(lines, cache, gpt2_folder):
    task = build({**lines, "options": {"length": 3}}, gpt2_folder)
    assert next(task.batches("test", size=2))["input_ids"].shape == (2, 3)


def test_missing_splits_and_columns_are_named_with_those_that_are_there(saved, cache, gpt2_folder):
    spec = {"kind": "text", "dataset": str(saved), "columns": PAIRS}
    with pytest.raises(MissingData, match=r"no split named validation\. It has: train, validation_matched"):
        build({**spec, "splits": {"test": "validation"}}, gpt2_folder)
    with pytest.raises(MissingData, match=r"no column sentence1\. It has: premise, hypothesis, label, idx"):
        build({**spec, "splits": SPLITS, "columns": {**PAIRS, "text": "sentence1"}}, gpt2_folder)
    with pytest.raises(MissingData, match="has no split 'validation'"):
        build({**spec, "splits": SPLITS}, gpt2_folder).size("validation")


def test_columns_of_another_kind_are_refused(saved, cache, gpt2_folder):
    spec = {"kind": "text", "dataset": str(saved), "splits": SPLITS}
    with pytest.raises(ConfigError, match=r"column 'idx' of .* holds int32; texts must be strings"):
        build({**spec, "columns": {"text": "idx"}}, gpt2_folder)
    with pytest.raises(ConfigError, match=r"column 'premise' of .* holds string.* labels integers"):
        build({**spec, "columns": {"text": "hypothesis", "label": "premise"}}, gpt2_folder)


def test_another_number_of_class_names_than_the_data_set_has_is_refused(saved, cache, gpt2_folder):
    spec = {"kind": "text", "dataset": str(saved), "columns": PAIRS, "splits": SPLITS, "class_names": ["a", "b", "c"]}
    with pytest.raises(ConfigError, match=r"moods lists 3 class names.*has 2 classes: entailment, neutral"):
        build(spec, gpt2_folder)


def test_lines_need_class_names_and_take_no_templates(lines, cache, gpt2_folder):
    with pytest.raises(ConfigError, match="brings no class_names"):
        build({**lines, "class_names": None}, gpt2_folder)
    with pytest.raises(ConfigError, match="takes no config, templates"):
        build({**lines, "templates": ["a {}"], "config": "x"}, gpt2_folder)
    with pytest.raises(ConfigError, match="of the kind 'text', which takes no templates"):
        build({**lines, "kind": "text", "templates": ["a {}"]}, gpt2_folder)
    with pytest.raises(ConfigError, match=r"(?s)options of the task moods.*lenght.*did you mean length"):
        build({**lines, "options": {"lenght": 3}}, gpt2_folder)


@pytest.mark.parametrize(
    ("line", "error", "says"),
    [
        ('{"text": "x"}', MissingData, r"Line 2 of .*test\.jsonl has no label\. It has: text"),
        ("{", ConfigError, r"Line 2 of .*test\.jsonl is not JSON"),
        ("[1]", ConfigError, r"Line 2 .* should hold a JSON object, it holds a list"),
        ('{"text": 3, "label": 0}', ConfigError, r"Line 2 .*: text is 3; texts must be strings"),
        ('{"text": "x", "label": "good"}', ConfigError, r"Line 2 .*: label is 'good'.*labels integers"),
        ('{"text": "x", "label": true}', ConfigError, r"Line 2 .*: label is True"),
    ],
)
def test_a_wrong_line_is_named_with_its_number(lines, cache, gpt2_folder, line, error, says):
    path = Path(lines["dataset"]) / "test.jsonl"
    path.write_text(json.dumps({"text": "the cat", "label": 0}) + "\n" + line + "\n")
    with pytest.raises(error, match=says):
        build(lines, gpt2_folder)


def test_a_folder_without_splits_says_what_it_needs(tmp_path, cache, gpt2_folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingData, match=r"empty holds no split\. It needs test\.jsonl"):
        build({"kind": "text_lines", "dataset": str(tmp_path / "empty"), "class_names": ["a"]}, gpt2_folder)


def test_a_text_without_a_token_is_refused(lines, cache, gpt2_folder):
    (Path(lines["dataset"]) / "test.jsonl").write_text('{"text": "", "label": 0}\n')
    with pytest.raises(ConfigError, match=r"Example 0 of the split is empty"):
        next(build(lines, gpt2_folder).batches("test", size=1))


def test_a_family_without_texts_is_refused(lines, cache, clip_folder):
    with pytest.raises(MissingPart, match=r"'clip' has no text input, which the task moods"):
        build(lines, clip_folder, family_named("clip"))


def test_a_base_without_a_tokenizer_is_refused(lines, cache, gpt2_folder, tmp_path):
    import shutil

    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(gpt2_folder / name, tmp_path / name)
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        build(lines, tmp_path)


def test_sentences_of_all_lengths_come_back_as_they_went_in(lines, cache, gpt2_folder):
    task = build(lines, gpt2_folder)
    words = {text: task.processor.prepare([text])[0]["input_ids"] for text in SENTENCES}
    drawn = task.batches("test", size=5, seed=1)
    for _ in range(4):
        batch = next(drawn)
        for ids, mask, label in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
            (text,) = (text for text, tokens in words.items() if tokens == ids[mask.bool()].tolist())
            assert int(label) == int("good" in text)


def test_class_names_in_another_order_than_the_data_set_has_are_refused(saved, cache, gpt2_folder):
    spec = {"kind": "text", "dataset": str(saved), "columns": PAIRS, "splits": SPLITS}
    with pytest.raises(
        ConfigError, match=r"moods are not in the order of the labels.*class 0 is 'neutral'.*'entailment'"
    ):
        build({**spec, "class_names": ["neutral", "entailment"]}, gpt2_folder)
    assert build({**spec, "class_names": ["follows", "may be"]}, gpt2_folder).class_names == ("follows", "may be")


def test_metrics_of_which_the_rows_say_nothing_are_refused_before_anything_is_read(lines, cache, gpt2_folder):
    with pytest.raises(ConfigError, match="no metric named 'spearman' of the task moods"):
        build({**lines, "metrics": ["accuracy", "spearman"]}, gpt2_folder)


def test_lines_end_at_line_feeds_alone_and_empty_ones_count_in_messages(lines, cache, gpt2_folder):
    path = Path(lines["dataset"]) / "test.jsonl"
    first = json.dumps({"text": "the cat\u2028is\x85good", "label": 1}, ensure_ascii=False)
    path.write_text(first + "\n\n" + json.dumps({"text": "a dog", "label": 0}) + "\n", encoding="utf-8")
    assert build(lines, gpt2_folder).size("test") == 2
    path.write_text(first + "\n\n" + json.dumps({"text": 3, "label": 0}) + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"Line 3 of .*test\.jsonl: text is 3"):
        build(lines, gpt2_folder)
