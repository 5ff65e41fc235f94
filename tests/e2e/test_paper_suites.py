"""The papers' suites under their published ids, on a stand-in of the hub with tiny models: the whole path, offline."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fusionbench.experiments.rendering import as_markdown
from fusionbench.suites.paper import describe, suite_of
from fusionbench.suites.tasks import task_spec
from hub_stand_in import HubCache
from paper_stand_ins import add_clip_models, add_image_data, answered
from tiny_clip import make_clip
from tiny_texts import SENTENCES, make_gpt2


def add_clip(hub: HubCache, name: str, folder: Path) -> None:
    """Put a tiny CLIP, its experts and its tasks' data under the ids of a suite; experts hold the vision tower only."""
    suite = suite_of(name, describe(name))
    make_clip(folder, seed=0)
    add_clip_models(hub, suite, folder)
    add_image_data(hub, suite)


def add_gpt2(hub: HubCache, folder: Path) -> None:
    """Put a tiny GPT-2, its classifiers and GLUE's columns under the ids of `gpt2/glue7`."""
    import datasets

    suite = suite_of("gpt2/glue7", describe("gpt2/glue7"))
    make_gpt2(folder)
    shutil.copytree(folder, hub.model("gpt2"), dirs_exist_ok=True)
    weights = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    width = config["n_embd"]
    for task, expert in suite.pool.experts.items():
        classes = 3 if task == "mnli" else 2
        place = hub.model(expert.model)
        body = {f"transformer.{key.removeprefix('transformer.')}": value for key, value in weights.items()}
        head = np.random.default_rng(classes).normal(size=(classes, width)).astype("f4")
        save_file(body | {"score.weight": head}, place / "model.safetensors")
        labels = {"id2label": {str(number): f"LABEL_{number}" for number in range(classes)}}
        (place / "config.json").write_text(json.dumps(config | labels))
        spec = task_spec(suite, task)
        columns = [spec.columns.text, *([spec.columns.pair] if spec.columns.pair else [])]
        kinds = {column: datasets.Value("string") for column in columns}
        features = datasets.Features(kinds | {"label": datasets.ClassLabel(num_classes=classes)})
        rows: dict[str, Any] = {column: list(SENTENCES) for column in columns}
        held = datasets.Dataset.from_dict(rows | {"label": [0, 1, 0, 1, 0, classes - 1]}, features)
        assert spec.splits is not None
        hub.dataset(spec.dataset, {"train": held, spec.splits["test"]: held}, str(spec.config))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> HubCache:
    root = tmp_path_factory.mktemp("hub")
    hub = HubCache(root)
    with pytest.MonkeyPatch.context() as patch:
        hub.use(patch)
        add_clip(hub, "clip-vit-b32/ta8", root / "clip")
        add_clip_models(hub, suite_of("clip-vit-l14/ta8", describe("clip-vit-l14/ta8")), root / "clip")
        add_gpt2(hub, root / "gpt2")
    return hub


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def test_clip_is_fetched_merged_and_scored_on_eight_tasks_under_its_published_ids(
    filled, fusionbench, tmp_path, monkeypatch
):
    filled.use(monkeypatch)
    done = fusionbench("run", "suite=clip-vit-b32/ta8", "method=simple_average", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    found = report(tmp_path / "out")
    assert list(found["tasks"]) == ["sun397", "stanford_cars", "resisc45", "eurosat", "svhn", "gtsrb", "mnist", "dtd"]
    assert {task["accuracy"]["n"] for task in found["tasks"].values()} == {4}
    assert found["suite"]["name"] == "clip-vit-b32/ta8"
    # The merged tower in the published layout of the base, with the base's own text tower.
    merged = load_file(tmp_path / "out" / "model" / "model.safetensors")
    assert any(key.startswith("text_model.") for key in merged)


def test_a_published_corrupted_split_is_read_and_named(filled, fusionbench, tmp_path, monkeypatch):
    filled.use(monkeypatch)
    asked = ("suite=clip-vit-b32/ta8", "suite.experts=[gtsrb,mnist]", "tasks.corruption=contrast", "method=pretrained")
    done = fusionbench("run", *asked, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    (note,) = (note for note in report(tmp_path / "out")["notes"] if "corrupted" in note)
    assert "contrast, severity 2" in note
    assert note.endswith("as published for gtsrb, where only the test images are")
    other = fusionbench("run", *asked, "tasks.severity=3", "--out", tmp_path / "other")
    assert other.returncode == 2
    assert "severity" in other.stderr


def test_gpt2_is_merged_and_scored_with_the_heads_of_its_published_experts(filled, fusionbench, tmp_path, monkeypatch):
    filled.use(monkeypatch)
    done = fusionbench("run", "suite=gpt2/glue7", "method=simple_average", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    found = report(tmp_path / "out")
    assert list(found["tasks"]) == ["cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2"]
    assert {task["accuracy"]["n"] for task in found["tasks"].values()} == {6}
    assert any("validation" in note for note in found["notes"])


def test_what_is_not_in_the_cache_is_one_error_that_tells_how_to_fetch_it(fusionbench, tmp_path, monkeypatch):
    HubCache(tmp_path).use(monkeypatch)
    done = fusionbench("run", "suite=clip-vit-l14/ta8", "method=simple_average", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "hf download openai/clip-vit-large-patch14" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["multi-task-clip-b32", "generalization-clip-b32-2", "robustness-clip-b32", "multi-task-gpt2"]
)
def test_the_papers_tables_are_answered_under_the_published_ids(name, filled, fusionbench, tmp_path, monkeypatch):
    filled.use(monkeypatch)
    answer = answered(name, tmp_path / "runs")
    assert any(verdict for line in answer.lines for verdict in line.verdicts.values())
    # The claim that spans two tables waits for the other one.
    spanning = {claim.missing for claim in answer.claims} - {""}
    assert spanning == ({"multi-task-clip-l14"} if name == "multi-task-clip-b32" else set())


@pytest.mark.slow
def test_a_claim_that_spans_two_tables_is_judged_once_both_are_run(filled, fusionbench, tmp_path, monkeypatch):
    filled.use(monkeypatch)
    rows = ("individual", "simple_average")
    answered("multi-task-clip-l14", tmp_path / "multi-task-clip-l14-paper", *rows)
    answer = answered("multi-task-clip-b32", tmp_path / "b32", *rows)
    spanning = {claim.higher: claim for claim in answer.claims if claim.higher.startswith("individual − ")}
    found = spanning["individual − simple_average"]
    averages = {line.label: line.values["average"].value for line in answer.lines}
    gap = averages["individual"] - averages["simple_average"]
    # The same tiny models stand under both sizes' names, so that the gaps are equal.
    assert (found.ours, found.holds) == ((pytest.approx(gap), pytest.approx(gap)), False)
    # Printed: 90.3 − 66.5 and 94.3 − 80.0.
    assert found.printed == (pytest.approx(23.8), pytest.approx(14.3))
    assert spanning["individual − wemoe"].missing == "multi-task-clip-l14"


def test_a_row_with_unseen_tasks_is_answered_beside_the_printed_one(filled, fusionbench, tmp_path, monkeypatch):
    filled.use(monkeypatch)
    answer = answered("generalization-clip-b32-1", tmp_path / "runs", "task_arithmetic")
    (line,) = answer.lines
    assert (line.printed["average"], line.printed["unseen_average"]) == (69.9, 59.1)
    assert {"mnist", "eurosat", "sun397"} < set(line.values)


@pytest.mark.slow
def test_matrices_of_the_papers_are_answered(filled, fusionbench, tmp_path, monkeypatch):
    filled.use(monkeypatch)
    cosines = answered("cosine-clip-b32", tmp_path / "cosines")
    assert "of 28 printed cosines agree within 0.015" in cosines.remark
    assert "(0.15)" in as_markdown(cosines)
    matrix = answered("transfer-clip-b32", tmp_path / "transfer")
    assert [line.label for line in matrix.lines][:2] == ["pretrained", "sun397"]
    assert all(line.verdicts for line in matrix.lines)
