import numpy as np
import pytest

from fusionbench.errors import ConfigError, MissingData
from fusionbench.finetune.recipe import FinetuneRecipe
from fusionbench.suites import Suite
from fusionbench.suites.array_task import write_split
from fusionbench.suites.tuning import finetune_suite
from tiny_clip import noise

RECIPE = FinetuneRecipe(steps=2, batch=4, learning_rate=1e-3)


@pytest.fixture
def suite(tmp_path, cache, clip_folder) -> Suite:
    tasks = {}
    for number, name in enumerate(("pets", "birds", "things")):
        for split in ("train", "validation", "test"):
            write_split(tmp_path / "data" / name, split, noise(8, seed=number), np.arange(8) % 2)
        tasks[name] = {"kind": "image_arrays", "dataset": str(tmp_path / "data" / name), "class_names": ["cat", "dog"]}
    experts = {"pets": "./pets-expert", "birds": "./birds-expert"}
    return Suite.read(
        {"name": "mine", "pool": {"base": str(clip_folder), "experts": experts}, "tasks": tasks, "unseen": ["things"]}
    )


def test_every_task_gets_a_folder_of_its_own(tmp_path, suite):
    records = finetune_suite(suite, tmp_path / "out", RECIPE)
    assert list(records) == ["pets", "birds", "things"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["birds", "pets", "things"]
    assert {name: list(record["tasks"]) for name, record in records.items()} == {name: [name] for name in records}


def test_a_call_that_was_stopped_after_one_expert_goes_on_with_the_next(tmp_path, suite):
    finetune_suite(suite, tmp_path / "out", RECIPE, tasks=("pets",))
    told = []
    finetune_suite(suite, tmp_path / "out", RECIPE, tasks=("pets", "birds"), progress=lambda *news: told.append(news))
    assert {what for what, _, _ in told} == {"birds"}


def test_multi_task_learning_makes_one_model_of_all_tasks(tmp_path, suite):
    records = finetune_suite(suite, tmp_path / "out", RECIPE, tasks=("pets", "birds"), mtl=True)
    assert list(records) == ["mtl"]
    assert list(records["mtl"]["tasks"]) == ["pets", "birds"]
    assert set(records["mtl"]["scores"]) == {"pets", "birds"}


def test_a_suite_of_whose_tasks_none_is_chosen_is_not_passed_over(tmp_path, suite):
    free = suite.model_copy(update={"unseen": (), "pool": suite.pool.model_copy(update={"experts": {}})})
    with pytest.raises(ConfigError, match=r"mine says of no task .* Name some: tasks=\[NAME\]"):
        finetune_suite(free, tmp_path / "out", RECIPE)


def test_a_suite_without_a_base_cannot_be_tuned(tmp_path, suite):
    baseless = suite.model_copy(update={"pool": suite.pool.model_copy(update={"base": None})})
    with pytest.raises(ConfigError, match="mine has no base"):
        finetune_suite(baseless, tmp_path / "out", RECIPE)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_that_the_last_task_lacks_is_told_before_the_first_is_trained(tmp_path, suite, split):
    for part in ("images", "labels"):
        (tmp_path / "data" / "things" / f"{split}_{part}.npy").unlink()
    with pytest.raises(MissingData, match=f"things has no split '{split}'"):
        finetune_suite(suite, tmp_path / "out", RECIPE)
    assert not (tmp_path / "out").exists()


def test_a_device_that_is_not_there_is_refused_by_its_name(tmp_path, suite):
    with pytest.raises(ConfigError, match="cuda:7: this machine has"):
        finetune_suite(suite, tmp_path / "out", RECIPE, device="cuda:7")
