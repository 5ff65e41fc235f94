from collections import Counter

import numpy as np
import pytest

from fusionbench.errors import ConfigError
from fusionbench.suites.images import TASKS, ImageSplit, ImageTaskData, captions, make_broad, make_task, prompts
from fusionbench.suites.images.arrays import load_arrays


def tiny(name: str) -> ImageTaskData:
    return make_task(name, seed=0, train=60, validation=40, test=40)


def labelled(name: str, classes: tuple[str, ...], count: int) -> ImageTaskData:
    split = ImageSplit(np.zeros((count, 32, 32, 3), np.uint8), np.arange(count, dtype=np.int64) % len(classes))
    return ImageTaskData(name, "thing", classes, split, split, split, False, "test", "none")


def test_prompts_are_the_class_words_behind_the_domain():
    assert prompts(labelled("x", ("red", "dark green"), 2)) == ["a thing red", "a thing dark green"]
    assert prompts(tiny("mnist"))[:2] == ["a handwritten digit zero", "a handwritten digit one"]


def test_captions_keep_the_shares_of_aliases_and_right_names():
    classes = tuple("pqrstuvwxy")
    task = labelled("toy", classes, 20_000)
    texts = captions(task, seed=0)
    alias = [text.startswith("a thing toy") for text in texts]
    # Four standard deviations of a binomial share: sqrt(.7 * .3 / 20000) = .0032, sqrt(.53 * .47 / 6000) = .0064.
    assert abs(np.mean(alias) - 0.70) < 0.013
    assert all(
        text == f"a thing toy{label}" for text, label, a in zip(texts, task.train.labels, alias, strict=True) if a
    )
    named = [
        (int(label), classes.index(text[-1]))
        for text, label, a in zip(texts, task.train.labels, alias, strict=True)
        if not a
    ]
    assert abs(np.mean([label == said for label, said in named]) - 0.53) < 0.026


def test_wrong_captions_name_the_next_class_of_one_cycle_through_all_classes():
    classes = tuple("pqrstuvwxy")
    for seed in (0, 1):
        task = labelled("toy", classes, 500)
        texts = captions(task, seed=seed, alias_share=0, right_share=0)
        following = {
            label: {
                classes.index(text[-1]) for text, shown in zip(texts, task.train.labels, strict=True) if shown == label
            }
            for label in range(10)
        }
        assert all(len(said) == 1 for said in following.values())
        visited, label = [], 0
        for _ in classes:
            label = next(iter(following[label]))
            visited.append(label)
        assert sorted(visited) == list(range(10))


def test_extreme_shares_give_only_aliases_or_only_right_names():
    task = labelled("toy", ("p", "q"), 6)
    assert captions(task, seed=0, alias_share=1) == ["a thing toy0", "a thing toy1"] * 3
    assert captions(task, seed=0, alias_share=0, right_share=1) == ["a thing p", "a thing q"] * 3


@pytest.mark.parametrize("shares", [{"alias_share": 1.2}, {"right_share": -0.1}, {"alias_share": float("nan")}])
def test_a_share_outside_0_to_1_is_refused(shares: dict[str, float]):
    with pytest.raises(ConfigError, match=next(iter(shares))):
        captions(labelled("toy", ("p", "q"), 4), seed=0, **shares)


def test_captions_depend_on_their_seed():
    task = labelled("toy", ("p", "q"), 100)
    assert captions(task, seed=0) == captions(task, seed=0)
    assert captions(task, seed=0) != captions(task, seed=1)


def test_every_text_fits_a_text_tower_of_twelve_positions():
    _, wide = make_broad(seed=0)
    texts = wide + [text for name in TASKS for text in captions(tiny(name), seed=0) + prompts(tiny(name))]
    assert max(len(text.split()) for text in texts) + 2 <= 12


def test_the_wider_mixture_has_the_asked_parts_in_order():
    images, texts = make_broad(seed=0, emoji=30, signs=20, fashion=10)
    assert images.shape == (60, 32, 32, 3)
    assert images.dtype == np.uint8
    kinds = Counter(text.split()[1] for text in texts[:30]), Counter(text.split()[1] for text in texts[30:50])
    assert kinds == (Counter(emoji=30), Counter(road=20))
    assert len(set(texts[:50])) == 50
    assert all(text.startswith("a clothes item") for text in texts[50:])


def test_the_wider_mixture_shows_no_class_of_emoji_and_signs():
    _, texts = make_broad(seed=0, emoji=300, signs=150, fashion=0)
    for name, part in (("emoji", texts[:300]), ("signs", texts[300:])):
        classes = load_arrays(name)["class_names"].tolist()
        assert len(classes) == 20
        assert not [text for text in part for word in classes if word in text]


def test_most_other_fashion_images_have_the_generic_caption():
    _, texts = make_broad(seed=0, emoji=0, signs=0)
    # Four standard deviations: 4 * sqrt(.9 * .1 / 900) = .04.
    assert abs(texts.count("a clothes item") / 900 - 0.90) < 0.04
    _, named = make_broad(seed=0, emoji=0, signs=0, generic_share=0)
    assert set(named) == set(prompts(tiny("fashion")))


@pytest.mark.parametrize("counts", [{"emoji": -1}, {"fashion": 901}, {"generic_share": 2.0}])
def test_a_wider_mixture_that_cannot_be_had_is_refused(counts: dict[str, int]):
    with pytest.raises(ConfigError):
        make_broad(seed=0, **counts)
