"""Each experiment end to end on its smallest stand-in: every row gives numbers, every form of the answer is written.

Steps and examples are cut to a few: what is tested is that the experiment runs, not what it finds.
"""

import csv
import io

import pytest

from fusionbench.experiments.figures import figures_of
from fusionbench.experiments.model import Experiment, Row, load_experiment, names, with_size
from fusionbench.experiments.page import as_html
from fusionbench.experiments.rendering import as_csv, as_latex, as_markdown
from fusionbench.experiments.reproduce import reproduce

pytestmark = pytest.mark.slow
FEW = {"steps": 2, "mask_steps": 2, "examples": 8}
"""Values of the parameters that decide how long a method takes."""


def smallest(name: str) -> Experiment:
    """An experiment on the tiny stand-in with the first and the last of its varied values, and few steps."""
    experiment = with_size(load_experiment(name), "tiny")
    varied = {key: (0, 2) if key.endswith("steps") else ends(values) for key, values in experiment.vary.items()}
    return experiment.model_copy(update={"rows": tuple(map(short, experiment.rows)), "vary": varied})


def ends(values: tuple) -> tuple:
    return values if len(values) < 2 else (values[0], values[-1])


def short(row: Row) -> Row:
    method = {key: FEW.get(key, value) for key, value in row.method.items()}
    settings = {**row.settings, "tasks": {**row.settings.get("tasks", {}), "limit": 16}}
    select = {key: ends(grid) for key, grid in row.select.items()}
    return row.model_copy(update={"method": method, "settings": settings, "select": select})


@pytest.mark.parametrize("name", names())
def test_it_runs_on_the_smallest_stand_in(name, cache, monkeypatch, tmp_path):
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(cache))
    experiment = smallest(name)
    answer = reproduce(experiment, tmp_path, which="mini")
    assert answer.failed == {row.label: row.no_stand_in for row in experiment.rows if row.no_stand_in}
    if experiment.rows:
        points = 2 if experiment.vary else 1
        assert len(answer.lines) == points * (len(experiment.rows) - len(answer.failed))
        # The three tasks of the scene suite have no metric in common, so they have no average.
        assert all(("average" in line.values) == (name != "multi-task-resnet50-nyuv2") for line in answer.lines)
    else:
        assert answer.matrix is not None
        assert len(answer.matrix.rows) >= 2
    cells = list(csv.reader(io.StringIO(as_csv(answer))))
    assert len({len(row) for row in cells}) == 1
    assert experiment.title in as_markdown(answer)
    assert r"\bottomrule" in as_latex(answer)
    charts = figures_of(answer)
    # A table with an average has its averages and a radar chart, a curve or a matrix is one figure.
    assert len(charts) == (0 if name == "multi-task-resnet50-nyuv2" else 2 if experiment.kind == "table" else 1)
    assert as_html(answer, charts).count("<svg") == len(charts)
