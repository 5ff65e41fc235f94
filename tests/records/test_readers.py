"""Long-form records as other tools read them; a tool that is not installed is skipped."""

from pathlib import Path

import pytest

from fusionbench.records import COLUMNS, MethodRef, MetricInfo, Report, Run, Score, TaskScore, Variant, write_long


@pytest.fixture(params=["records.jsonl", "records.parquet"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Two runs, one task: TIES with 0.5, DARE with 0.75 and no standard error."""
    runs = []
    for method, value, stderr in (("ties", 0.5, 0.125), ("dare", 0.75, None)):
        score = TaskScore.of({"accuracy": Score(value=value, n=16, stderr=stderr)})
        metrics = {"accuracy": MetricInfo()}
        variant = Variant.build({"mnist": score}, metrics)
        report = Report.build(
            identity=f"sha256:{method}", method=MethodRef(name=method), variants=[variant], metrics=metrics
        )
        runs.append(Run(folder=tmp_path / method, report=report))
    return write_long(runs, tmp_path / request.param)


def test_pandas(file: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.read_json(file, lines=True) if file.suffix == ".jsonl" else pandas.read_parquet(file)
    assert list(frame.columns) == list(COLUMNS)
    assert frame.groupby("method")["value"].mean().to_dict() == {"ties": 0.5, "dare": 0.75}
    assert frame["stderr"].isna().tolist() == [False, True]
    assert frame["seen"].tolist() == [True, True]


def test_polars(file: Path) -> None:
    polars = pytest.importorskip("polars", reason="Polars is not installed")
    frame = polars.read_ndjson(file) if file.suffix == ".jsonl" else polars.read_parquet(file)
    assert set(frame.columns) == set(COLUMNS)
    assert frame.filter(polars.col("value") > 0.6)["method"].to_list() == ["dare"]
    assert frame["stderr"].to_list() == [0.125, None]


def test_duckdb(file: Path) -> None:
    duckdb = pytest.importorskip("duckdb", reason="DuckDB is not installed")
    read = "read_json_auto" if file.suffix == ".jsonl" else "read_parquet"
    found = duckdb.sql(f"select method, value, n from {read}('{file}') where task = 'mnist' order by value").fetchall()
    assert found == [("ties", 0.5, 16), ("dare", 0.75, 16)]
