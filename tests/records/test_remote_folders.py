"""Folders under an address of fsspec: of this machine's disk, and of memory, which has no folders of its own."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from fusionbench.errors import ConfigError, Interrupted, MissingData, MissingExtra, OutputError
from fusionbench.records import (
    MethodRef,
    Remote,
    Report,
    Variant,
    fetched,
    find_runs,
    input_place,
    is_address,
    local_of,
    output_place,
    publish_files,
    published,
)
from fusionbench.records.runs import MARK


@pytest.fixture(params=["file", "memory"])
def address(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An address under which nothing is."""
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path / "cache"))
    yield f"file://{tmp_path}/shared/runs" if request.param == "file" else "memory://bucket/runs"
    fsspec.filesystem("memory").store.clear()


def make_run(folder: Path, identity: str = "sha256:1", weights: bytes = b"weights") -> None:
    """Write what a run leaves behind."""
    for inner in ("tasks/label", "model"):
        (folder / inner).mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(f"{MARK}{identity}\nseed: 0\n")
    (folder / "tasks" / "mnist.parquet").write_bytes(b"rows")
    (folder / "tasks" / "label" / "mnist.parquet").write_bytes(b"other rows")
    (folder / "model" / "model.safetensors").write_bytes(weights)
    (folder / "run.json").write_text("{}")
    Report.build(identity=identity, method=MethodRef(name="ties"), variants=[Variant()], metrics={}).save(folder)


def there(address: str) -> dict[str, bytes]:
    """All files under an address."""
    system, top = fsspec.core.url_to_fs(address)
    system.invalidate_cache()
    return {file.removeprefix(top).lstrip("/"): system.cat_file(file) for file in system.find(top)}


def here(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_is_published_whole_and_its_records_stay_here(address: str) -> None:
    remote = Remote.at(address) / "ties"
    with published(remote, "sha256:1", force=False):
        make_run(remote.folder)
        whole = here(remote.folder)
        assert there(address) == {}
    assert there(f"{address}/ties") == whole
    assert sorted(here(remote.folder)) == sorted(name for name in whole if not name.startswith("model"))


def test_a_finished_run_is_fetched_and_not_made_again(address: str, tmp_path: Path) -> None:
    with published(Remote.at(address) / "ties", "sha256:1", force=False):
        make_run((Remote.at(address) / "ties").folder)
    before = there(address)
    elsewhere = Remote(f"{address}/ties", tmp_path / "another-machine")
    with published(elsewhere, "sha256:1", force=False):
        assert Report.load(elsewhere.folder).identity == "sha256:1"
        assert "model/model.safetensors" not in here(elsewhere.folder)
    assert there(address) == before


def test_the_report_is_copied_last_so_that_a_stop_leaves_no_finished_run(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = Remote.at(address)
    make_run(remote.folder)
    kind = type(fsspec.core.url_to_fs(address)[0])
    real, put = kind.put_file, list[str]()

    def stopping(system: Any, source: str, target: str, **options: Any) -> None:
        if len(put) == 5:
            raise KeyboardInterrupt
        put.append(target)
        real(system, source, target, **options)

    monkeypatch.setattr(kind, "put_file", stopping)
    with (
        pytest.raises(Interrupted, match="the same command goes on"),
        published(remote, "sha256:1", force=False),
    ):
        pass
    assert len(put) == 5
    assert not remote.has("report.json")
    assert "model/model.safetensors" in here(remote.folder)
    monkeypatch.setattr(kind, "put_file", real)
    with published(remote, "sha256:1", force=False):
        pass
    assert remote.has("report.json")


def test_with_force_the_report_goes_first_and_the_run_is_replaced(address: str) -> None:
    remote = Remote.at(address)
    with published(remote, "sha256:1", force=False):
        make_run(remote.folder)
    with published(remote, "sha256:2", force=True):
        make_run(remote.folder, "sha256:2", b"others")
    assert there(address)["model/model.safetensors"] == b"others"
    assert there(address)["recipe.yaml"].startswith(f"{MARK}sha256:2\n".encode())


def test_what_a_killed_probe_left_is_in_nobodys_way(address: str) -> None:
    system, top = fsspec.core.url_to_fs(address)
    system.makedirs(top, exist_ok=True)
    system.pipe_file(f"{top}/.fusionbench-may-write", b"")
    with published(Remote.at(address), "sha256:1", force=False):
        make_run(Remote.at(address).folder)
    assert "report.json" in there(address)


@pytest.mark.parametrize("force", [False, True])
def test_files_of_others_are_never_written_over(address: str, force: bool) -> None:
    system, top = fsspec.core.url_to_fs(address)
    system.makedirs(top, exist_ok=True)
    system.pipe_file(f"{top}/thesis.tex", b"years of work")
    with (
        pytest.raises(OutputError, match="was not made by fusionbench"),
        published(Remote.at(address), "sha256:1", force=force),
    ):
        pytest.fail("the body is not reached")
    assert there(address) == {"thesis.tex": b"years of work"}


def test_another_run_is_refused_without_force(address: str) -> None:
    with published(Remote.at(address), "sha256:1", force=False):
        make_run(Remote.at(address).folder)
    # An identity that the one there begins with is another one.
    for identity in ("sha256:2", "sha256:"):
        with (
            pytest.raises(OutputError, match="holds another run"),
            published(Remote.at(address), identity, force=False),
        ):
            pytest.fail("the body is not reached")


def test_a_report_that_arrived_in_part_is_made_again(address: str, caplog: pytest.LogCaptureFixture) -> None:
    with published(Remote.at(address), "sha256:1", force=False):
        make_run(Remote.at(address).folder)
    system, top = fsspec.core.url_to_fs(address)
    whole = there(address)
    system.pipe_file(f"{top}/report.json", whole["report.json"][:40])
    made = []
    with caplog.at_level(logging.WARNING), published(Remote.at(address), "sha256:1", force=False):
        assert not Remote.at(address).folder.exists() or not here(Remote.at(address).folder)
        make_run(Remote.at(address).folder)
        made.append(1)
    assert made
    assert "is made again" in caplog.text
    assert there(address) == whole


def test_a_file_that_arrives_shorter_is_an_error(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = Remote.at(address)
    make_run(remote.folder)
    kind = type(fsspec.core.url_to_fs(address)[0])
    monkeypatch.setattr(kind, "size", lambda system, path: 3)
    with pytest.raises(OutputError, match=r"has \d+ bytes, and 3 arrived"):
        remote.publish()


def test_runs_below_an_address_are_read_like_a_folder_of_runs(address: str) -> None:
    top = output_place(address)
    assert isinstance(top, Remote)
    assert there(address) == {}
    for name in ("b", "a/deep"):
        with published(top / name, f"sha256:{name}", force=False):
            make_run((top / name).folder, f"sha256:{name}")
            (top / name / "run.json").folder.unlink()
    place = input_place(f"{address}/")
    assert isinstance(place, Remote)
    assert [run.report.identity for run in find_runs([local_of(place)])] == ["sha256:a/deep", "sha256:b"]
    assert not [name for name in here(local_of(place)) if "model" in name]
    # What has gone from there is gone from here.
    system, path = fsspec.core.url_to_fs(f"{address}/b")
    system.rm(path, recursive=True)
    assert [run.report.identity for run in find_runs([local_of(input_place(address))])] == ["sha256:a/deep"]
    one = input_place(f"{address}/a/deep")
    assert [run.report.identity for run in find_runs([local_of(one)])] == ["sha256:a/deep"]
    with pytest.raises(MissingData, match="No finished run is at"):
        input_place(f"{address}/nowhere")


def test_what_is_fetched_for_a_moment_has_the_parts_that_are_asked_for_and_goes(address: str, tmp_path: Path) -> None:
    with published(Remote.at(address) / "ties", "sha256:1", force=False):
        make_run((Remote.at(address) / "ties").folder)
    before = there(address)
    with fetched(f"{address}/ties") as records, fetched(f"{address}/ties/", "model") as whole:
        assert sorted(here(records)) == sorted(name for name in of_the_run(before) if not name.startswith("model"))
        assert here(whole) == of_the_run(before)
    assert not records.exists()
    assert not whole.exists()
    with pytest.raises(ConfigError, match=rf"^{address}/ties is not mine$"), fetched(f"{address}/ties") as records:
        raise ConfigError(f"{records} is not mine")
    with pytest.raises(MissingData, match=f"No finished run is at {address}/nowhere"), fetched(f"{address}/nowhere"):
        pytest.fail("the body is not reached")
    assert there(address) == before
    with fetched(str(tmp_path / "runs")) as folder:
        assert folder == tmp_path / "runs"


def of_the_run(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files of the run `ties` by their names in its folder."""
    return {name.removeprefix("ties/"): content for name, content in files.items()}


def test_one_file_is_copied_for_a_moment(address: str) -> None:
    system, top = fsspec.core.url_to_fs(address)
    system.makedirs(f"{top}/deep", exist_ok=True)
    system.pipe_file(f"{top}/deep/lock.json", b"{}")
    remote = Remote.at(address)
    assert remote.names() == ["deep/lock.json"]
    with remote.copied("deep/lock.json") as path:
        assert (path.name, path.read_bytes()) == ("lock.json", b"{}")
    assert not path.exists()
    with pytest.raises(OutputError, match=f"{address} cannot be read"), remote.copied("gone"):
        pytest.fail("the body is not reached")


def test_tables_are_copied_to_where_a_person_looks_for_them(address: str, tmp_path: Path) -> None:
    remote = Remote.at(address)
    written = []
    for name in ("table.md", "page.html"):
        (remote.folder / "report").mkdir(exist_ok=True)
        written.append(remote.folder / "report" / name)
        written[-1].write_text(name)
    assert publish_files(remote, written) == [f"{address}/report/table.md", f"{address}/report/page.html"]
    assert there(address) == {"report/table.md": b"table.md", "report/page.html": b"page.html"}
    assert publish_files(remote, []) == []
    assert publish_files(tmp_path, [tmp_path / "x"]) == [str(tmp_path / "x")]


def test_a_folder_stays_a_folder(tmp_path: Path) -> None:
    for text in ("runs", "/a/b", "./s3:/x", "C:\\runs", "C://runs", "a:b"):
        assert not is_address(text)
        assert output_place(text) == input_place(text) == local_of(Path(text)) == Path(text)
    with published(tmp_path / "run", "sha256:1", force=False):
        pass
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("address")
@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("pigeon://loft/runs", ConfigError, "pigeon"),
        ("s3://bucket/runs", MissingExtra, r"pip install 'fsspec\[s3\]'"),
        ("ftp://me:secret@host/runs", ConfigError, "no user and no password"),
        ("github://org:repo@main/runs", ConfigError, "no user and no password"),
        ("data://runs", OutputError, "cannot be written"),
    ],
)
def test_an_address_that_cannot_be_used_is_told_before_anything_is_run(
    text: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as raised:
        output_place(text)
    assert "secret" not in str(raised.value)


def test_a_place_that_cannot_be_written_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        output_place(f"file://{tmp_path}/file/runs")
