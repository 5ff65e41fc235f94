import sys

import fsspec
import numpy as np
import pytest

from fusionbench.cli import main
from fusionbench.errors import ConfigError, MissingData
from fusionbench.records import MetricInfo, SuiteRef
from fusionbench.report.compare import compare
from fusionbench.run.rows import write_rows


@pytest.fixture
def make_scored(make_accuracies):
    """A finished run with rows: which examples of each task were right."""

    def make(folder: str, right: dict[str, list[int]], **options):
        run = make_accuracies(folder, "ties", {task: float(np.mean(rows)) for task, rows in right.items()}, **options)
        for task, rows in right.items():
            write_rows(run.folder / "tasks" / f"{task}.parquet", {"correct": np.array(rows, bool)})
        return run.folder

    return make


def test_a_run_against_itself_is_no_difference(make_scored):
    folder = make_scored("a", {"mnist": [1, 0] * 50})
    (found,) = compare(folder, folder, resamples=50)
    assert (found.difference, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)
    assert found.n == 100


def test_pairing_sees_what_the_standard_errors_of_two_runs_hide(make_scored):
    """100 examples, 60 against 50 right: unpaired s.e. 0.07, but the first is right wherever the second is."""
    second = [1] * 50 + [0] * 50
    first = [1] * 60 + [0] * 40
    (found,) = compare(make_scored("a", {"mnist": first}), make_scored("b", {"mnist": second}), resamples=4000)
    assert found.difference == pytest.approx(0.1)
    # The difference of a resample is Binomial(100, 0.1) / 100: mean 0.1, s.d. 0.03
    assert found.low == pytest.approx(0.1 - 1.96 * 0.03, abs=0.012)
    assert found.high == pytest.approx(0.1 + 1.96 * 0.03, abs=0.012)
    assert found.p < 0.01


def test_gains_and_losses_that_balance_are_told_as_chance(make_scored):
    first = [1, 0] * 40 + [1, 1]
    second = [0, 1] * 40 + [1, 0]
    (found,) = compare(make_scored("a", {"mnist": first}), make_scored("b", {"mnist": second}), resamples=500)
    assert found.low < 0 < found.high
    assert found.p > 0.5


def test_the_average_is_that_of_the_tasks(make_scored):
    ours = make_scored("a", {"mnist": [1] * 30 + [0] * 10, "land": [1] * 20 + [0] * 20})
    other = make_scored("b", {"mnist": [1] * 20 + [0] * 20, "land": [1] * 20 + [0] * 20})
    found = {each.task: each for each in compare(ours, other, resamples=300)}
    assert found["average"].difference == pytest.approx((0.25 + 0) / 2)
    assert (found["average"].first, found["average"].n) == (pytest.approx(0.625), 80)
    assert found["land"].low == found["land"].high == 0


def test_the_seed_decides_the_draws(make_scored):
    folders = make_scored("a", {"mnist": [1, 0, 1] * 20}), make_scored("b", {"mnist": [0, 1, 1] * 20})
    first, again, other = (compare(*folders, resamples=40, seed=seed)[0] for seed in (0, 0, 1))
    assert first == again
    assert (first.low, first.high, first.p) != (other.low, other.high, other.p)


def test_what_cannot_be_compared_is_refused(make_scored, make_accuracies):
    one = make_scored("a", {"mnist": [1, 0, 1]})
    with pytest.raises(ConfigError, match="no task in common"):
        compare(one, make_scored("b", {"land": [1, 0, 1]}))
    with pytest.raises(ConfigError, match=r"on 3 examples.*on 2"):
        compare(one, make_scored("c", {"mnist": [1, 0]}))
    with pytest.raises(ConfigError, match="only runs of one suite"):
        compare(one, make_scored("d", {"mnist": [1, 0, 1]}, suite=SuiteRef(name="mini/clip", size="large", seed=0)))
    with pytest.raises(MissingData, match=r"mnist.parquet is missing"):
        compare(one, make_accuracies("e", "ties", {"mnist": 0.5}).folder)
    with pytest.raises(MissingData):
        compare(one, one / "nothing")


def test_runs_of_dense_tasks_are_compared_by_their_own_metric(make_run):
    metrics = {"absolute_error": MetricInfo(unit="metres", better="lower")}
    folders = []
    for name, errors in (("a", [1.0, 1.0, 1.0]), ("b", [2.0, 3.0, 4.0])):
        run = make_run(name, "ties", {"depth": {"absolute_error": sum(errors) / 6}}, metrics=metrics)
        columns = {"absolute": np.array(errors), "pixels": np.array([2, 2, 2])}
        write_rows(run.folder / "tasks" / "depth.parquet", columns)
        folders.append(run.folder)
    (found,) = compare(*folders, resamples=200)
    assert (found.metric, found.first, found.second, found.n) == ("absolute_error", 0.5, 1.5, 3)
    # Every resample has a difference between −0.5·(4 − 1) and −0.5·(2 − 1).
    assert -1.5 <= found.low < found.high <= -0.5


def test_the_median_over_wordings_is_compared(make_run):
    metrics = {"median_accuracy": MetricInfo(unit="fraction", better="higher")}
    folders = []
    for name, right in (("a", [[1, 1, 0], [1, 1, 0]]), ("b", [[0, 0, 1], [0, 0, 1]])):
        run = make_run(name, "ties", {"copa": {"median_accuracy": 0.5}}, metrics=metrics)
        write_rows(run.folder / "tasks" / "copa.parquet", {"correct": np.array(right, bool)})
        folders.append(run.folder)
    (found,) = compare(*folders, resamples=20)
    assert (found.first, found.second, found.low, found.high) == (1.0, 0.0, 1.0, 1.0)


def test_runs_on_other_data_are_refused_even_where_they_have_as_many_examples(make_scored):
    clean = make_scored("a", {"mnist": [1, 0] * 5})
    blurred = {"tasks": {"split": "test", "corruption": "motion_blur", "severity": 2, "limit": None}}
    other = make_scored("b", {"mnist": [0, 1] * 5}, recipe=blurred)
    with pytest.raises(ConfigError, match=r"the whole clean test split.*motion_blur, severity 2.*tasks.corruption"):
        compare(clean, other)


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_runs_at_addresses_are_compared_as_their_folders_are(make_scored, tmp_path, monkeypatch, capsys, kind):
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path / "cache"))
    folders = [make_scored("a", {"mnist": [1, 0, 1] * 20}), make_scored("b", {"mnist": [0, 1, 1] * 20})]
    top = f"file://{tmp_path}/store" if kind == "file" else "memory://store"

    def compared(*runs) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["fusionbench", "compare", *map(str, runs), "--resamples", "50", "--json"])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    try:
        addresses = [f"{top}/{folder.name}" for folder in folders]
        for folder, address in zip(folders, addresses, strict=True):
            system, path = fsspec.core.url_to_fs(address)
            system.put(str(folder), path, recursive=True)
        assert compared(*addresses) == compared(*folders) == compared(addresses[0], folders[1])
        system, path = fsspec.core.url_to_fs(addresses[1])
        system.rm_file(f"{path}/tasks/mnist.parquet")
        code, said = compared(*addresses)
        assert code == 2
        assert f"{addresses[1]}/tasks/mnist.parquet is missing" in said
    finally:
        fsspec.filesystem("memory").store.clear()
