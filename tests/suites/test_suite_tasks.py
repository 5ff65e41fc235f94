import numpy as np
import pytest

from fusionbench.errors import CheckpointError, ConfigError
from fusionbench.suites import Suite
from fusionbench.suites.array_task import write_split
from fusionbench.suites.tasks import open_tasks
from tiny_clip import noise
from tiny_texts import write_text_task


@pytest.fixture
def suite(tmp_path, cache, clip_folder) -> Suite:
    tasks = {}
    for name in ("pets", "birds", "things"):
        write_split(tmp_path / name, "test", noise(4), np.array([0, 1, 0, 1]))
        tasks[name] = {"kind": "image_arrays", "dataset": str(tmp_path / name), "class_names": ["cat", "dog"]}
    experts = {"pets": "./pets-expert", "other": {"model": "./x", "task": "birds"}}
    return Suite.read(
        {
            "name": "mine",
            "pool": {"base": str(clip_folder), "experts": experts},
            "tasks": tasks,
            "unseen": ["things"],
        }
    )


def test_seen_tasks_come_first_then_the_unseen(suite):
    opened = open_tasks(suite)
    assert list(opened) == ["pets", "birds", "things"]
    assert [task.name for task in opened.values()] == list(opened)
    assert {task.family.name for task in opened.values()} == {"clip"}


def test_tasks_can_be_named_in_any_order(suite):
    assert list(open_tasks(suite, ("things", "pets"))) == ["things", "pets"]


def test_an_unknown_task_is_an_error_with_the_nearest(suite):
    with pytest.raises(ConfigError, match=r"mine has no task 'pet'. Did you mean pets"):
        open_tasks(suite, ("pet",))


def test_a_wrong_description_names_suite_task_and_key(suite):
    tasks = {**suite.tasks.tasks, "pets": {"dataset": "x", "classes": ["cat"]}}
    wrong = suite.model_copy(update={"tasks": type(suite.tasks)(tasks=tasks)})
    with pytest.raises(ConfigError, match=r"(?s)The task pets of the suite mine is wrong.*classes"):
        open_tasks(wrong)


def test_a_suite_without_a_base_has_no_heads(suite):
    headless = suite.model_copy(update={"pool": suite.pool.model_copy(update={"base": None})})
    with pytest.raises(ConfigError, match=r"mine has no base.*pool\.base"):
        open_tasks(headless)


@pytest.fixture
def texts(tmp_path, cache, gpt2_folder) -> Suite:
    """A suite of classifiers of texts, whose heads come with their experts."""
    data = str(write_text_task(tmp_path / "moods"))
    task = {"kind": "text_lines", "dataset": data, "class_names": ["bad", "good"]}
    experts = {"moods": "./expert", "mine": {"model": "./other", "task": "mine", "head": "./head"}}
    tasks = {"moods": task, "mine": task, "named": task | {"head": "./named"}, "bare": task}
    pool = {"base": str(gpt2_folder), "experts": experts, "family": "gpt2"}
    return Suite.read({"name": "words", "pool": pool, "tasks": tasks, "unseen": ["named", "bare"]})


@pytest.mark.parametrize(("name", "head"), [("moods", "expert"), ("mine", "head"), ("named", "named")])
def test_a_head_is_that_of_the_task_else_of_its_expert_else_the_expert_itself(texts, name, head):
    with pytest.raises(CheckpointError, match=rf"The head of the task {name} cannot be read: .*{head}"):
        open_tasks(texts, (name,))


def test_a_task_without_an_expert_has_no_head_and_no_task_has_one_where_experts_are_trained(texts):
    assert open_tasks(texts, ("bare",))["bare"].head is None
    assert {task.head for task in open_tasks(texts, heads=False).values()} == {None}
