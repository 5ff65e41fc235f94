"""A run from recipe to report, whether or not its model is written, and when it is taken up again."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fusionbench.config import Recipe
from fusionbench.errors import ConfigError, FusionBenchError, NotFinite
from fusionbench.mixing import FusedWeights
from fusionbench.records import RunInfo
from fusionbench.run import run
from fusionbench.run.setting import Setting, resolve
from fusionbench.run.whole import read_left
from fusionbench.weights.sources import open_source

Make = Callable[..., Recipe]


def scores(folder: Path) -> dict[str, object]:
    report = json.loads((folder / "report.json").read_text())
    return {key: report[key] for key in ("tasks", "variants", "notes")}


def test_the_building_of_its_suite_is_a_phase_of_its_own(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def built(*given: object) -> Setting:
        setting = resolve(*given)  # type: ignore[arg-type]
        assert setting.suite is not None
        return replace(setting, suite=replace(setting.suite, building=1e-6))

    run(recipe("pretrained"), out=tmp_path / "there")
    monkeypatch.setattr("fusionbench.run.execution.resolve", built)
    run(recipe("pretrained"), out=tmp_path / "built")
    phases = {name: RunInfo.load(tmp_path / name / "run.json").phases for name in ("there", "built")}
    assert list(phases["there"]) == ["load", "fuse", "evaluate"]
    assert list(phases["built"]) == ["build", "load", "fuse", "evaluate"]
    assert phases["built"]["build"] == 1e-6
    assert phases["built"]["load"] >= 0


@pytest.mark.parametrize("dtype", ["base", "bfloat16"])
@pytest.mark.parametrize("method", ["task_arithmetic", "slerp", "greedy_soup"])
def test_a_model_in_memory_has_the_numbers_of_the_written_one(
    recipe: Make, tmp_path: Path, method: str, dtype: str
) -> None:
    for written in ("true", "false"):
        run(recipe(method, f"output.dtype={dtype}", f"output.model={written}"), out=tmp_path / written)
    assert scores(tmp_path / "true") == scores(tmp_path / "false")
    assert not (tmp_path / "false" / "model").exists()
    source = open_source(tmp_path / "true" / "model")
    size = sum(spec.nbytes for spec in source.specs.values())
    assert scores(tmp_path / "true")["variants"][0]["model"]["bytes"] == size  # type: ignore[index]
    kinds = {spec.dtype for spec in source.specs.values() if spec.is_float}
    assert kinds == ({"F32"} if dtype == "base" else {"BF16"})


def test_bfloat16_halves_what_the_report_says(recipe: Make, tmp_path: Path) -> None:
    for dtype in ("base", "bfloat16"):
        run(recipe("simple_average", f"output.dtype={dtype}", "output.model=false"), out=tmp_path / dtype)
    full, half = (scores(tmp_path / d)["variants"][0]["model"]["bytes"] for d in ("base", "bfloat16"))  # type: ignore[index]
    assert half < 0.6 * full


def test_threads_and_memory_count_where_no_model_is_written(recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"runtime\.memory=1,000 bytes is too small"):
        run(recipe("task_arithmetic", "output.model=false", "runtime.memory=1000"), out=tmp_path / "run")


def test_a_result_that_its_kind_cannot_hold_is_refused(recipe: Make, tmp_path: Path) -> None:
    huge = ("method.scale=1e38", "output.model=false", "output.dtype=float16")
    with pytest.raises(NotFinite, match=r"float16|NaN or Inf"):
        run(recipe("task_arithmetic", *huge), out=tmp_path / "run")


def test_an_output_kind_that_does_not_apply_is_said(recipe: Make, tmp_path: Path) -> None:
    for method in ("pretrained", "simple_ensemble"):
        run(recipe(method, "output.dtype=bfloat16"), out=tmp_path / method)
        assert any("output.dtype=bfloat16" in note for note in scores(tmp_path / method)["notes"])  # type: ignore[attr-defined]


def test_sizes_of_references_and_ensembles(recipe: Make, tmp_path: Path) -> None:
    found = {}
    for method in ("pretrained", "individual", "simple_ensemble"):
        report = run(recipe(method), out=tmp_path / method).report
        assert report.variants[0].model is not None
        found[method] = (report.variants[0].model.kind, report.variants[0].model.parameters)
    one = found["pretrained"][1]
    assert found == {
        "pretrained": ("weights", one), "individual": ("per_task", 2 * one), "simple_ensemble": ("ensemble", 2 * one),
    }  # fmt: skip


def test_a_killed_save_of_an_ensemble_is_made_again(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = FusedWeights.save

    def cut(self: FusedWeights, folder: Path) -> None:
        if folder.name == "dogs":
            raise KeyboardInterrupt
        saved(self, folder)

    class Killed(BaseException):
        pass

    monkeypatch.setattr(FusedWeights, "save", cut)
    monkeypatch.setattr("fusionbench.run.execution.Interrupted", Killed)
    with pytest.raises(Killed):
        run(recipe("simple_ensemble"), out=tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()
    monkeypatch.undo()
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path / "cache"))
    run(recipe("simple_ensemble"), out=tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run" / "model" / "members").iterdir()) == ["cats", "dogs"]


def test_written_weights_of_a_method_that_looks_at_data_are_read_again(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(recipe("greedy_soup"), out=tmp_path / "run")
    first = (tmp_path / "run" / "report.json").read_bytes()
    assert read_left(tmp_path / "run").kind == "weights"
    (tmp_path / "run" / "report.json").unlink()
    monkeypatch.setattr("fusionbench.run.execution.fuse_whole", None)
    run(recipe("greedy_soup"), out=tmp_path / "run")
    assert (tmp_path / "run" / "report.json").read_bytes() == first


@pytest.mark.parametrize("damage", [b"", b"PAR1 no parquet", None])
def test_damaged_rows_are_made_again(recipe: Make, tmp_path: Path, damage: bytes | None) -> None:
    run(recipe("simple_average"), out=tmp_path / "run")
    first = (tmp_path / "run" / "report.json").read_bytes()
    (tmp_path / "run" / "report.json").unlink()
    rows = tmp_path / "run" / "tasks" / "cats.parquet"
    whole = rows.read_bytes()
    rows.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    run(recipe("simple_average"), out=tmp_path / "run")
    assert (tmp_path / "run" / "report.json").read_bytes() == first
    assert rows.read_bytes() == whole


def test_everything_runs_on_the_device_of_the_recipe(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No accelerator is here: the place that each part asks for is written down."""
    asked: list[str] = []

    def named(name: str) -> torch.device:
        asked.append(name)
        return torch.device("cpu")

    for module in ("run.execution", "training.loop"):
        monkeypatch.setattr(f"fusionbench.{module}.device_named", named)
    monkeypatch.setattr("fusionbench.weights.tensors.device_named", named)
    for method in ("pretrained", "slerp", "greedy_soup", "simple_ensemble"):
        asked.clear()
        run(recipe(method, "runtime.device=cuda:3", "output.model=false"), out=tmp_path / method)
        assert {*asked} == {"cuda:3"}, method


def test_a_device_that_is_not_there_is_refused(recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    for method in ("pretrained", "slerp", "greedy_soup", "simple_ensemble", "task_arithmetic"):
        with pytest.raises(ConfigError, match=r"runtime\.device=cuda: this machine has only the CPU"):
            run(recipe(method, "runtime.device=cuda"), out=tmp_path / method)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"splits": {"train": "train"}}, "The task dogs has no split 'test'"),
        ({"columns": {"image": "img"}}, "has no column img"),
        ({"class_names": ["cat"]}, "has the label 1, but the task has 1 classes"),
    ],
)
def test_what_is_missing_of_the_last_task_is_told_before_anything_is_fused(
    recipe: Make, suite: Path, tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    document = json.loads(suite.read_text())
    document["tasks"]["dogs"] |= changes
    suite.write_text(json.dumps(document))
    with pytest.raises(FusionBenchError, match=says):
        run(recipe("task_arithmetic"), out=tmp_path / "run")
    # Neither a model nor the scores of the other task: nothing was done.
    assert not (tmp_path / "run").exists()
