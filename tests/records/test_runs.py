"""Runs found on disk."""

import logging
from pathlib import Path

import pytest

from fusionbench.errors import MissingData
from fusionbench.records import Environment, MethodRef, Report, Run, RunInfo, Variant, find_runs


def finished(folder: Path) -> Path:
    folder.mkdir(parents=True)
    method = MethodRef(name=folder.name)
    Report.build(identity=f"sha256:{folder.name}", method=method, variants=[Variant()], metrics={}).save(folder)
    (folder / "recipe.yaml").write_text(f"method: {{name: {folder.name}}}\n")
    return folder


def test_runs_are_found_at_any_depth_in_the_order_of_their_paths(tmp_path: Path) -> None:
    finished(tmp_path / "b" / "deep" / "ties")
    finished(tmp_path / "a" / "dare")
    assert [run.report.method.name for run in find_runs([tmp_path])] == ["dare", "ties"]


def test_a_run_is_read_with_its_recipe_and_what_it_took(tmp_path: Path) -> None:
    folder = finished(tmp_path / "ties")
    info = RunInfo(date="2026-05-04", seconds=1.5, environment=Environment(python="3.11", platform="Linux"))
    info.save(folder)
    assert find_runs([folder]) == [
        Run(folder=folder, report=Report.load(folder), info=info, recipe="method: {name: ties}\n")
    ]


def test_a_run_reached_twice_is_found_once(tmp_path: Path) -> None:
    folder = finished(tmp_path / "ties")
    assert len(find_runs([tmp_path, folder])) == 1


def test_what_lies_below_a_run_is_its_own(tmp_path: Path) -> None:
    finished(tmp_path / "ties")
    finished(tmp_path / "ties" / "model" / "inner")
    assert [run.report.method.name for run in find_runs([tmp_path])] == ["ties"]


def test_an_unfinished_run_is_skipped_with_a_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "recipe.yaml").write_text("seed: 0\n")
    with caplog.at_level(logging.WARNING):
        assert find_runs([tmp_path]) == []
    assert "half is skipped: the run did not finish" in caplog.text


def test_a_report_of_another_make_is_skipped_with_a_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    finished(tmp_path / "ties")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "report.json").write_text('{"model_info": {}}')
    with caplog.at_level(logging.WARNING):
        assert [run.report.method.name for run in find_runs([tmp_path])] == ["ties"]
    assert "is not a report of schema 1" in caplog.text


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="There is no folder"):
        find_runs([tmp_path / "nowhere"])
