import json

import pytest

from fusionbench.errors import CheckpointError
from fusionbench.families.tokens import read_token_processor
from fusionbench.weights.sources import open_source
from tiny_texts import make_tokenizer


def test_texts_become_tokens_and_are_cut_at_the_length(gpt2_folder):
    processor = read_token_processor(open_source(gpt2_folder), 3)
    # the words' numbers are their places in the vocabulary
    assert processor.prepare(["the cat runs", "a very good dog sleeps"]) == [
        {"input_ids": [4, 6, 9]},
        {"input_ids": [5, 14, 12]},
    ]


def test_pairs_follow_each_other_for_gpt2_and_are_told_apart_for_bert(gpt2_folder, bert_folder):
    gpt2, bert = (read_token_processor(open_source(folder)) for folder in (gpt2_folder, bert_folder))
    assert gpt2.prepare(["the cat"], ["a dog"]) == [{"input_ids": [4, 6, 5, 7]}]
    assert bert.prepare(["the cat"], ["a dog"]) == [
        {"input_ids": [2, 4, 6, 3, 5, 7, 3], "token_type_ids": [0, 0, 0, 0, 1, 1, 1]}
    ]


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"model_type": "gpt2", "n_positions": 1024}, 512),
        ({"model_type": "gpt2", "n_positions": 64}, 64),
        ({"model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 0}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 130, "pad_token_id": 1}, 128),
        ({}, 512),
    ],
)
def test_no_text_is_longer_than_the_model_can_take(tmp_path, config, length):
    from safetensors.numpy import save_file

    make_tokenizer(tmp_path, pairs=False)
    save_file({}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_token_processor(open_source(tmp_path)).length == length


def test_the_key_follows_the_tokenizer_and_the_length(tmp_path, gpt2_folder, bert_folder):
    keys = [read_token_processor(open_source(folder), n).key for folder in (gpt2_folder, bert_folder) for n in (8, 9)]
    assert len(set(keys)) == 4
    assert read_token_processor(open_source(gpt2_folder), 8).key == keys[0]


def test_a_folder_without_a_tokenizer_is_named(tmp_path, gpt2_folder):
    import shutil

    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(gpt2_folder / name, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"holds no tokenizer.*Save the base model's tokenizer"):
        read_token_processor(open_source(tmp_path))
