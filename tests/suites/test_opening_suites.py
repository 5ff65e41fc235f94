"""A suite's models, opened: each has the task that the suite gives it, however the expert is called."""

import json
from pathlib import Path

import pytest

from fusionbench.config import Recipe
from fusionbench.run import resolve
from fusionbench.suites.opening import open_models
from noise_suite import make_suite


@pytest.fixture
def suite(tmp_path: Path, clip_folder: Path, other_clip_folder: Path) -> Path:
    """Two experts of one task, named otherwise than it, and one named as its task is."""
    (tmp_path / "suite").mkdir()
    file = make_suite(tmp_path / "suite", {"base": clip_folder, "cats": other_clip_folder, "dogs": clip_folder})
    document = json.loads(file.read_text())
    kitten = {"model": "./cats", "task": "cats"}
    document["pool"]["experts"] = {"kitten": kitten, "lion": kitten, "dogs": "./dogs"}
    file.write_text(json.dumps(document))
    return file


def test_an_expert_has_its_task_by_whichever_way_the_suite_is_opened(suite: Path) -> None:
    tasks = {"kitten": "cats", "lion": "cats", "dogs": "dogs"}
    assert open_models(str(suite)).tasks == tasks
    setting = resolve(Recipe.load(None, [f"suite={suite}", "method=simple_average"]))
    assert setting.pool.tasks == tasks
    assert list(setting.tasks) == ["cats", "dogs"]
