import json

import numpy as np

from fusionbench.suites.mini.words import make_tokenizer, vocabulary, write_image_processor
from tiny_clip import noise


def test_words_are_numbered_after_the_special_ones_in_alphabetical_order():
    assert vocabulary(["a Road sign", "a cat"]) == {
        "<pad>": 0, "<s>": 1, "<unk>": 2, "</s>": 3, "a": 4, "cat": 5, "road": 6, "sign": 7,
    }  # fmt: skip


def test_texts_are_lowered_split_at_blanks_framed_padded_and_cut():
    tokenizer = make_tokenizer(vocabulary(["a t-shirt"]))
    tokens = tokenizer(["A t-shirt", "a hat", " ".join("a" * 20)], padding=True, truncation=True)
    assert tokens["input_ids"] == [
        [1, 4, 5, 3, *[0] * 8],
        [1, 4, 2, 3, *[0] * 8],
        [1, *[4] * 10, 3],
    ]
    assert tokens["attention_mask"][0] == [1] * 4 + [0] * 8


def test_plain_transformers_reads_the_tokenizer_back(tmp_path):
    from transformers import AutoTokenizer

    make_tokenizer(vocabulary(["a cat"])).save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("a cat")["input_ids"] == [1, 4, 5, 3]


def test_plain_transformers_normalises_as_the_processor_says(tmp_path):
    from transformers import AutoImageProcessor

    write_image_processor(tmp_path, 32, mean=0.5, deviation=0.3)
    assert (
        json.loads((tmp_path / "preprocessor_config.json").read_text())["image_processor_type"] == "CLIPImageProcessor"
    )
    image = noise(1)[0]
    pixels = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")(image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(pixels, (image.transpose(2, 0, 1) / 255 - 0.5) / 0.3, atol=1e-5)
