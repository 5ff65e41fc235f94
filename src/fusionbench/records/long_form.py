"""Results in long form, one row a run × variant × task × metric, for pandas, Polars, DuckDB and spreadsheets."""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fusionbench.errors import ConfigError
from fusionbench.records.files import write_whole
from fusionbench.records.results import Report, Variant
from fusionbench.records.run_info import RunInfo
from fusionbench.records.runs import Run
from fusionbench.records.scores import info_of

COLUMNS: dict[str, str] = {
    "identity": "string",
    "suite": "string",
    "suite_size": "string",
    "suite_seed": "int64",
    "suite_build": "string",
    "method": "string",
    "method_version": "int64",
    "compat": "string",
    "params": "string",
    "inner": "string",
    "seed": "int64",
    "variant_index": "int64",
    "variant": "string",
    "variant_params": "string",
    "task": "string",
    "seen": "bool",
    "metric": "string",
    "unit": "string",
    "better": "string",
    "primary": "bool",
    "value": "float64",
    "n": "int64",
    "stderr": "float64",
    "average": "float64",
    "unseen_average": "float64",
    "normalized": "float64",
    "model_kind": "string",
    "parameters": "int64",
    "trainable": "int64",
    "bytes": "int64",
    "adapted_on": "string",
    "selected_on": "string",
    "date": "string",
    "host": "string",
    "seconds": "float64",
    "peak_memory": "int64",
    "fusionbench": "string",
}
"""Names and Arrow types of the columns. Parameters are JSON texts; averages repeat on each row of their variant."""


def rows(report: Report, run_info: RunInfo | None = None) -> list[dict[str, Any]]:
    """Return one row for each variant, task and metric of `report`, every row with all of `COLUMNS`."""
    shared = {**_of_report(report), **_of_run(run_info)}
    found: list[dict[str, Any]] = []
    for index, variant in enumerate(report.variants):
        of_variant = {"variant_index": index, **_of_variant(variant)}
        for task, scores in variant.tasks.items():
            for metric, score in scores.metrics.items():
                of_score = {
                    "task": task,
                    "seen": scores.seen,
                    "metric": metric,
                    **info_of(report.metrics, metric).model_dump(),
                    "primary": metric == scores.primary,
                    **score.model_dump(),
                }
                values = {**shared, **of_variant, **of_score}
                found.append({column: values[column] for column in COLUMNS})
    return found


def write_long(runs: Iterable[Run], path: Path) -> Path:
    """Write the rows of all `runs` to `path`, as its ending says: .jsonl, .parquet or .csv.

    Raises:
        ConfigError: for another ending.
        OutputError: where the file cannot be written.
    """
    table = [row for run in runs for row in rows(run.report, run.info)]
    if path.suffix == ".jsonl":
        return write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table))
    if path.suffix == ".csv":
        return write_whole(path, _csv(table))
    if path.suffix == ".parquet":
        return write_whole(path, _parquet(table))
    raise ConfigError(
        f"{path} ends in {path.suffix or 'nothing'}: long records are written as .jsonl, .parquet or .csv."
    )


def _of_report(report: Report) -> dict[str, Any]:
    suite, method = report.suite, report.method
    return {
        "identity": report.identity,
        "suite": suite.name if suite else None,
        "suite_size": suite.size if suite else None,
        "suite_seed": suite.seed if suite else None,
        "suite_build": suite.build if suite else None,
        "method": method.name,
        "method_version": method.version,
        "compat": method.compat,
        "params": _json(method.params),
        "inner": _json(method.inner.model_dump()) if method.inner else None,
        "seed": report.seed,
        "adapted_on": report.adapted_on.split if report.adapted_on else None,
        "selected_on": report.selected_on.split if report.selected_on else None,
    }


def _of_run(info: RunInfo | None) -> dict[str, Any]:
    return {
        "date": info.date if info else None,
        "host": info.host if info else None,
        "seconds": info.seconds if info else None,
        "peak_memory": info.peak_memory if info else None,
        "fusionbench": info.environment.versions.get("fusionbench") if info else None,
    }


def _of_variant(variant: Variant) -> dict[str, Any]:
    model = variant.model
    return {
        "variant": variant.label,
        "variant_params": _json(variant.params),
        "average": _only(variant.average),
        "unseen_average": _only(variant.unseen_average),
        "normalized": variant.normalized,
        "model_kind": model.kind if model else None,
        "parameters": model.parameters if model else None,
        "trainable": model.trainable if model else None,
        "bytes": model.bytes if model else None,
    }


def _only(average: dict[str, float] | None) -> float | None:
    return next(iter(average.values())) if average else None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _csv(table: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def _parquet(table: list[dict[str, Any]]) -> bytes:
    import pyarrow as arrow
    from pyarrow import parquet

    schema = arrow.schema([(name, arrow.type_for_alias(kind)) for name, kind in COLUMNS.items()])
    sink = arrow.BufferOutputStream()
    parquet.write_table(arrow.Table.from_pylist(table, schema=schema), sink)
    return bytes(sink.getvalue())
