"""From folders to files."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fusionbench.errors import ConfigError, MissingData
from fusionbench.records import Run, SuiteRef, find_runs, rows
from fusionbench.report import FORMATS, as_markdown, report, tables_of

MakeRun = Callable[..., Run]


@pytest.fixture
def runs(make_accuracies: MakeRun, tmp_path: Path) -> Path:
    for scale in (0.1, 0.3):
        make_accuracies(f"ties-{scale}", "ties", {"x": scale, "y": 0.5, "z": 0.75}, params={"scale": scale})
    return tmp_path / "runs"


def test_every_format_writes_its_files(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    written = report([runs], FORMATS, out)
    assert [path.name for path in written] == [
        *("table.md", "table.csv", "table.tex", "report.html", "interactive.html"),
        *("radar.png", "bars.png", "curve-scale.png", "radar.pdf", "bars.pdf", "curve-scale.pdf"),
        *("records.jsonl", "records.parquet"),
    ]
    assert sorted(written) == sorted(out.iterdir())
    assert all(path.stat().st_size > 0 for path in written)
    assert (out / "table.md").read_text() == as_markdown(tables_of(find_runs([runs]))[0])
    assert len((out / "records.jsonl").read_text().splitlines()) == 6


def test_several_suites_have_files_of_their_own_where_one_cannot_hold_both(
    runs: Path, make_accuracies: MakeRun, tmp_path: Path
) -> None:
    make_accuracies("other", "ties", {"q": 0.5}, suite=SuiteRef(name="mini/t5", size="tiny"))
    written = report([runs], ("csv", "md", "png"), tmp_path / "out")
    assert [path.name for path in written] == [
        *("mini-t5-tiny-table.csv", "mini-clip-small-table.csv", "table.md"),
        *("mini-t5-tiny-bars.png",),
        *("mini-clip-small-radar.png", "mini-clip-small-bars.png", "mini-clip-small-curve-scale.png"),
    ]


def test_standard_errors_and_all_metrics_on_request(runs: Path, tmp_path: Path) -> None:
    (path,) = report([runs], ["md"], tmp_path, stderr=True, metrics="all")
    assert "50.0 ± 1.0" in path.read_text()


def test_an_unknown_format_is_refused_before_anything_is_written(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"There is no format 'htm'\. Did you mean html"):
        report([runs], ["md", "htm"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_finished_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="No finished run was found in"):
        report([tmp_path], ["md"], tmp_path / "out")


def test_tables_need_neither_torch_nor_matplotlib(runs: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from fusionbench.report import report;"
        f"report([Path({str(runs)!r})], ['md', 'csv', 'latex', 'json-long'], Path({str(tmp_path / 'out')!r}));"
        "print(sorted({'torch', 'matplotlib', 'pyarrow', 'numpy'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_a_run_that_is_shown_is_the_run_that_was_recorded(runs: Path) -> None:
    (table,) = tables_of(find_runs([runs]))
    shown = {row.label: row.cells[0].value for row in table.rows}
    recorded = {row["params"]: row["value"] for run in find_runs([runs]) for row in rows(run.report)[:1]}
    assert shown == {"ties (scale=0.1)": 0.1, "ties (scale=0.3)": 0.3}
    assert recorded == {'{"scale": 0.1}': 0.1, '{"scale": 0.3}': 0.3}
