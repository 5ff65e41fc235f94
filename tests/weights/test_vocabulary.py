"""One vocabulary for models of different tokenizers: whose row a token gets, what is written, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from vocabularies import save_worded

from fusionbench.config import Recipe
from fusionbench.errors import CheckpointError, ConfigError, IncompatibleModels
from fusionbench.merge import Merged, merge, open_pool
from fusionbench.weights.headers import as_buffer
from fusionbench.weights.tensors import LazyWeights

TABLE, BIAS = "model.embed_tokens.weight", "lm_head.bias"
CONFIG: dict[str, Any] = {"model_type": "toy", "eos_token_id": 1, "pad_token_id": None, "bos_token_id": [0, 1]}
WORDS = {
    "base": ["<unk>", "</s>", "a", "b"],
    "one": ["<unk>", "b", "a", "</s>", "x"],
    "two": ["<unk>", "</s>", "x", "y"],
}
ROWS = {"base": 6, "one": 5, "two": 4}


def table(start: float, rows: int, kind: torch.dtype = torch.float32) -> Tensor:
    """Row r is (start + r, -(start + r))."""
    column = start + torch.arange(rows, dtype=torch.float32)
    return torch.stack([column, -column], 1).to(kind)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for number, (name, words) in enumerate(WORDS.items()):
        start = 100.0 * number
        tensors = {TABLE: table(start, ROWS[name]), BIAS: table(start, ROWS[name])[:, 0].clone(), "w": torch.ones(4, 2)}
        save_worded(tmp_path / name, tensors, words, CONFIG)
    return tmp_path


def recipe(models: Path, *overrides: str, method: str = "passthrough", experts: str = "one") -> Recipe:
    named = [f"experts.{name}={models / name}" for name in experts.split()]
    return Recipe.load(None, [f"base={models / 'base'}", *named, f"method={method}", "runtime.threads=1", *overrides])


def made(models: Path, *overrides: str, **values: str) -> tuple[dict[str, float], dict[str, Any], Merged]:
    """The first number of each token's row, the configuration, and what the merge said."""
    out = models / "out"
    merged = merge(recipe(models, *overrides, **values), out)
    numbers = json.loads((out / "tokenizer.json").read_text())
    vocabulary = numbers["model"]["vocab"] | {t["content"]: t["id"] for t in numbers["added_tokens"]}
    rows = load_file(out / "model.safetensors")[TABLE]
    assert rows[:, 1].equal(-rows[:, 0])
    assert load_file(out / "model.safetensors")[BIAS].equal(rows[:, 0])
    config = json.loads((out / "config.json").read_text())
    assert config["vocab_size"] == len(rows)
    found = {token: float(rows[number, 0]) for token, number in vocabulary.items()}
    return found | {"rows": float(len(rows))}, config, merged


def test_different_rows_are_refused_where_nobody_asks_for_one_vocabulary(models: Path) -> None:
    with pytest.raises(IncompatibleModels, match=r"vocabulary sizes differ: .* 6; one 5"):
        merge(recipe(models, "method=task_arithmetic"), models / "out")


def test_rows_follow_their_tokens_and_what_a_model_lacks_is_the_only_other_models(models: Path) -> None:
    """`one` has its tokens at 100, 103, 102, 101 and x at 104; base's two further rows are padding."""
    rows, _, merged = made(models, "vocabulary=base")
    assert rows == {"<unk>": 100, "</s>": 103, "a": 102, "b": 101, "rows": 6}
    assert "vocabulary: one has besides 1 of these tokens, such as 'x'" in merged.notes


@pytest.mark.parametrize(
    "name",
    ["cls.predictions.decoder.weight", "lm_head.decoder.weight", "lm_head.linear.weight", "vocab_projector.weight",
     "output.weight", "transformer.output_layer.weight", "lm_head.decoder.bias", "cls.predictions.bias",
     "vocab_projector.bias", "embed_out.weight", "lm_head.weight", "transformer.wte.weight"],
)  # fmt: skip
def test_a_head_of_any_architecture_follows_its_tokens(name: str, tmp_path: Path) -> None:
    """Equal numbers of rows in another order: nothing but the name says that rows are tokens."""
    size, words = (3,) if name.endswith("bias") else (3, 1), (["<unk>", "a", "b"], ["<unk>", "b", "a"])
    for model, own in zip(("base", "one"), words, strict=True):
        tensors = {TABLE: torch.ones(3, 1), name: torch.arange(3.0).reshape(size), "w": torch.arange(3.0).reshape(3, 1)}
        save_worded(tmp_path / model, tensors, own, CONFIG)
    source = open_pool(recipe(tmp_path, "vocabulary=base")).experts["one"]
    assert LazyWeights(source)[name].flatten().tolist() == [0.0, 2.0, 1.0]
    assert LazyWeights(source)["w"].flatten().tolist() == [0.0, 1.0, 2.0]


def test_a_token_beyond_a_models_tables_has_no_row_there(tmp_path: Path) -> None:
    """The tokenizer of the base knows one token more than its tables have rows; it keeps its number."""
    words = ["<unk>", "a", "b", "late"]
    save_worded(tmp_path / "base", {TABLE: table(0, 3)}, words, CONFIG)
    save_worded(tmp_path / "one", {TABLE: table(100, 4)}, words, CONFIG)
    pool = open_pool(recipe(tmp_path, "vocabulary=base"))
    assert pool.base is not None
    assert LazyWeights(pool.base)[TABLE][:, 0].tolist() == [0.0, 1.0, 2.0, 103.0]
    assert LazyWeights(pool.experts["one"])[TABLE][:, 0].tolist() == [100.0, 101.0, 102.0, 103.0]


def test_padding_is_the_mean_of_the_rows_that_have_a_token(models: Path) -> None:
    made(models, "vocabulary=base")
    rows = load_file(models / "out" / "model.safetensors")[TABLE]
    assert rows[4:, 0].tolist() == [101.5, 101.5]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), {"x": 202.0}),
        (("vocabulary.new=zero",), {"x": 202.0, "a": 0.0}),
        # Two has x and y at 202, 203; its own rows are 200 to 203.
        (("vocabulary.new=mean",), {"a": 201.5, "x": 202.0}),
        (("vocabulary.new=models",), {"a": (2 + 102) / 2, "b": (3 + 101) / 2}),
        (("vocabulary.new=auto",), {"a": 2.0, "b": 3.0, "x": 202.0, "y": 203.0}),
        (("vocabulary.tokens.a=zero",), {"a": 0.0}),
        (("vocabulary.tokens.a=one",), {"a": 102.0}),
        (("vocabulary.tokens.x=zero",), {"x": 202.0}),
        (("vocabulary.tokens.x={source: zero, force: true}",), {"x": 0.0}),
        (("vocabulary.tokens.q={model: one, token: b}",), {"q": 101.0}),
        (("vocabulary.tokens.q={source: {model: base, id: 5}}",), {"q": 5.0}),
        (("vocabulary.pad_to_multiple_of=4",), {"rows": 8.0}),
        (("vocabulary.padding=drop",), {"rows": 6.0}),
    ],
    ids=str,
)
def test_rows_that_a_model_lacks_come_by_rule(
    overrides: tuple[str, ...], expected: dict[str, float], models: Path
) -> None:
    """The tables of `two`, seen through the union of all three."""
    given = recipe(models, "vocabulary.source=union", *overrides, experts="one two", method="task_arithmetic")
    pool = open_pool(given)
    assert pool.vocabulary is not None
    column = LazyWeights(pool.experts["two"])[TABLE][:, 0]
    numbers = pool.vocabulary.alignment.numbers
    for token, value in expected.items():
        assert (len(column) if token == "rows" else float(column[numbers[token]])) == value, token


def test_a_part_of_a_table_is_that_part_of_the_whole(models: Path) -> None:
    source = open_pool(recipe(models, "vocabulary=union", experts="one two")).experts["two"]
    whole = bytes(source.read(TABLE))
    for start, stop in ((0, 1), (1, 4), (3, 9), (5, 12), (11, None)):
        assert bytes(source.read(TABLE, start, stop)) == whole[4 * start : None if stop is None else 4 * stop]
    assert source.read("w") == as_buffer(torch.ones(4, 2).numpy())


def test_rows_that_are_lent_are_rounded_once_to_the_models_kind(tmp_path: Path) -> None:
    base = {TABLE: torch.tensor([[1.0], [2.0]])}
    save_worded(tmp_path / "base", base, ["<unk>", "a"], CONFIG)
    for name, value in (("one", 1 / 3), ("two", 1 / 5)):
        tensors = {TABLE: torch.tensor([[1.0], [value]]).bfloat16()}
        save_worded(tmp_path / name, tensors, ["<unk>", "b"], CONFIG)
    source = open_pool(recipe(tmp_path, "vocabulary.new=models", experts="one two")).base
    assert source is not None
    expected = torch.tensor([1 / 3, 1 / 5]).bfloat16().double().mean().float()
    assert LazyWeights(source)[TABLE][2, 0] == expected
    lent = open_pool(recipe(tmp_path, "vocabulary=union", experts="one two")).experts["one"]
    assert LazyWeights(lent)[TABLE].dtype == torch.bfloat16
    assert LazyWeights(lent)[TABLE][:, 0].tolist() == [1.0, 2.0, float(torch.tensor(1 / 3).bfloat16())]


def test_an_experts_tokenizer_brings_its_files_and_numbers(models: Path) -> None:
    (models / "base" / "merges.txt").write_text("of the base's tokenizer")
    (models / "base" / "generation_config.json").write_text('{"eos_token_id": 1, "temperature": 0.5}')
    rows, config, _ = made(models, "vocabulary=one", "vocabulary.padding=drop")
    assert rows == {"<unk>": 100, "b": 101, "a": 102, "</s>": 103, "x": 104, "rows": 5}
    assert (config["eos_token_id"], config["bos_token_id"], config["pad_token_id"]) == (3, [0, 3], None)
    generation = json.loads((models / "out" / "generation_config.json").read_text())
    assert generation == {"eos_token_id": 3, "temperature": 0.5}
    assert not (models / "out" / "merges.txt").exists()


def test_a_delta_is_taken_between_rows_of_one_token(models: Path) -> None:
    rows, _, _ = made(models, "vocabulary=base", "method.scale=0.5", method="task_arithmetic")
    assert rows == {"<unk>": 50, "</s>": 1 + 51, "a": 2 + 50, "b": 3 + 49, "rows": 6}


def test_without_a_base_the_first_expert_stands_for_it(models: Path) -> None:
    named = [f"experts.{name}={models / name}" for name in ("one", "two")]
    common = [*named, "method=simple_average", "runtime.threads=1"]
    merge(Recipe.load(None, [*common, "vocabulary=union"]), models / "out")
    assert len(load_file(models / "out" / "model.safetensors")[TABLE]) == 6
    with pytest.raises(ConfigError, match="no model 'base'; there are union, one, two"):
        merge(Recipe.load(None, [*common, "vocabulary=base"]), models / "other")


def test_the_tokenizer_that_is_written_finds_the_added_tokens(models: Path) -> None:
    from transformers import AutoTokenizer

    made(models, "vocabulary=union", "vocabulary.tokens.new=zero", experts="two")
    tokenizer = AutoTokenizer.from_pretrained(models / "out")
    assert tokenizer.convert_ids_to_tokens(tokenizer("a x new y q").input_ids) == ["a", "x", "new", "y", "<unk>"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("vocabulary=nobody",), "vocabulary.source: there is no model 'nobody'; there are union, base, one"),
        (("vocabulary.tokens.a=nobody",), r"vocabulary\.tokens\.a: there is no model 'nobody'"),
        (("vocabulary.tokens.x={source: base, force: true}",), r"vocabulary\.tokens\.x: base has no token 'x'"),
        (("vocabulary.tokens.a={model: one, token: nothing}",), "one has no token 'nothing'"),
        (("vocabulary.tokens.a={model: one, id: 99}",), "one has no row 99"),
        (("vocabulary.tokens.a={source: {model: one}}",), "give the row's token or its id"),
        (("vocabulary=union", "space=adapter"), "adapters have no tokens"),
    ],
    ids=str,
)
def test_rules_that_name_what_is_not_there_are_refused(overrides: tuple[str, ...], said: str, models: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        open_pool(recipe(models, *overrides))


def test_a_model_without_a_tokenizer_or_a_size_is_refused(models: Path) -> None:
    (models / "one" / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json, vocab\.json or vocab\.txt"):
        open_pool(recipe(models, "vocabulary=base"))
    (models / "base" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="has no vocab_size"):
        open_pool(recipe(models, "vocabulary=base"))


def test_tokens_cannot_be_added_to_a_tokenizer_of_another_form(models: Path) -> None:
    for name, words in WORDS.items():
        (models / name / "tokenizer.json").unlink()
        (models / name / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json, to which"):
        open_pool(recipe(models, "vocabulary=union"))
    open_pool(recipe(models, "vocabulary=base"))


def test_a_table_that_a_donor_lacks_is_named(models: Path) -> None:
    save_worded(models / "one", {TABLE: table(0, 5)[:, :1].clone(), "w": torch.ones(4, 2)}, WORDS["one"], CONFIG)
    with pytest.raises(IncompatibleModels, match=f"lends rows of {TABLE}, which it has not in this shape"):
        open_pool(recipe(models, "vocabulary=union"))


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("auto", "{{ both }}"), ("{{ mine }}", "{{ mine }}")],
)
def test_a_chat_template_is_the_one_of_most_models_or_the_one_that_is_given(
    wanted: str, expected: str, models: Path
) -> None:
    (models / "base" / "chat_template.jinja").write_text("{{ base }}")
    for name in ("one", "two"):
        settings = json.loads((models / name / "tokenizer_config.json").read_text())
        (models / name / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": "{{ both }}"}))
    given = recipe(models, "vocabulary=two", f"output.chat_template='{wanted}'", experts="one two", method="ties")
    merge(given, models / "out")
    assert (models / "out" / "chat_template.jinja").read_text() == expected
    assert "chat_template" not in json.loads((models / "out" / "tokenizer_config.json").read_text())
