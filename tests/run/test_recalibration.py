import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fusionbench.config import Recipe
from fusionbench.errors import ConfigError, MissingData
from fusionbench.run import run
from fusionbench.run.recalibration import BATCH, estimate
from tiny_resnets import write_resnet_suite

Run = Callable[..., Path]


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_resnet_suite(tmp_path_factory.mktemp("resnets"))


@pytest.fixture
def fused(suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a recipe on the suite of ResNets; return the run's folder."""
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path / "cache"))

    def call(name: str, *overrides: str) -> Path:
        run(Recipe.load(None, [f"suite={suite}", *overrides]), out=tmp_path / name)
        return tmp_path / name

    return call


def report_of(folder: Path) -> Mapping[str, Any]:
    return json.loads((folder / "report.json").read_text())


class Images:
    """A task of numbers, one a "pixel", whose features are what the module gives."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values
        self.family = self

    def size(self, split: str) -> int:
        assert split == "validation"
        return len(self.values)

    def batches(self, split: str, *, size: int, seed: int, labels: bool) -> Any:
        assert (split, labels) == ("validation", False)
        start = 0
        while True:
            yield {"pixel_values": self.values[[i % len(self.values) for i in range(start, start + size)]]}
            start += size

    def features(self, module: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return module(batch["pixel_values"])


def test_statistics_are_the_means_over_batches_that_mix_the_tasks() -> None:
    # Two tasks in batches of 32 + 32: 96 inputs each make three batches.
    values = torch.randn(2, 96, 3, generator=torch.Generator().manual_seed(0)) * 2 + torch.tensor([[[1.0]], [[-5.0]]])
    module = nn.Sequential(nn.BatchNorm1d(3)).eval()
    found = estimate(module, {"a": Images(values[0]), "b": Images(values[1])}, seed=0)  # type: ignore[dict-item]
    batches = values.numpy().reshape(2, 3, 32, 3).transpose(1, 0, 2, 3).reshape(3, BATCH, 3)
    np.testing.assert_allclose(found["0.running_mean"], batches.mean(axis=(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(found["0.running_var"], batches.var(axis=1, ddof=1).mean(axis=0), rtol=1e-5)
    assert torch.equal(module.state_dict()["0.running_mean"], found["0.running_mean"])


def test_deeper_layers_see_what_the_normalised_layers_before_them_give() -> None:
    values = torch.randn(64, 3, generator=torch.Generator().manual_seed(1)) * 4 + 7
    module = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3)).eval()
    found = estimate(module, {"a": Images(values)}, seed=0)  # type: ignore[dict-item]
    assert torch.allclose(found["1.running_mean"], torch.zeros(3), atol=1e-5)
    assert torch.allclose(found["1.running_var"], torch.full((3,), 64 / 63), atol=1e-3)


def test_nothing_else_of_the_module_changes() -> None:
    module = nn.Sequential(
        nn.BatchNorm1d(3, momentum=0.3), nn.Dropout(0.5), nn.BatchNorm1d(3, track_running_stats=False)
    )
    module[0].num_batches_tracked.fill_(7)
    module.eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items() if "running" not in name}
    estimate(module, {"a": Images(torch.randn(64, 3))}, seed=0)  # type: ignore[dict-item]
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in before.items())
    assert module[0].momentum == 0.3
    assert not any(part.training for part in module.modules())


def test_without_tasks_there_is_nothing_to_look_at() -> None:
    with pytest.raises(ConfigError, match="no expert says which task"):
        estimate(nn.BatchNorm1d(3), {}, seed=0)


def test_a_run_puts_new_statistics_into_model_and_report_and_changes_nothing_else(fused: Run) -> None:
    plain = fused("plain", "method=task_arithmetic")
    anew = fused("anew", "method=task_arithmetic", "batch_norm=recalibrate")
    averaged, estimated = (load_file(folder / "model" / "model.safetensors") for folder in (plain, anew))
    kept = load_file(anew / "artefacts" / "batch_norm" / "model.safetensors")
    assert {name for name in averaged if name.endswith(("running_mean", "running_var"))} == set(kept)
    for name, tensor in estimated.items():
        assert torch.equal(tensor, kept.get(name, averaged[name])), name
    assert not torch.equal(kept["embedder.embedder.normalization.running_mean"],
                           averaged["embedder.embedder.normalization.running_mean"])  # fmt: skip
    report = report_of(anew)
    assert report["adapted_on"] == {
        "split": "validation", "tasks": ["shapes", "colours"], "count": 20, "hash": None, "corruption": None,
    }  # fmt: skip
    assert any("estimated anew on 20 unlabelled validation inputs of shapes, colours" in n for n in report["notes"])
    assert report_of(plain)["adapted_on"] is None


def test_the_header_of_the_models_file_still_says_how_it_was_made(fused: Run) -> None:
    from safetensors import safe_open

    folder = fused("anew", "method=simple_average", "batch_norm=recalibrate")
    with safe_open(folder / "model" / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["fusionbench"])["recipe"]["batch_norm"] == "recalibrate"


def test_the_scores_are_those_of_the_model_on_disk(fused: Run, suite: Path) -> None:
    from fusionbench.families import family_named, load_module
    from fusionbench.finetune.tune import score
    from fusionbench.suites import load_suite
    from fusionbench.suites.tasks import open_tasks
    from fusionbench.weights.sources import open_source

    folder = fused("anew", "method=simple_average", "batch_norm=recalibrate")
    module = load_module(family_named("image_classifier"), open_source(folder / "model"))
    for name, task in open_tasks(load_suite(suite).suite).items():
        assert report_of(folder)["tasks"][name]["accuracy"]["value"] == score(module, task, "test")["accuracy"]


def test_a_run_that_was_broken_off_goes_on_to_the_same_report(fused: Run) -> None:
    overrides = ("method=simple_average", "batch_norm=recalibrate")
    folder = fused("anew", *overrides)
    report, model = (folder / "report.json").read_bytes(), (folder / "model" / "model.safetensors").read_bytes()
    (folder / "report.json").unlink()
    for rows in (folder / "tasks").iterdir():
        rows.unlink()
    fused("anew", *overrides)
    assert (folder / "report.json").read_bytes() == report
    assert (folder / "model" / "model.safetensors").read_bytes() == model


def test_without_a_written_model_the_scores_are_the_same(fused: Run) -> None:
    overrides = ("method=simple_average", "batch_norm=recalibrate")
    written, unwritten = fused("a", *overrides), fused("b", *overrides, "output.model=false")
    assert report_of(written)["tasks"] == report_of(unwritten)["tasks"]
    assert not (unwritten / "model").exists()


def test_reference_rows_keep_their_statistics(fused: Run) -> None:
    folder = fused("individual", "method=individual", "batch_norm=recalibrate")
    assert report_of(folder)["adapted_on"] is None


def test_an_ensemble_has_no_single_model_to_recalibrate(fused: Run) -> None:
    with pytest.raises(ConfigError, match="needs one merged model"):
        fused("ensemble", "method=simple_ensemble", "batch_norm=recalibrate")


def test_from_python_recalibration_is_refused_and_not_ignored(suite: Path) -> None:
    from fusionbench import fuse

    with pytest.raises(ConfigError, match="belongs to a run"):
        fuse("simple_average", str(suite), batch_norm="recalibrate")


def test_a_task_without_a_validation_split_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path / "cache"))
    suite = write_resnet_suite(tmp_path / "suite")
    (tmp_path / "suite" / "data" / "colours" / "validation_images.npy").unlink()
    recipe = Recipe.load(None, [f"suite={suite}", "method=simple_average", "batch_norm=recalibrate"])
    with pytest.raises(MissingData, match="colours has no split 'validation'"):
        run(recipe, out=tmp_path / "out")


def test_adaptation_runs_with_the_statistics_that_a_streamed_merge_has(fused: Run) -> None:
    adapted = fused("adapted", "method=adamerging", "method.steps=2", "method.adapt_split=validation")
    streamed = fused("streamed", "method=task_arithmetic")
    found, expected = (load_file(folder / "model" / "model.safetensors") for folder in (adapted, streamed))
    statistics = [name for name in expected if name.endswith(("running_mean", "running_var"))]
    assert statistics
    for name in statistics:
        torch.testing.assert_close(found[name], expected[name])


@pytest.mark.parametrize("policy", ["keep_base", "as_parameters"])
def test_a_method_on_whole_modules_refuses_a_policy_that_it_does_not_follow(
    fused: Run, suite: Path, policy: str
) -> None:
    from fusionbench import fuse

    with pytest.raises(ConfigError, match=rf"batch_norm={policy}: adamerging .*running_mean .*batch_norm=average"):
        fused("adapted", "method=adamerging", f"batch_norm={policy}")
    with pytest.raises(ConfigError, match=f"batch_norm={policy}: simple_ensemble"):
        fuse("simple_ensemble", str(suite), batch_norm=policy)
    fused("individual", "method=individual", f"batch_norm={policy}")
    fused("streamed", "method=task_arithmetic", f"batch_norm={policy}")
