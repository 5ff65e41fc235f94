"""`reproduce` on the tiny stand-in: a table, a curve, a selection, a matrix; interrupted runs are not repeated."""

import pytest

from fusionbench.experiments.model import Row, load_experiment
from fusionbench.experiments.rendering import as_csv, as_html, as_latex, as_markdown
from fusionbench.experiments.reproduce import reproduce
from fusionbench.suites import load_suite


@pytest.fixture(autouse=True)
def built(cache, monkeypatch):
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(cache))
    load_suite("mini/clip", size="tiny")


def tiny(name: str, *labels: str, **changes):
    """An experiment on the smallest stand-in, with some of its rows."""
    experiment = load_experiment(name)
    rows = tuple(row for row in experiment.rows if not labels or row.label in labels)
    stand_in = {**experiment.stand_in, "size": "tiny"}
    return experiment.model_copy(update={"stand_in": stand_in, "rows": rows, **changes})


def test_a_table_has_our_rows_beside_the_printed_ones_and_is_not_made_twice(tmp_path):
    experiment = tiny("multi-task-clip-b32", "pretrained", "individual", "simple_average", "task_arithmetic", "ties")
    answer = reproduce(experiment, tmp_path, which="mini")
    assert [line.label for line in answer.lines] == [
        "pretrained", "individual", "simple_average", "task_arithmetic", "ties",
    ]  # fmt: skip
    assert answer.lines[0].printed["average"] == 48.2
    assert answer.ranking.rows == 5
    assert answer.failed == {}
    text = as_markdown(answer)
    assert "only orders compare" in text
    assert "(66.5)" in text
    assert "≠" not in text.split("Ours, the printed")[0]  # other numbers get no verdict
    assert "task_arithmetic > simple_average" in text
    assert "individual > smile: cannot be said here" in text
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/report.json")}
    again = reproduce(experiment, tmp_path, which="mini")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/report.json")} == before
    assert as_csv(again) == as_csv(answer)


def test_a_curve_has_a_line_for_each_value(tmp_path):
    experiment = tiny("scale-task-arithmetic-clip-b32", vary={"method.scale": ("0.0", "0.3")})
    answer = reproduce(experiment, tmp_path, which="mini")
    assert [line.varied for line in answer.lines] == [{"scaling": "0.0"}, {"scaling": "0.3"}]
    assert [line.printed["average"] for line in answer.lines] == [48.1, 69.0]
    assert "scaling=0.3" in as_markdown(answer)


def test_a_selected_row_says_what_chose_it(tmp_path):
    experiment = tiny("re-ties-clip-b32", "task_arithmetic, λ selected")
    short = Row.model_validate({**experiment.rows[0].model_dump(), "select": {"method.scale": ("0.1", "9.0")}})
    answer = reproduce(experiment.model_copy(update={"rows": (short,)}), tmp_path, which="mini")
    assert answer.lines[0].note == "method.scale=0.1 selected on validation data"
    assert len(list((tmp_path / "selection").glob("*/report.json"))) == 2


def test_a_row_that_fails_is_told_and_the_others_stand(tmp_path):
    experiment = tiny("multi-task-clip-b32", "pretrained", "task_arithmetic")
    broken = experiment.rows[1].model_copy(update={"method": {**experiment.rows[1].method, "skale": 1}})
    answer = reproduce(experiment.model_copy(update={"rows": (experiment.rows[0], broken)}), tmp_path, which="mini")
    assert [line.label for line in answer.lines] == ["pretrained"]
    assert "skale" in answer.failed["task_arithmetic"]
    assert "Rows without numbers" in as_markdown(answer)


def test_the_number_of_merged_experts_is_varied_in_the_suites_order(tmp_path):
    experiment = tiny("number-of-tasks-t5-base", "simple_average", vary={"suite.first": ("1", "2")})
    answer = reproduce(
        experiment.model_copy(update={"stand_in": {"name": "mini/clip", "size": "tiny"}}), tmp_path, which="mini"
    )
    assert [sorted(name for name in line.values if "/" not in name) for line in answer.lines] == [
        ["average", "mnist"], ["average", "digits", "mnist"],
    ]  # fmt: skip


def test_every_form_of_an_answer_can_be_written(tmp_path):
    answer = reproduce(tiny("multi-task-clip-b32", "pretrained", "individual", "ties"), tmp_path, which="mini")
    assert as_latex(answer).startswith(r"\begin{tabular}{lrrrrrrrrr")
    page = as_html(answer)
    assert page.count("<tr>") == 4
    assert "http" not in page
    matrix = reproduce(tiny("cosine-clip-b32"), tmp_path / "cosine", which="mini")
    assert matrix.matrix.values.shape == (8, 8)
    for write in (as_markdown, as_csv, as_latex, as_html):
        assert "mnist" in write(matrix)


def test_the_command_prints_the_table_and_a_dry_run_runs_nothing(fusionbench, tmp_path):
    done = fusionbench("reproduce", "multi-task-clip-b32", "--suite", "mini", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "# layer-wise adamerging" in done.stdout
    assert not (tmp_path / "runs").exists()
    wrong = fusionbench("reproduce", "multi-task-clip-b32", "--suite", "tiny")
    assert wrong.returncode == 2
    assert "choose paper or mini" in wrong.stderr
