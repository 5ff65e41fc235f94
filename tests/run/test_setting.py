"""What a recipe speaks of: the records of the experts among it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from checkpoints import save_model
from fusionbench.config import Recipe
from fusionbench.errors import CheckpointError
from fusionbench.registry import tasks
from fusionbench.run import resolve, run
from fusionbench.weights.sources import open_source

Make = Callable[..., Recipe]


def record(suite: Path, expert: str, content: object) -> None:
    (suite.parent / expert / "fusionbench.json").write_text(
        content if isinstance(content, str) else json.dumps(content)
    )


def test_results_are_compared_to_the_primary_metric_of_the_records(recipe: Make, tmp_path: Path) -> None:
    """The records name the loss first; the tasks' primary metric is the accuracy, .5 in each."""
    report = run(recipe("simple_average"), out=tmp_path / "run").report
    values = [report.tasks[task].value for task in ("cats", "dogs")]
    assert report.variants[0].normalized == pytest.approx(sum(value / 0.5 for value in values if value is not None) / 2)
    assert report.inputs["individual"].startswith("sha256:")


def test_a_changed_record_is_another_run(recipe: Make, suite: Path) -> None:
    first = resolve(recipe("simple_average")).identity()
    assert resolve(recipe("simple_average")).identity() == first
    record(suite, "dogs", {"scores": {"dogs": {"test": {"loss": 9.0, "accuracy": 0.75}}}})
    assert resolve(recipe("simple_average")).identity() != first


def test_records_of_what_is_not_scored_do_not_count(recipe: Make, suite: Path) -> None:
    def identity(*overrides: str) -> str:
        return resolve(recipe("simple_average", *overrides)).identity()

    before = [identity("tasks=[cats]"), identity("tasks.limit=4"), identity("tasks.split=validation")]
    record(suite, "dogs", {"scores": {"dogs": {"test": {"accuracy": 0.75}}}})
    assert [identity("tasks=[cats]"), identity("tasks.limit=4"), identity("tasks.split=validation")] == before
    assert resolve(recipe("simple_average", "tasks.limit=4")).recorded == {}


@pytest.mark.parametrize("content", ['{"scores": {', "[1]", {"scores": {"dogs": {"test": {"accuracy": "good"}}}}])
def test_a_damaged_record_is_one_clear_error(recipe: Make, suite: Path, content: object) -> None:
    record(suite, "dogs", content)
    with pytest.raises(CheckpointError, match=r"fusionbench\.json is damaged.*remove that file"):
        resolve(recipe("simple_average"))


def test_a_score_that_is_no_number_leaves_the_normalised_one_out(recipe: Make, suite: Path, tmp_path: Path) -> None:
    record(suite, "dogs", {"scores": {"dogs": {"test": {"accuracy": None}}}})
    assert run(recipe("simple_average"), out=tmp_path / "run").report.variants[0].normalized is None


def with_head(suite: Path, where: str) -> Path:
    """Let the task cats have a head of its own, named by the task or by its expert; return the head's file."""
    document = json.loads(suite.read_text())
    named = document["tasks"] if where == "task" else document["pool"]["experts"]
    named["cats"] = {
        **(named["cats"] if isinstance(named["cats"], dict) else {"model": named["cats"]}),
        "head": "./head",
    }
    suite.write_text(json.dumps(document))
    save_model(suite.parent / "head", {"weight": torch.zeros(2, 3)}, {"model_type": "toy"})
    return suite.parent / "head"


@pytest.mark.parametrize("where", ["task", "expert"])
def test_a_head_that_is_named_apart_from_the_models_is_part_of_what_names_a_run(
    recipe: Make, suite: Path, where: str
) -> None:
    head = with_head(suite, where)
    first = resolve(recipe("simple_average"))
    assert [name for name in first.inputs() if name.startswith("head ")] == ["head cats"]
    assert first.inputs()["head cats"] == open_source(head).fingerprint()
    assert first.inputs_of_scoring().keys() == {"base", "individual", "head cats"}
    assert "head cats" not in resolve(recipe("simple_average", "tasks=[dogs]")).inputs()
    names = first.identity(), first.identity(first.inputs_of_scoring())
    save_model(head, {"weight": torch.ones(2, 3)}, {"model_type": "toy"})
    changed = resolve(recipe("simple_average"))
    assert changed.identity() != names[0]
    assert changed.identity(changed.inputs_of_scoring()) != names[1]


def test_a_head_that_is_an_expert_itself_is_named_once(recipe: Make, suite: Path) -> None:
    document = json.loads(suite.read_text())
    document["tasks"]["cats"]["head"] = "./cats"
    suite.write_text(json.dumps(document))
    setting = resolve(recipe("simple_average"))
    assert setting.inputs().keys() == {"base", "cats", "dogs", "individual"}
    # The model that is scored is another one.
    assert setting.inputs_of_scoring().keys() == {"base", "individual", "head cats"}


def test_another_code_of_corruptions_is_another_run_of_those_that_see_it(
    recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [recipe("simple_average"), recipe("simple_average", "tasks.corruption=contrast")]
    first = [resolve(each).identity() for each in asked]
    monkeypatch.setattr("fusionbench.run.setting.CORRUPTIONS_VERSION", 2)
    clean, corrupted = (resolve(each).identity() for each in asked)
    assert clean == first[0]
    assert corrupted != first[1]


@pytest.mark.parametrize(
    ("method", "key"),
    [("adamerging", "coefficients"), ("concrete_adamerging", "logits"), ("wemoe", "routers"), ("pwe_moe", "gates"),
     ("surgery", "adapters"), ("surgery", "inner.coefficients")],
)  # fmt: skip
def test_what_an_earlier_run_learned_is_part_of_what_names_a_run(
    recipe: Make, tmp_path: Path, method: str, key: str
) -> None:
    learned = tmp_path / "learned"
    inner = ["method.inner=adamerging"] if key.startswith("inner.") else []

    def identity() -> str:
        return resolve(recipe(method, *inner, f"method.{key}={learned}")).identity()

    missing = identity()
    save_model(learned, {"weight": torch.zeros(2, 3)}, {"model_type": "toy"})
    first = identity()
    assert resolve(recipe(method, *inner, f"method.{key}={learned}")).inputs()[f"method.{key}"] == (
        open_source(learned).fingerprint()
    )
    save_model(learned, {"weight": torch.ones(2, 3)}, {"model_type": "toy"})
    assert len({missing, first, identity()}) == 3
    assert not any(name.startswith("method.") for name in resolve(recipe(method, *inner)).inputs())


def test_a_raised_version_of_a_kind_of_task_is_another_run(recipe: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    first = resolve(recipe("simple_average")).identity()
    kinds = {"image": replace(tasks["image"], version=1)}
    monkeypatch.setattr("fusionbench.run.setting.task_kinds", kinds)
    assert resolve(recipe("simple_average")).identity() == first
    kinds["image"] = replace(tasks["image"], version=2)
    assert resolve(recipe("simple_average")).identity() != first
