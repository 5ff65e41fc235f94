"""`reproduce` on the tiny stand-in: a table, a curve, a selection, a matrix; interrupted runs are not repeated."""

import csv
import importlib
import io
import json
from statistics import fmean, stdev

import pytest

from fusionbench.errors import ConfigError, Interrupted
from fusionbench.experiments.model import Row, load_experiment
from fusionbench.experiments.page import as_html
from fusionbench.experiments.rendering import as_csv, as_latex, as_markdown
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
    assert [(order.of, order.rows) for order in answer.rankings] == [("rows", 5), ("fused rows", 3)]
    assert answer.failed == {}
    text = as_markdown(answer)
    assert "only orders compare" in text
    assert "(66.5)" in text
    assert "≠" not in text  # other numbers get no verdict
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


def test_the_number_of_merged_experts_is_varied_in_the_order_that_is_written(tmp_path):
    experiment = tiny("number-of-tasks-t5-base", "simple_average", vary={"suite.first": ("1", "2")})
    stand_in = {"name": "mini/clip", "size": "tiny", "experts": ["mnist", "digits", "land"]}
    answer = reproduce(experiment.model_copy(update={"stand_in": stand_in}), tmp_path, which="mini")
    assert [line.varied for line in answer.lines] == [{"experts": "1"}, {"experts": "2"}]
    assert [sorted(name for name in line.values if "/" not in name) for line in answer.lines] == [
        ["average", "mnist"], ["average", "digits", "mnist"],
    ]  # fmt: skip


def test_every_form_of_an_answer_can_be_written(tmp_path):
    answer = reproduce(tiny("multi-task-clip-b32", "pretrained", "individual", "ties"), tmp_path, which="mini")
    assert as_latex(answer).startswith(r"\begin{tabular}{lrrrrrrrrr")
    page = as_html(answer)
    assert page.count("<tr>") == 4
    assert "http" not in page.split("</style>")[1]
    matrix = reproduce(tiny("cosine-clip-b32"), tmp_path / "cosine", which="mini")
    assert matrix.matrix.values.shape == (8, 8)
    for write in (as_markdown, as_csv, as_latex, as_html):
        assert "mnist" in write(matrix)


def test_several_seeds_give_means_and_their_standard_errors(tmp_path, monkeypatch):
    module = importlib.import_module("fusionbench.experiments.reproduce")
    # A build a seed is long; the seed of the recipe alone changes nothing that is deterministic.
    monkeypatch.setattr(module, "suite_of", lambda experiment, **_: experiment.stand_in)
    monkeypatch.setattr(importlib.import_module("fusionbench.experiments.model"), "suite_of", module.suite_of)
    experiment = tiny("multi-task-clip-b32", "pretrained", "fisher")
    few = experiment.rows[1].model_copy(update={"method": {**experiment.rows[1].method, "examples": 8}})
    experiment = experiment.model_copy(update={"rows": (experiment.rows[0], few)})
    answer = reproduce(experiment, tmp_path, which="mini", seeds=(0, 1, 2))
    apart = [reproduce(experiment, tmp_path, which="mini", seeds=(seed,)).lines for seed in (0, 1, 2)]
    for row in (0, 1):
        values = [lines[row].values["mnist"].value for lines in apart]
        found = answer.lines[row].values["mnist"]
        assert found.value == pytest.approx(fmean(values))
        assert found.stderr == pytest.approx(stdev(values) / 3**0.5)
        assert (found.seeds, found.n) == (3, apart[0][row].values["mnist"].n)
    assert len({lines[1].values["average"].value for lines in apart}) > 1
    text = as_markdown(answer)
    assert "Means over the seeds 0, 1, 2; ± is the standard error over seeds." in text
    assert " ± " in text
    cells = list(csv.DictReader(io.StringIO(as_csv(answer))))
    assert {cell["seeds"] for cell in cells} == {"3"}


@pytest.mark.parametrize("seeds", [(), (1, 1)])
def test_seeds_that_are_missing_or_repeated_are_refused(tmp_path, seeds):
    with pytest.raises(ConfigError, match="one seed, or several that differ"):
        reproduce(tiny("multi-task-clip-b32", "pretrained"), tmp_path, which="mini", seeds=seeds)


def test_an_interrupted_experiment_stops_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    local = importlib.import_module("fusionbench.sweep.local")
    ran, real = [], local.run

    def stopping(recipe, **options):
        if len(ran) == 3:
            raise Interrupted("Stopped.")
        ran.append(recipe.method.name)
        return real(recipe, **options)

    experiment = tiny("re-ties-clip-b32", "simple_average", "task_arithmetic, λ selected")
    short = Row.model_validate({**experiment.rows[1].model_dump(), "select": {"method.scale": ("0.1", "0.2")}})
    experiment = experiment.model_copy(update={"rows": (experiment.rows[0], short)})
    monkeypatch.setattr(local, "run", stopping)
    # Two runs of the selection and the first row are done; the stop is no row without numbers.
    with pytest.raises(Interrupted):
        reproduce(experiment, tmp_path, which="mini")
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("**/report.json")}
    assert len(done) == 3
    monkeypatch.setattr(local, "run", real)
    answer = reproduce(experiment, tmp_path, which="mini")
    assert [line.label for line in answer.lines] == ["simple_average", "task_arithmetic, λ selected"]
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert len(list(tmp_path.glob("**/report.json"))) == 4


def test_a_stop_during_the_selection_is_a_stop(tmp_path, monkeypatch):
    local = importlib.import_module("fusionbench.sweep.local")

    def stopping(recipe, **options):
        raise Interrupted("Stopped.")

    monkeypatch.setattr(local, "run", stopping)
    with pytest.raises(Interrupted):
        reproduce(tiny("re-ties-clip-b32", "task_arithmetic, λ selected"), tmp_path, which="mini")


def test_a_transfer_matrix_has_a_row_for_each_model_with_its_standard_errors(tmp_path):
    experiment = tiny("transfer-clip-b32")
    small = {**experiment.stand_in, "experts": ["mnist", "land"], "unseen": []}
    answer = reproduce(experiment.model_copy(update={"stand_in": small}), tmp_path, which="mini")
    assert [line.label for line in answer.lines] == ["pretrained", "mnist", "land"]
    assert answer.lines[1].values["mnist"].value == 100 * answer.matrix.values[1][0]
    assert answer.lines[1].values["mnist"].stderr > 0
    assert "average" not in answer.lines[1].values
    assert "| mnist |" in as_markdown(answer)


def test_the_command_prints_the_table_and_a_dry_run_runs_nothing(fusionbench, tmp_path):
    done = fusionbench("reproduce", "multi-task-clip-b32", "--suite", "mini", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "# layer-wise adamerging" in done.stdout
    assert not (tmp_path / "runs").exists()
    wrong = fusionbench("reproduce", "multi-task-clip-b32", "--suite", "tiny")
    assert wrong.returncode == 2
    assert "choose paper or mini" in wrong.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--size", "tiny"], "add --suite mini"),
        (["--suite", "mini", "--size", "huge"], "huge"),
        (["--suite", "mini", "--seeds", "0,one"], "write whole numbers with commas"),
        (["--suite", "mini", "--profile", "quik"], "Did you mean quick"),
    ],
)
def test_wrong_options_are_told(fusionbench, options, said):
    wrong = fusionbench("reproduce", "multi-task-clip-b32", *options)
    assert wrong.returncode == 2
    assert said in wrong.stderr


def test_the_command_writes_every_form_and_prints_json(fusionbench, tmp_path):
    asked = ["cosine-clip-b32", "--suite", "mini", "--size", "tiny", "--out", tmp_path / "c", "--interactive"]
    assert fusionbench("reproduce", *asked).returncode == 0
    assert {path.name for path in (tmp_path / "c").iterdir()} == {
        *("answer.md", "answer.csv", "answer.tex", "answer.html", "interactive.html"),
        *("cosine-clip-b32-matrix.png", "cosine-clip-b32-matrix.pdf"),
    }
    asked = ["transfer-clip-b32", "--suite", "mini", "--size", "tiny", "--out", tmp_path / "t", "--json"]
    found = json.loads(fusionbench("reproduce", *asked).stdout)
    assert [line["label"] for line in found["lines"]][:2] == ["pretrained", "mnist"]
    assert found["lines"][0]["values"]["mnist"]["n"] > 0
    assert (found["failed"], found["claims"]) == ({}, [])


def test_cosines_on_the_papers_suite_are_told_beside_the_printed_ones(tmp_path, monkeypatch):
    experiment = tiny("cosine-clip-b32")
    ours = reproduce(experiment, tmp_path, which="mini")
    assert ours.remark == ""
    value = float(ours.matrix.values[1][0])
    row, column = ours.matrix.rows[1], ours.matrix.columns[0]
    monkeypatch.setattr("fusionbench.experiments.printed.printed_cosines", lambda suite: {(row, column): value + 0.5})
    papers = experiment.model_copy(update={"suite": experiment.stand_in})
    answer = reproduce(papers, tmp_path, which="paper")
    said = f"0 of 1 printed cosines agree within 0.015; the largest difference is 0.500 ({row}, {column})."
    assert answer.remark == said
    assert said in as_markdown(answer)
