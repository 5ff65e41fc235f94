"""`run.json`: what a run took and where."""

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from fusionbench.errors import ConfigError
from fusionbench.records import RunInfo, peak_memory


def test_a_captured_run_has_its_phases_and_reads_back(tmp_path: Path) -> None:
    started = datetime(2026, 5, 4, 11, 30, tzinfo=timezone(timedelta(hours=2)))
    info = RunInfo.capture(started=started, phases={"load": 0.5, "fuse": 2.0}, command=["fusionbench", "run"], passes=3)
    assert info.date == "2026-05-04T09:30:00+00:00"
    assert list(info.phases.items()) == [("load", 0.5), ("fuse", 2.0)]
    assert info.environment.versions.keys() >= {"pydantic", "numpy"}
    assert RunInfo.load(info.save(tmp_path)) == info


def test_the_time_runs_from_the_start_to_now() -> None:
    started = datetime.now(UTC) - timedelta(hours=1)
    assert 3600 <= RunInfo.capture(started=started, phases={}).seconds < 3700


def test_the_runs_own_time_is_without_the_building_of_its_suite() -> None:
    started = datetime.now(UTC)
    built = RunInfo.capture(started=started, phases={"build": 180.0, "load": 0.5}).model_copy(update={"seconds": 190.0})
    assert built.own_seconds == 10.0
    assert built.model_copy(update={"phases": {"load": 0.5}}).own_seconds == 190.0


def test_peak_memory_is_in_bytes() -> None:
    block = bytearray(64 * 2**20)
    most = peak_memory()
    assert most is not None
    assert len(block) < most < 2**40


def test_another_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(
        '{"schema": 1, "date": "2026-05-04", "seconds": -1, "environment": {"python": "3", "platform": ""}}'
    )
    with pytest.raises(ConfigError, match="seconds"):
        RunInfo.load(file)
