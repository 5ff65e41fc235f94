"""Long-form records: one row a run × variant × task × metric."""

import csv
import json
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from fusionbench.errors import ConfigError
from fusionbench.records import (
    COLUMNS,
    Environment,
    MethodRef,
    MetricInfo,
    Report,
    Run,
    RunInfo,
    Score,
    SuiteRef,
    TaskScore,
    Variant,
    rows,
    write_long,
)

METRICS = {"accuracy": MetricInfo(), "nll": MetricInfo(unit="nats", better="lower")}


def two_variants() -> Run:
    def variant(label: str, value: float) -> Variant:
        both = {"accuracy": Score(value=value, n=8, stderr=0.125), "nll": Score(value=1.5, n=8)}
        other = {"accuracy": Score(value=1.0, n=4)}
        return Variant.build(
            {"a": TaskScore.of(both), "b": TaskScore.of(other)}, METRICS, label=label, params={"steps": len(label)}
        )

    report = Report.build(
        identity="sha256:12",
        suite=SuiteRef(name="mini/clip", size="tiny", seed=3),
        seed=7,
        method=MethodRef(name="adamerging", params={"rate": 0.001}, inner=MethodRef(name="ties")),
        variants=[variant("early", 0.5), variant("later on", 0.75)],
        metrics=METRICS,
    )
    environment = Environment(python="3.11", platform="Linux", versions={"fusionbench": "0.1.0"})
    info = RunInfo(date="2026-05-04", host="h", seconds=2.5, peak_memory=1024, environment=environment)
    return Run(folder=Path("run"), report=report, info=info)


def test_there_is_one_row_a_variant_task_and_metric() -> None:
    found = rows(two_variants().report)
    assert [(row["variant"], row["task"], row["metric"], row["value"]) for row in found] == [
        ("early", "a", "accuracy", 0.5),
        ("early", "a", "nll", 1.5),
        ("early", "b", "accuracy", 1.0),
        ("later on", "a", "accuracy", 0.75),
        ("later on", "a", "nll", 1.5),
        ("later on", "b", "accuracy", 1.0),
    ]
    assert all(list(row) == list(COLUMNS) for row in found)


def test_a_row_says_all_about_its_number() -> None:
    run = two_variants()
    row = rows(run.report, run.info)[1]
    said = {
        key: row[key] for key in ("suite", "suite_seed", "seed", "method", "unit", "better", "primary", "n", "stderr")
    }
    assert said == {
        "suite": "mini/clip",
        "suite_seed": 3,
        "seed": 7,
        "method": "adamerging",
        "unit": "nats",
        "better": "lower",
        "primary": False,
        "n": 8,
        "stderr": None,
    }
    assert json.loads(row["params"]) == {"rate": 0.001}
    assert json.loads(row["inner"])["name"] == "ties"
    assert (row["average"], row["seconds"], row["peak_memory"], row["fusionbench"]) == (0.75, 2.5, 1024, "0.1.0")


def test_jsonl_has_one_object_a_line(tmp_path: Path) -> None:
    run = two_variants()
    lines = write_long([run, run], tmp_path / "r.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == 2 * rows(run.report, run.info)


def test_parquet_keeps_values_and_types_even_where_a_column_is_empty(tmp_path: Path) -> None:
    run = two_variants()
    table = parquet.read_table(write_long([run], tmp_path / "r.parquet"))
    assert table.to_pylist() == rows(run.report, run.info)
    assert str(table.schema.field("compat").type) == "string"
    assert str(table.schema.field("bytes").type) == "int64"


def test_csv_has_a_heading_and_every_digit(tmp_path: Path) -> None:
    with write_long([two_variants()], tmp_path / "r.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert len(read) == 6
    assert read[0]["stderr"] == "0.125"
    assert read[1]["stderr"] == ""


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.jsonl, \.parquet or \.csv"):
        write_long([two_variants()], tmp_path / "r.xlsx")
