"""Runs whose folder is an address: made here or by other processes, found again, and read by their tables."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from fusionbench.cli import main
from fusionbench.config import Recipe
from fusionbench.errors import CheckpointError, Interrupted, OutputError
from fusionbench.records import Remote
from fusionbench.run import run
from fusionbench.sweep import run_all
from launched_here import jobs_here

Make = Callable[..., Recipe]
PROCESSES = ["launcher=processes", "launcher.workers=2"]
SAME = ("recipe.yaml", "report.json", "model/model.safetensors")
"""Files of a toy merge that are the same wherever it is made."""


@pytest.fixture(params=["file", "memory"])
def address(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An address under which nothing is."""
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path / "cache"))
    yield f"file://{tmp_path}/shared" if request.param == "file" else "memory://bucket/runs"
    fsspec.filesystem("memory").store.clear()


def there(address: str) -> dict[str, bytes]:
    """All files under an address."""
    system, top = fsspec.core.url_to_fs(address)
    system.invalidate_cache()
    return {file.removeprefix(top).lstrip("/"): system.cat_file(file) for file in system.find(top)}


def result_files(files: dict[str, bytes]) -> dict[str, bytes]:
    """Those that are the same wherever a run is made."""
    return {name: content for name, content in files.items() if name.endswith(SAME)}


@pytest.mark.parametrize("launched", [False, True])
def test_a_sweep_under_an_address_has_the_files_of_a_sweep_in_a_folder(
    make: Make, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launched: bool
) -> None:
    given = jobs_here(monkeypatch)
    recipes = [make(scale, *(PROCESSES if launched else [])) for scale in (0.3, 0.5)]
    missing = make(0.3, f"experts.b={tmp_path}/nowhere", *(PROCESSES if launched else []))
    outcomes = list(run_all([*recipes, missing], Remote.at(address)))
    assert [outcome.result is None for outcome in outcomes] == [False, False, True]
    plain = list(run_all([make(0.3), make(0.5)], tmp_path / "plain"))
    expected = {}
    for outcome in plain:
        assert outcome.result is not None
        folder = outcome.result.folder
        expected |= {f"{folder.name}/{name}": (folder / name).read_bytes() for name in SAME if name != "recipe.yaml"}
    found = there(address)
    assert {name: content for name, content in result_files(found).items() if "recipe" not in name} == expected
    assert sorted(name for name in found if name.endswith("recipe.yaml")) == sorted(
        f"{outcome.result.folder.name}/recipe.yaml" for outcome in plain if outcome.result
    )
    assert [o.result and o.result.report for o in outcomes[:2]] == [o.result and o.result.report for o in plain]
    # Another machine, whose cache is empty, finds them.
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path / "another"))
    again = list(run_all(recipes, Remote.at(address)))
    assert [outcome.result and outcome.result.reused for outcome in again] == [True, True]
    assert there(address) == found
    assert given == ([3, 2] if launched else [])


def test_another_run_at_the_address_is_left_alone(make: Make, address: str) -> None:
    run(make(0.3), out=Remote.at(address))
    before = there(address)
    with pytest.raises(OutputError, match="holds another run"):
        run(make(0.5), out=Remote.at(address))
    assert there(address) == before
    made = run(make(0.5), out=Remote.at(address), force=True)
    assert not made.reused
    assert there(address)["model/model.safetensors"] != before["model/model.safetensors"]
    assert run(make(0.5), out=Remote.at(address)).reused


def test_a_run_that_fails_publishes_nothing(make: Make, address: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        run(make(0.3, f"experts.b={tmp_path}/nowhere"), out=Remote.at(address))
    assert there(address) == {}


def test_a_run_that_was_made_and_not_published_is_not_made_again(
    make: Make, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = Remote.at(address)

    def stopped(self: Remote, *arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Remote, "publish", stopped)
        with pytest.raises(Interrupted):
            run(make(0.3), out=remote)
    assert there(address) == {}
    assert run(make(0.3), out=remote).reused
    assert "report.json" in there(address)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fusionbench", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        streams = capsys.readouterr()
        return int(ended.value.code or 0), streams.out, streams.err

    return call


def test_the_commands_take_addresses(
    command: Callable[..., tuple[int, str, str]], noisy: Path, address: str, tmp_path: Path
) -> None:
    asked = [f"suite={noisy}", "tasks.limit=4", "output.model=false"]
    code, out, err = command("run", *asked, "method=simple_average", "--out", f"{address}/one")
    assert code == 0, err
    assert f"Report: {address}/one/report.json" in out
    code, out, err = command("run", *asked, "method=simple_average", "--out", f"{address}/one")
    assert f"{address}/one holds this run already" in err
    code, out, err = command(
        "run", *asked, "method=task_arithmetic", "method.scale=0.1,0.2", "-m", "--out", f"{address}/many"
    )
    assert code == 0, err
    assert f"Wrote {address}/many/report/report.html" in out
    assert len([name for name in there(f"{address}/many") if name.endswith("cats.parquet")]) == 2
    code, out, err = command("report", f"{address}/many", f"{address}/one", "--format", "md", "--out", tmp_path / "r")
    assert code == 0, err
    (table,) = (tmp_path / "r").glob("*.md")
    assert table.read_text().count("task_arithmetic") == 2
    assert table.read_text().count("simple_average") == 1
    code, out, err = command("report", f"{address}/many", "--format", "csv")
    (table,) = (name for name in there(address) if name.endswith(".csv"))
    assert f"Wrote {address}/{table}" in out
    assert table.startswith("many/report/")
    code, out, err = command("report", f"{address}/many", "--leaderboard")
    assert f"Wrote {address}/many/report/leaderboard.md" in out


@pytest.mark.usefixtures("make")
def test_a_merge_goes_to_an_address(
    command: Callable[..., tuple[int, str, str]], address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"
    asked = [f"base={models}/base", f"experts.a={models}/a", f"experts.b={models}/b", "method=ties"]
    code, out, err = command("merge", *asked, "--out", tmp_path / "plain")
    assert code == 0, err
    with monkeypatch.context() as patch:
        patch.setattr(Remote, "publish", lambda self, last: (_ for _ in ()).throw(KeyboardInterrupt))
        assert command("merge", *asked, "--out", f"{address}/merged")[0] == 130
    assert there(address) == {}
    code, out, err = command("merge", *asked, "--out", f"{address}/merged")
    assert code == 0, err
    assert f"into {address}/merged" in out
    plain = {path.name: path.read_bytes() for path in (tmp_path / "plain").iterdir()}
    found = there(f"{address}/merged")
    assert sorted(found) == sorted(plain)
    assert found["model.safetensors"] == plain["model.safetensors"]
    assert not list((tmp_path / "cache" / "remote").rglob("*.safetensors"))
    code, out, err = command("merge", *asked, "--out", f"{address}/merged")
    assert code == 2
    assert "nothing is written over" in err
    assert there(f"{address}/merged") == found


@pytest.mark.parametrize("verb", ["run", "search", "report", "merge", "quickstart", "reproduce"])
def test_an_address_that_cannot_be_used_is_told_at_once(
    command: Callable[..., tuple[int, str, str]], noisy: Path, verb: str
) -> None:
    words = {
        "run": ["run", f"suite={noisy}", "method=simple_average", "--out", "pigeon://loft"],
        "search": ["search", f"suite={noisy}", "method=ties", "method.scale=0,1", "--out", "s3://bucket/s"],
        "report": ["report", "pigeon://loft"],
        "merge": ["merge", "experts.a=./nowhere", "method=simple_average", "--out", "pigeon://loft"],
        "quickstart": ["quickstart", "--out", "pigeon://loft"],
        "reproduce": ["reproduce", "cosine-clip-b32", "--suite", "mini", "--out", "pigeon://loft"],
    }
    code, _, err = command(*words[verb])
    assert code == 2
    assert ("needs a folder" if verb == "search" else "pigeon") in err
