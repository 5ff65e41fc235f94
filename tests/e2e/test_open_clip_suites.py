"""The suites of the task_vectors release on generated files of its form: opened, merged, scored, without its code."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fusionbench.suites import Suite
from fusionbench.suites.paper import describe, suite_of
from fusionbench.suites.tasks import task_spec
from hub_stand_in import HubCache
from paper_stand_ins import IMAGES, add_image_data, answered, image_labels
from tiny_clip import noise
from tiny_open_clip import VANISHED, ClassificationHead, ImageEncoder, make_encoder, write_module

SUITES = ("openclip-vit-b32/ta8", "openclip-vit-b16/ta8", "openclip-vit-l14/ta8")
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> HubCache:
    hub = HubCache(tmp_path_factory.mktemp("hub"))
    with pytest.MonkeyPatch.context() as patch:
        hub.use(patch)
        add_image_data(hub, suite_of(SUITES[0], describe(SUITES[0])))
    return hub


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with generated files in the places of the release's."""
    root = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSIONBENCH_CACHE", str(root))
        for name in SUITES:
            write_release(suite_of(name, describe(name)))
    return root


def write_release(suite: Suite) -> None:
    base = make_encoder(0)
    write_module(base, Path(str(suite.pool.base)))
    for number, (task, expert) in enumerate(suite.pool.experts.items(), start=1):
        write_module(make_encoder(number, base), Path(expert.model))
        spec = task_spec(suite, task)
        write_module(ClassificationHead(head_of(number, len(spec.class_names or ()))), Path(str(spec.head)))


def head_of(number: int, classes: int) -> torch.Tensor:
    weight = torch.randn(classes, 8, generator=torch.Generator().manual_seed(100 + number))
    weight = 100 * weight / weight.norm(dim=1, keepdim=True)
    # Only three classes are ever answered, so that some answers are right and some wrong.
    weight[3:] *= 0.01
    return weight


def averaged(suite: Suite) -> ImageEncoder:
    """The mean of the experts by torch alone."""
    base = make_encoder(0)
    states = [make_encoder(number, base).state_dict() for number in range(1, len(suite.pool.experts) + 1)]
    base.load_state_dict({name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]})
    return base


def expected(suite: Suite) -> dict[str, float]:
    """Accuracies by torch's own layers, on the images as the release's preprocessing normalises them."""
    found, model = {}, averaged(suite)
    for number, task in enumerate(suite.pool.experts):
        count = len(task_spec(suite, task).class_names or ())
        pixels = (noise(IMAGES, seed=number) / 255 - np.array(MEAN)) / np.array(STD)
        features = model(torch.tensor(pixels, dtype=torch.float32).permute(0, 3, 1, 2))
        logits = torch.nn.functional.normalize(features, dim=-1) @ head_of(number + 1, count).T
        found[task] = float((logits.argmax(-1) == torch.tensor(image_labels(count))).float().mean())
    return found


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


@pytest.mark.parametrize("name", SUITES)
def test_the_mean_of_eight_pickled_encoders_scores_as_torch_says(
    name, hub, release, fusionbench, tmp_path, monkeypatch
):
    hub.use(monkeypatch)
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(release))
    done = fusionbench("run", f"suite={name}", "method=simple_average", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert VANISHED not in sys.modules
    found = report(tmp_path / "out")
    wanted = expected(suite_of(name, describe(name)))
    assert len(set(wanted.values())) > 2
    assert {task: score["accuracy"]["value"] for task, score in found["tasks"].items()} == pytest.approx(wanted)
    assert found["variants"][0]["model"]["parameters"] == sum(p.numel() for p in make_encoder(0).parameters())
    assert any("without their code" in note for note in found["notes"])


def test_the_merged_model_is_a_folder_that_can_be_evaluated_again(hub, release, fusionbench, tmp_path, monkeypatch):
    hub.use(monkeypatch)
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(release))
    asked = ("method=ties", "method.scale=0.3", "method.combine=sum", "suite.experts=[svhn,gtsrb,mnist]")
    done = fusionbench("run", f"suite={SUITES[0]}", *asked, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    again = fusionbench("evaluate", tmp_path / "out" / "model", f"suite={SUITES[0]}", "tasks=[mnist]", "--json")
    assert again.returncode == 0, again.stderr
    scores = json.loads(again.stdout)["tasks"]["mnist"]["accuracy"]
    assert scores == report(tmp_path / "out")["tasks"]["mnist"]["accuracy"]


def test_a_method_that_adapts_runs_on_it(hub, release, fusionbench, tmp_path, monkeypatch):
    hub.use(monkeypatch)
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(release))
    asked = ("method=adamerging", "method.steps=2", "method.batch=2", "suite.experts=[svhn,mnist]")
    done = fusionbench("run", f"suite={SUITES[0]}", *asked, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr


def test_a_head_that_is_not_there_is_one_error_with_its_place(hub, release, fusionbench, tmp_path, monkeypatch):
    hub.use(monkeypatch)
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path / "cache"))
    suite = suite_of(SUITES[0], describe(SUITES[0]))
    write_release(suite)
    place = Path(str(task_spec(suite, "mnist").head))
    place.unlink()
    done = fusionbench("run", f"suite={SUITES[0]}", "method=simple_average", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert str(place) in done.stderr.replace("\n", "")
    assert "task_vectors" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "concrete-clip-b32", "concrete-generalization-clip-b32", "scale-ties-clip-b32", "re-ties-clip-l14",
        "steps-adamerging-clip-b32", "steps-concrete-task-arithmetic-clip-b32", "transfer-openclip-b32",
    ],
)  # fmt: skip
def test_the_papers_tables_are_answered_on_files_of_the_release(name, hub, release, fusionbench, tmp_path, monkeypatch):
    hub.use(monkeypatch)
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(release))
    answered(name, tmp_path / "runs")
