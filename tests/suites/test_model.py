import pytest

from fusionbench.errors import ConfigError
from fusionbench.suites import ModelPool, Suite, TaskPool

TEXT = """\
name: mine
pool:
  base: org/base@v1
  experts:
    cats: ./cats
    dogs: {model: ./dogs, task: animals}
    words: ./words
  family: clip
  mtl: ./all
tasks:
  animals: {kind: image, data: ./animals}
  cats: {kind: image, data: ./cats-data}
  birds: {kind: image, data: ./birds}
unseen: [birds]
method_defaults:
  adamerging: {steps: 250}
"""


def test_a_suite_is_read_from_yaml_alone():
    suite = Suite.from_yaml(TEXT)
    assert suite.pool.base == "org/base@v1"
    assert list(suite.pool.experts) == ["cats", "dogs", "words"]
    assert suite.pool.experts["cats"].model == "./cats"
    assert suite.pool.experts["dogs"].task == "animals"
    assert suite.tasks.tasks["birds"] == {"kind": "image", "data": "./birds"}
    assert suite.method_defaults == {"adamerging": {"steps": "250"}}


def test_a_suite_pool_and_task_pool_read_back_as_themselves():
    suite = Suite.from_yaml(TEXT)
    assert Suite.from_yaml(suite.to_yaml()) == suite
    assert ModelPool.read(suite.pool.model_dump()) == suite.pool
    assert TaskPool.read(suite.tasks.model_dump()) == suite.tasks


def test_an_expert_belongs_to_the_task_it_names_or_to_that_of_its_own_name():
    suite = Suite.from_yaml(TEXT)
    known = suite.tasks.tasks
    assert [suite.pool.task_of(name, known) for name in suite.pool.experts] == ["cats", "animals", None]
    assert suite.seen == ("cats", "animals")


def test_two_experts_of_one_task_make_one_seen_task():
    experts = {"a": {"model": "./a", "task": "cats"}, "b": {"model": "./b", "task": "cats"}}
    assert Suite(name="soup", pool={"experts": experts}, tasks={"cats": {}}).seen == ("cats",)


def test_chosen_experts_are_kept_in_the_chosen_order_and_bring_their_tasks():
    some = Suite.from_yaml(TEXT).restricted(("dogs", "cats"), ())
    assert list(some.pool.experts) == ["dogs", "cats"]
    assert some.seen == ("animals", "cats")
    assert some.unseen == ()


def test_the_task_of_an_expert_that_was_left_out_may_be_unseen():
    some = Suite.from_yaml(TEXT).restricted(("dogs",), ("cats", "birds"))
    assert some.seen == ("animals",)
    assert some.unseen == ("cats", "birds")


def test_no_choice_leaves_the_suite_as_it_is():
    suite = Suite.from_yaml(TEXT)
    assert suite.restricted(None, None) == suite


@pytest.mark.parametrize(
    ("experts", "unseen", "message"),
    [
        (("cat",), None, "no expert 'cat'. Did you mean cats"),
        (None, ("bird",), "no task 'bird'. Did you mean birds"),
        (("cats",), ("cats",), "trained on 'cats'"),
    ],
)
def test_a_choice_that_cannot_be_met_is_refused(experts, unseen, message):
    with pytest.raises(ConfigError, match=message):
        Suite.from_yaml(TEXT).restricted(experts, unseen)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("task: animals", "task: animal", "no task 'animal'. Did you mean animals"),
        ("unseen: [birds]", "unseen: [bird]", "no task 'bird'"),
        ("unseen: [birds]", "unseen: [cats]", "trained on 'cats'"),
        ("unseen: [birds]", "unsen: [birds]", "unsen"),
        ("family: clip", "familly: clip", "familly"),
    ],
)
def test_a_description_that_does_not_hold_together_is_refused_by_the_key(old, new, message):
    with pytest.raises(ConfigError, match=message):
        Suite.from_yaml(TEXT.replace(old, new), "mine.yaml")


def test_a_pool_without_experts_is_refused():
    with pytest.raises(ConfigError, match="experts"):
        ModelPool.read({"base": "./base", "experts": {}})


def test_a_task_that_loses_its_expert_keeps_the_head_that_came_with_it():
    text = TEXT.replace("family: clip", "family: gpt2").replace("model: ./dogs,", "model: ./dogs, head: ./dogs-head,")
    tasks = Suite.from_yaml(text).restricted(("words",), ("cats", "animals")).tasks.tasks
    assert {name: task.get("head") for name, task in tasks.items()} == {
        "cats": "./cats",
        "animals": "./dogs-head",
        "birds": None,
    }


def test_heads_that_are_made_of_texts_come_from_no_expert():
    tasks = Suite.from_yaml(TEXT).restricted(("words",), ("cats",)).tasks.tasks
    assert not any("head" in task for task in tasks.values())


def test_the_head_of_an_adapter_lies_beside_the_adapter_not_in_the_model_that_it_adapts():
    adapter = "cats: {model: ./base, adapter: ./cats-adapter}"
    text = TEXT.replace("family: clip", "family: gpt2").replace("cats: ./cats\n", f"{adapter}\n")
    tasks = Suite.from_yaml(text).restricted(("words",), ("cats",)).tasks.tasks
    assert tasks["cats"]["head"] == "./cats-adapter"


def test_no_experts_at_all_is_no_choice():
    with pytest.raises(ConfigError, match="experts"):
        Suite.from_yaml(TEXT).restricted((), None)
