import pytest

from fusionbench.suites.mini.t5_mixture import all_texts, prompt_of, wrong_answers
from fusionbench.suites.mini.t5_words import END, PAD, SENTINELS, make_tokenizer, vocabulary
from fusionbench.suites.texts import KINDS, make_records


@pytest.fixture(scope="module")
def records():
    return {name: make_records(name, seed=0, train=20, validation=2, test=2)["train"] for name in KINDS}


@pytest.fixture(scope="module")
def tokenizer(records):
    return make_tokenizer(vocabulary(all_texts(records)))


def test_prompts_and_answers_come_back_letter_for_letter(records, tokenizer):
    texts = [prompt_of(name).question(record) for name, of_task in records.items() for record in of_task]
    texts += [prompt_of(name).answer(label) for name in KINDS for label in wrong_answers(name)]
    tokens = tokenizer(texts)["input_ids"]
    assert tokenizer.batch_decode(tokens, skip_special_tokens=True) == texts
    assert all(line[-1] == END and tokenizer.unk_token_id not in line for line in tokens)


def test_a_number_is_written_digit_by_digit(tokenizer):
    assert len(tokenizer("3.0")["input_ids"]) == 5  # blank, 3, point, 0, end


def test_special_tokens_have_the_numbers_that_the_model_is_told(tokenizer):
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (PAD, END)
    first = tokenizer.convert_tokens_to_ids(SENTINELS[0])
    assert [tokenizer.convert_tokens_to_ids(sentinel) for sentinel in SENTINELS] == [first + n for n in range(8)]
    assert first + 8 == len(tokenizer)


def test_a_saved_tokenizer_is_loaded_by_transformers_with_the_same_tokens(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    text = "Answere with 'yes' or 'no'."
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.decode(loaded("positive")["input_ids"], skip_special_tokens=True) == "positive"


def test_the_vocabulary_does_not_depend_on_the_order_of_texts():
    assert vocabulary(["b a", "c"]) == vocabulary(["c", "b a", "b a"])
