"""Rows, columns, cells and what is marked as best."""

from collections.abc import Callable
from typing import Any

from fusionbench.records import MetricInfo, Run, SuiteRef
from fusionbench.report.tables import Table, table_of, tables_of

MakeRun = Callable[..., Run]
SCENE = {
    "mean_iou": MetricInfo(unit="fraction", better="higher"),
    "pixel_accuracy": MetricInfo(unit="fraction", better="higher"),
    "abs_error": MetricInfo(unit="m", better="lower"),
    "mean_angle": MetricInfo(unit="degrees", better="lower"),
}


def texts(table: Table, *, stderr: bool = False) -> list[list[str]]:
    return [
        [row.label, *(cell.text(column, stderr=stderr) for cell, column in zip(row.cells, table.columns, strict=True))]
        for row in table.rows
    ]


def best(table: Table) -> list[tuple[str, str]]:
    return [
        (row.label, column.title)
        for row in table.rows
        for cell, column in zip(row.cells, table.columns, strict=True)
        if cell.best
    ]


def scene_runs(make_run: MakeRun) -> list[Run]:
    def values(iou: float, accuracy: float, depth: float, angle: float) -> dict[str, dict[str, float]]:
        return {
            "segmentation": {"mean_iou": iou, "pixel_accuracy": accuracy},
            "depth": {"abs_error": depth},
            "normals": {"mean_angle": angle},
        }

    options = {"metrics": SCENE, "individual": {"segmentation": 0.5, "depth": 0.4, "normals": 20.0}}
    return [
        make_run("a", "individual", values(0.5, 0.75, 0.4, 20.0), **options),
        make_run("b", "simple_average", values(0.25, 0.5, 0.5, 40.0), **options),
        make_run("c", "ties", values(0.2, 0.6, 0.8, 25.0), **options),
    ]


def test_references_come_first_and_a_method_is_sorted_by_what_differs(make_accuracies: MakeRun) -> None:
    runs = [
        make_accuracies("a", "ties", {"x": 0.1}, params={"scale": 10}),
        make_accuracies("b", "traditional_mtl", {"x": 0.2}),
        make_accuracies("c", "ties", {"x": 0.3}, params={"scale": 2}),
        make_accuracies("d", "individual", {"x": 0.4}),
        make_accuracies("e", "dare", {"x": 0.5}),
        make_accuracies("f", "pretrained", {"x": 0.6}),
    ]
    assert [row.label for row in table_of(runs).rows] == [
        *("pretrained", "individual", "traditional_mtl"),
        *("ties (scale=2)", "ties (scale=10)", "dare"),
    ]


def test_fractions_are_percent_with_one_digit(make_accuracies: MakeRun) -> None:
    runs = [make_accuracies("a", "ties", {"mnist": 0.9, "digits": 0.5004}, individual={"mnist": 1.0, "digits": 1.0})]
    table = table_of(runs)
    assert [column.title for column in table.columns] == ["mnist", "digits", "average", "normalized"]
    assert texts(table) == [["ties", "90.0", "50.0", "70.0", "70.0"]]
    assert texts(table, stderr=True) == [["ties", "90.0 ± 1.0", "50.0 ± 1.0", "70.0", "70.0"]]


def test_other_units_have_an_arrow_their_unit_and_four_digits(make_run: MakeRun) -> None:
    table = table_of(scene_runs(make_run))
    assert [column.title for column in table.columns] == [
        "segmentation mean_iou (%)",
        "depth abs_error (m) ↓",
        "normals mean_angle (degrees) ↓",
        "normalized",
    ]
    # simple_average: 0.25/0.5, 0.4/0.5, 20/40, so (0.5 + 0.8 + 0.5) / 3 = 0.6; ties: 0.4, 0.5, 0.8
    assert texts(table) == [
        ["individual", "50.0", "0.400", "20.00", "100.0"],
        ["simple_average", "25.0", "0.500", "40.00", "60.0"],
        ["ties", "20.0", "0.800", "25.00", "56.7"],
    ]


def test_the_best_method_is_the_lowest_where_lower_is_better_and_never_a_reference(make_run: MakeRun) -> None:
    assert best(table_of(scene_runs(make_run))) == [
        ("simple_average", "segmentation mean_iou (%)"),
        ("simple_average", "depth abs_error (m) ↓"),
        ("simple_average", "normalized"),
        ("ties", "normals mean_angle (degrees) ↓"),
    ]


def test_equal_prints_share_the_mark_and_one_method_alone_has_none(make_accuracies: MakeRun) -> None:
    first, second = make_accuracies("a", "ties", {"x": 0.50004}), make_accuracies("b", "dare", {"x": 0.5})
    assert best(table_of([first, second])) == [("ties", "x"), ("ties", "average"), ("dare", "x"), ("dare", "average")]
    assert best(table_of([first])) == []


def test_all_metrics_are_shown_on_request(make_run: MakeRun) -> None:
    table = table_of(scene_runs(make_run), metrics="all")
    assert [column.metric for column in table.columns][:4] == ["mean_iou", "pixel_accuracy", "abs_error", "mean_angle"]
    assert texts(table)[1][1:3] == ["25.0", "50.0"]


def test_unseen_tasks_stand_after_the_average_with_their_own(make_accuracies: MakeRun) -> None:
    run = make_accuracies("a", "ties", {"far": 0.25, "x": 0.5, "further": 0.75}, unseen=("far", "further"))
    table = table_of([run])
    assert [column.title for column in table.columns] == [
        *("x", "average", "far (unseen)", "further (unseen)", "unseen average")
    ]
    assert texts(table) == [["ties", "50.0", "50.0", "25.0", "75.0", "50.0"]]


def test_a_task_that_a_run_lacks_is_a_dash_and_its_average_is_not_compared(make_accuracies: MakeRun) -> None:
    runs = [make_accuracies("a", "ties", {"x": 0.5, "y": 0.7}), make_accuracies("b", "dare", {"x": 0.9})]
    table = table_of(runs)
    assert texts(table) == [["ties", "50.0", "70.0", "60.0"], ["dare", "90.0", "–", "90.0"]]
    assert best(table) == [("dare", "x")]
    assert table.caption.endswith("The rows were scored on different tasks: their averages are not comparable.")


def test_each_suite_and_size_has_its_table(make_accuracies: MakeRun) -> None:
    runs = [
        make_accuracies("a", "ties", {"x": 0.5}, suite=SuiteRef(name="mini/clip", size="small")),
        make_accuracies("b", "ties", {"q": 0.5}, suite=None),
        make_accuracies("c", "ties", {"x": 0.5}, suite=SuiteRef(name="mini/clip", size="tiny")),
        make_accuracies("d", "dare", {"x": 0.5}, suite=SuiteRef(name="mini/clip", size="small")),
    ]
    assert [(table.title, [row.label for row in table.rows]) for table in tables_of(runs)] == [
        ("mini/clip (small)", ["ties", "dare"]),
        ("no suite", ["ties"]),
        ("mini/clip (tiny)", ["ties"]),
    ]


def test_seeds_of_a_suite_are_rows_of_one_table(make_accuracies: MakeRun) -> None:
    runs = [
        make_accuracies(f"s{seed}", "ties", {"x": 0.5 + seed / 10}, suite=SuiteRef(name="mini/clip", seed=seed))
        for seed in (1, 0)
    ]
    (table,) = tables_of(runs)
    assert [row.label for row in table.rows] == ["ties (suite.seed=0)", "ties (suite.seed=1)"]


def test_large_values_lose_digits_not_meaning(make_run: MakeRun) -> None:
    metrics = {"perplexity": MetricInfo(unit="", better="lower")}
    for largest, printed in ((5.3217, "5.322"), (18.25, "18.25"), (612.34, "612.3"), (4321.9, "4322")):
        run = make_run(f"p{largest}", "ties", {"text": {"perplexity": largest}}, metrics=metrics)
        table = table_of([run])
        assert texts(table) == [["ties", printed]]
        assert table.columns[0].title == "text ↓"


def test_scores_on_other_data_stand_in_a_table_of_their_own(make_accuracies):
    splits = {"a": "test", "b": "validation"}
    runs = [
        make_accuracies(name, "ties", {"mnist": 0.5}, recipe={"tasks": {"split": split}}, params={"scale": name})
        for name, split in splits.items()
    ]
    assert [table.title for table in tables_of(runs)] == ["mini/clip (small)", "mini/clip (small), validation split"]


def test_corruptions_vary_within_one_table_and_the_best_is_that_of_each(make_accuracies):
    def made(name: str, method: str, value: float, corruption: str | None) -> Any:
        tasks = {"split": "test", "corruption": corruption, "severity": 2}
        return make_accuracies(name, method, {"mnist": value}, recipe={"tasks": tasks})

    runs = [
        made("a", "ties", 0.9, None), made("b", "ties", 0.5, "contrast"), made("c", "dare", 0.8, None),
        made("d", "dare", 0.6, "contrast"), made("e", "dare", 0.2, "pixelate"),
    ]  # fmt: skip
    (table,) = tables_of(runs)
    assert table.title == "mini/clip (small)"
    # Two rows of one method that is alone with its corruption are no rivals of others.
    assert [(row.label, row.cells[0].best) for row in table.rows] == [
        ("ties", True),
        ("ties (tasks.corruption=contrast)", False),
        ("dare", False),
        ("dare (tasks.corruption=contrast)", True),
        ("dare (tasks.corruption=pixelate)", False),
    ]
    assert "Bold: best value apart from the reference rows, among rows of the same corruption." in table.caption
    # Where all have the same one, the title says it and the rows do not.
    (alone,) = tables_of([runs[1], runs[3]])
    assert alone.title == "mini/clip (small), contrast, severity 2"
    assert [row.label for row in alone.rows] == ["ties", "dare"]
    assert "corruption" not in alone.caption
