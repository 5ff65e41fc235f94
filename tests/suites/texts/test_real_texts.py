"""Real texts, on a WordNet of a few hand-written synsets in the form of its files."""
# ruff: noqa: E501 - a synset is a line.

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fusionbench.errors import CheckpointError, MissingData
from fusionbench.suites.texts import real
from fusionbench.suites.texts.real import REAL, real_records
from fusionbench.suites.texts.wordnet import read_wordnet, wordnet_folder

LICENCE = "  1 This software and database is being provided to you  \n"
# A cart is a kind of vehicle, a barrow a kind of cart; a waggon stands beside the cart and is called wagon too.
NOUNS = """\
00000100 06 n 01 vehicle 0 002 ~ 00000200 n 0000 ~ 00000400 n 0000 | a thing that carries people or goods; "the vehicle stood in the yard"
00000200 06 n 02 cart 0 push_cart 0 002 @ 00000100 n 0000 ~ 00000300 n 0000 | a small vehicle that is pushed by hand; "he pushed the cart up the hill"; "a cart with two wheels was left"
00000300 06 n 01 barrow 0 001 @ 00000200 n 0000 | a cart with handles and one wheel; "she filled the barrow with earth"
00000400 06 n 02 waggon 0 wagon 0 001 @ 00000100 n 0000 | a heavy vehicle that is drawn by horses; "the waggon broke its axle on the way"
"""
ADJECTIVES = """\
00000500 00 a 02 quick 0 fast(p) 0 001 ! 00000600 a 0101 | that takes little time to be done; "a quick answer is not always good"
00000600 00 s 01 slow 0 001 ! 00000500 a 0101 | that takes much time to be done; "the slow train stops at each village"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files, all of whose texts are in the training split."""
    for name, lines in {"noun": NOUNS, "adj": ADJECTIVES, "verb": "", "adv": ""}.items():
        (tmp_path / f"data.{name}").write_text(LICENCE + lines, encoding="latin-1")
    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(real, "PARTS", {"validation": (), "test": (), "train": range(10)})
    return folder


def test_a_synset_is_read_with_its_words_its_definition_its_examples_and_whom_it_points_to(folder: Path) -> None:
    net = read_wordnet(folder)
    cart, quick = net.synsets["n", 200], net.synsets["a", 500]

    assert len(net.synsets) == 6
    assert (cart.words, cart.gloss) == (("cart", "push cart"), "a small vehicle that is pushed by hand")
    assert cart.examples == ("he pushed the cart up the hill", "a cart with two wheels was left")
    assert [synset.words[0] for synset in net.pointed(cart, "@") + net.pointed(cart, "~")] == ["vehicle", "barrow"]
    # Marks of syntax are no part of a word, and satellites are adjectives.
    assert quick.words == ("quick", "fast")
    assert [synset.words for synset in net.pointed(quick, "!")] == [("slow",)]


def drawn(task: str, label: int, count: int = 40) -> Counter[tuple[str, ...]]:
    rng = np.random.default_rng(0)
    return Counter(real.DRAWN[task]("train", rng, label) for _ in range(count))


def test_a_definition_is_the_words_own_or_anothers_of_the_same_topic(whole: Path) -> None:
    net = read_wordnet(whole)
    own = {(f"what does {word} mean?", synset.gloss) for synset in net.synsets.values() for word in synset.words}

    assert set(drawn("definition", 0)) <= own
    others = drawn("definition", 1)
    assert not set(others) & own
    nouns = {synset.gloss for place, synset in net.synsets.items() if place[0] == "n"}
    assert all((sentence in nouns) == (question.split()[2] not in ("quick", "fast", "slow"))
               for question, sentence in others)  # fmt: skip


def test_a_broken_example_differs_by_two_neighbours_one_word_less_or_one_twice(whole: Path) -> None:
    texts = {text for synset in read_wordnet(whole).synsets.values() for text in synset.examples}

    assert {text for (text,) in drawn("usage", 1)} <= texts
    for (text,) in drawn("usage", 0, 80):
        assert text not in texts
        words = sorted(text.split())
        near = [len(set(words) ^ set(one.split())) <= 1 and abs(len(words) - len(one.split())) <= 1 for one in texts]
        assert any(near)


def test_a_word_gives_way_to_a_synonym_or_to_its_antonym_or_what_stands_beside_it(whole: Path) -> None:
    same, unlike = set(drawn("synonym", 1)), set(drawn("synonym", 0))

    assert ("a quick answer is not always good", "a fast answer is not always good") in same
    assert ("a quick answer is not always good", "a slow answer is not always good") in unlike
    assert ("he pushed the cart up the hill", "he pushed the push cart up the hill") in same
    assert {hypothesis for premise, hypothesis in unlike if premise == "he pushed the cart up the hill"} == {
        "he pushed the waggon up the hill", "he pushed the wagon up the hill",
    }  # fmt: skip


def test_a_relation_is_to_the_wider_the_narrower_and_what_stands_beside(whole: Path) -> None:
    asked = "he pushed the cart up the hill"
    found = [{hypothesis for premise, hypothesis in drawn("relation", label) if premise == asked} for label in range(3)]

    assert found == [
        {"he pushed the vehicle up the hill"},
        {"he pushed the barrow up the hill"},
        {"he pushed the waggon up the hill", "he pushed the wagon up the hill"},
    ]


def test_no_text_is_in_two_splits(folder: Path) -> None:
    texts = {split: set(real._of(split, real._used)) for split in real.PARTS}

    assert sum(map(len, texts.values())) == len(set().union(*texts.values())) == 7
    assert {"validation": (0,), "test": (1, 2), "train": range(3, 10)} == real.PARTS


def test_records_have_the_columns_and_every_label_equally_often(whole: Path) -> None:
    records = real_records("synonym", seed=3, train=6, validation=0, test=0)

    assert Counter(record["label"] for record in records["train"]) == {0: 3, 1: 3}
    assert all(set(record) == {"sentence1", "sentence2", "label"} for record in records["train"])
    assert records == real_records("synonym", seed=3, train=6, validation=0, test=0)
    assert set(REAL) == {"definition", "usage", "synonym", "relation"}


def test_where_wordnet_is_not_there_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path))
    with pytest.raises(MissingData, match=r"holds no data\.noun.*apt-get install wordnet-base.*WNSEARCHDIR=FOLDER"):
        wordnet_folder()


def test_a_damaged_line_is_named(folder: Path) -> None:
    (folder / "data.verb").write_text(LICENCE + "00000700 29 v xx run\n")
    with pytest.raises(CheckpointError, match=r"data\.verb, line 2, is no synset of WordNet"):
        read_wordnet(folder)
