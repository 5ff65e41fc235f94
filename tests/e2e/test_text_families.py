"""Classifiers of texts with trained heads, through the command line: all kinds of method on GPT-2 and an encoder."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusionbench.finetune.recipe import FinetuneRecipe
from fusionbench.suites import Suite
from fusionbench.suites.tuning import finetune_suite
from tiny_texts import make_bert, make_gpt2, write_text_task

Run = Callable[..., subprocess.CompletedProcess[str]]
OTHERS = ("the dog runs", "a dog sleeps", "the bird runs", "the cat is very good", "a dog is good", "a bird is bad")
METHODS: dict[str, tuple[str, ...]] = {
    "pretrained": (),
    "individual": (),
    "traditional_mtl": (),
    "simple_average": (),
    "task_arithmetic": ("method.scale=0.5",),
    "ties": ("method.density=0.5",),
    "fisher": ("method.examples=6",),
    "regmean": ("method.examples=12",),
    "adamerging": ("method.steps=2", "method.batch=4"),
}


@pytest.fixture(scope="session", params=["gpt2", "encoder"])
def suite(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The YAML of a suite of two tasks, their experts and a model of both, fine-tuned here."""
    folder = tmp_path_factory.mktemp(f"texts-{request.param}")
    {"gpt2": make_gpt2, "encoder": make_bert}[request.param](folder / "base")
    tasks = {}
    for name, texts in (("moods", None), ("others", OTHERS)):
        data = write_text_task(folder / "data" / name, **({} if texts is None else {"texts": texts}))
        tasks[name] = {"kind": "text_lines", "dataset": f"./data/{data.name}", "class_names": ["bad", "good"]}
        tasks[name]["metrics"] = ["accuracy", "matthews"]
    experts = {name: f"./experts/{name}" for name in tasks}
    pool = {"base": "./base", "experts": experts, "family": request.param, "mtl": "./experts/mtl"}
    described = Suite.read({"name": f"tiny-{request.param}", "pool": pool, "tasks": tasks})
    (folder / "suite.yaml").write_text(described.to_yaml())
    recipe = FinetuneRecipe(steps=25, batch=12, learning_rate=1e-2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSIONBENCH_CACHE", str(cache))
        patch.chdir(folder)
        from fusionbench.suites import load_suite

        loaded = load_suite(folder / "suite.yaml").suite
        finetune_suite(loaded, folder / "experts", recipe)
        finetune_suite(load_suite(folder / "suite.yaml").suite, folder / "experts", recipe, mtl=True)
    return folder / "suite.yaml"


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


@pytest.mark.parametrize("method", METHODS)
def test_every_kind_of_method_runs_on_classifiers_of_texts(
    method: str, suite: Path, fusionbench: Run, tmp_path: Path
) -> None:
    found = fusionbench("run", f"suite={suite}", f"method={method}", *METHODS[method], "--out", tmp_path / "run")
    assert found.returncode == 0, found.stderr
    said = report(tmp_path / "run")
    assert set(said["tasks"]) == {"moods", "others"}
    for task in said["tasks"].values():
        assert set(task) - {"seen"} == {"accuracy", "matthews"}
    if method == "individual":
        records = {n: json.loads((suite.parent / f"experts/{n}/fusionbench.json").read_text()) for n in said["tasks"]}
        for name, task in said["tasks"].items():
            assert task["accuracy"]["value"] == records[name]["scores"][name]["test"]["accuracy"]


def test_an_expert_that_is_left_out_still_brings_the_head_of_its_task(
    suite: Path, fusionbench: Run, tmp_path: Path
) -> None:
    chosen = (f"suite={suite}", "suite.experts=[moods]", "suite.unseen=[others]", "method=simple_average")
    found = fusionbench("run", *chosen, "--out", tmp_path / "run")
    assert found.returncode == 0, found.stderr
    said = report(tmp_path / "run")
    assert {name: task["seen"] for name, task in said["tasks"].items()} == {"moods": True, "others": False}
    assert said["skipped"] == {}


def test_a_task_that_never_had_a_head_is_skipped_with_the_reason(suite: Path, fusionbench: Run, tmp_path: Path) -> None:
    without = suite.with_name("headless.yaml")
    document = json.loads(json.dumps(Suite.from_yaml(suite.read_text()).model_dump(mode="json")))
    del document["pool"]["experts"]["others"]
    document["unseen"] = ["others"]
    without.write_text(Suite.read(document).to_yaml())
    found = fusionbench("run", f"suite={without}", "method=simple_average", "--out", tmp_path / "run")
    assert found.returncode == 0, found.stderr
    said = report(tmp_path / "run")
    assert set(said["tasks"]) == {"moods"}
    assert "has no trained head" in said["skipped"]["others"]


def test_an_expert_of_another_family_is_refused_before_anything_is_written(
    suite: Path, fusionbench: Run, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    (make_bert if "gpt2" in suite.parent.name else make_gpt2)(other)
    experts = f"experts={{moods: {suite.parent / 'experts/moods'}, others: {{model: {other}, task: others}}}}"
    found = fusionbench("run", f"suite={suite}", "method=simple_average", experts, "--out", tmp_path / "run")
    assert found.returncode == 2
    assert "others: is a" in found.stderr
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "run" / "model").exists()
