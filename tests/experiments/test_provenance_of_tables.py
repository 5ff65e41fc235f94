"""Every printed name is known here, and of every printed row it is known where it comes from."""

import csv

import pytest

from fusionbench.errors import ConfigError
from fusionbench.experiments.model import load_experiment
from fusionbench.experiments.model import names as experiments
from fusionbench.experiments.published import FOLDER, about, cells, files
from fusionbench.experiments.published.provenance import printed_cosines, printed_names, provenance
from fusionbench.registry import methods
from fusionbench.suites.paper import describe, suite_of
from fusionbench.suites.paper import names as suites

ROWS = sorted({(file, cell.method) for file in files() for cell in cells(file)})


def test_every_method_data_set_metric_and_setting_that_a_table_prints_has_a_name_here():
    printed = printed_names()
    for file in files():
        index = about(file)
        wanted = {("method", name) for name in index["methods"].split()}
        wanted |= {("dataset", name) for name in index["datasets"].split()}
        for cell in cells(file):
            wanted |= {("method", cell.method), ("dataset", cell.dataset), ("metric", cell.metric)}
            wanted |= {("variant", key) for key, _ in cell.variant}
        assert wanted <= set(printed), file


def test_our_names_are_registered_methods_with_such_parameters_and_tasks_of_the_papers_suites():
    tasks = {task for name in suites() for task in suite_of(name, describe(name)).tasks.tasks}
    for (kind, printed), name in printed_names().items():
        if kind == "method" and name.ours:
            known = {parameter.name for parameter in methods[name.ours].parameters}
            assert set(name.parameters) <= known, printed
        if kind == "dataset" and name.ours != "average":
            assert name.ours in tasks, printed
    nameless = {key for key, name in printed_names().items() if not name.ours}
    assert nameless == {
        ("method", "reference"), ("metric", "difference_to_original"),
        ("variant", "split"), ("variant", "total_params"),
    }  # fmt: skip


@pytest.mark.parametrize("name", experiments())
def test_experiments_use_the_methods_that_the_map_names(name):
    printed = printed_names()
    for row in load_experiment(name).rows:
        if row.printed is None:
            continue
        known = printed["method", row.printed.method]
        # A transfer table's rows are single models, which are scored without being fused.
        assert known.ours in (row.method["name"], "individual", ""), row.label
        for key, value in known.parameters.items():
            assert str(row.method[key]).lower() == value, row.label


@pytest.mark.parametrize(("file", "method"), ROWS)
def test_it_is_known_where_each_printed_row_comes_from(file, method):
    found = provenance(file, method)
    assert found.code
    assert found.evidence in ("code", "digits", "inferred")
    assert found.remake.partition(":")[0] in (
        "yes", "near", "by files", "by files, near", "orderings only", "no", "shown only", "as tables 2 to 6",
    )  # fmt: skip


def test_rows_are_described_once_and_nothing_else_is():
    with (FOLDER / "provenance.csv").open(newline="", encoding="utf-8") as file:
        stored = [(row["table"], method) for row in csv.DictReader(file) for method in row["methods"].split()]
    assert len(stored) == len(set(stored))
    held = {("_".join(file.split("_")[:2]), method) for file, method in ROWS}
    assert {pair for pair in stored if pair[1] != "*"} <= held
    assert {table for table, method in stored if method == "*"} <= {table for table, _ in held}


def test_quoted_rows_are_those_that_the_authors_code_cannot_make():
    b32, generalisation = (next(f for f in files() if f.startswith(f"concrete_table0{n}")) for n in (1, 3))
    quoted = {method for file, method in ROWS if file == b32 and provenance(file, method).quoted}
    assert quoted == {
        "fisher_merging", "regmean", "traditional_mtl", "task_wise_adamerging_pp", "layer_wise_adamerging_pp",
    }  # fmt: skip
    assert provenance(generalisation, "layer_wise_adamerging").quoted
    assert provenance(b32, "task_wise_adamerging_pp").settings.startswith("500 steps")


def test_rows_are_judged_only_where_they_can_be_made_again():
    """Quoted rows, and no others, are marked as quoted; rows whose experts or model nobody has get no verdict."""
    for name in experiments():
        experiment = load_experiment(name)
        for row in experiment.rows:
            if row.printed is None:
                continue
            held = [file for file in experiment.published if (file, row.printed.method) in ROWS]
            known = [provenance(file, row.printed.method) for file in held]
            assert any(one.quoted for one in known) == (row.pipeline == "quoted"), (name, row.label)
            if any(one.remake.startswith(("orderings", "no:")) for one in known):
                assert row.pipeline in ("retrained", "quoted"), (name, row.label)


def test_eighteen_tables_need_what_is_not_on_the_hub():
    # Corrections to the specifications, P 1.1: 12 of the OpenCLIP files, 2 of NYUv2, 2 of T5, 1 of (IA)³, 1 overview.
    def reachable(file: str) -> bool:
        return any(provenance(file, m).remake.startswith(("yes", "near")) for f, m in ROWS if f == file)

    assert sum(not reachable(file) for file in files()) == 18


def test_a_row_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match=r"wemoe.*concrete_table01"):
        provenance(next(f for f in files() if f.startswith("concrete_table01")), "wemoe")


def test_the_printed_cosine_matrices_are_whole_symmetric_and_have_ones_on_the_diagonal():
    tasks = tuple(suite_of("clip-vit-b32/ta8", describe("clip-vit-b32/ta8")).pool.experts)
    for suite in ("clip-vit-b32/ta8", "clip-vit-l14/ta8"):
        held = printed_cosines(suite)
        assert set(held) == {(row, column) for row in tasks for column in tasks}
        assert all(held[row, column] == held[column, row] for row, column in held)
        assert all(held[task, task] == 1.0 for task in tasks)
    # The specification's own reading of the figure (part 5.1).
    small, large = printed_cosines("clip-vit-b32/ta8"), printed_cosines("clip-vit-l14/ta8")
    assert [small["sun397", task] for task in tasks[1:]] == [0.02, 0.03, 0.02, 0.01, 0.02, 0.01, 0.03]
    assert (small["resisc45", "eurosat"], small["svhn", "gtsrb"], small["svhn", "mnist"]) == (0.05, 0.07, 0.15)
    assert (small["gtsrb", "mnist"], small["eurosat", "gtsrb"]) == (0.05, 0.03)
    assert (large["resisc45", "eurosat"], large["svhn", "mnist"], large["svhn", "gtsrb"]) == (0.05, 0.09, 0.05)
    with pytest.raises(ConfigError, match="No cosines are printed"):
        printed_cosines("gpt2/glue7")
