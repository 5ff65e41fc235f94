"""A sweep in this process: stopped, it goes on and makes nothing twice."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fusionbench.config import Recipe
from fusionbench.errors import Interrupted
from fusionbench.sweep import local, run_all

Make = Callable[..., Recipe]


def test_a_stopped_sweep_goes_on_where_it_stopped(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = local.run
    started: list[Recipe] = []

    def stopping(recipe: Recipe, **options: object) -> object:
        started.append(recipe)
        if len(started) == 3:
            raise Interrupted("Stopped.")
        return real(recipe, **options)  # type: ignore[arg-type]

    recipes = [make(scale) for scale in (0.1, 0.2, 0.3, 0.4)]
    monkeypatch.setattr(local, "run", stopping)
    with pytest.raises(Interrupted):
        list(run_all(recipes, tmp_path / "runs"))
    assert len(started) == 3
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/report.json")}
    assert len(before) == 2
    monkeypatch.setattr(local, "run", real)
    results = [outcome.result for outcome in run_all(recipes, tmp_path / "runs")]
    assert [result.reused for result in results if result] == [True, True, False, False]
    assert {path: path.stat().st_mtime_ns for path in before} == before
