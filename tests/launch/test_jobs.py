"""A job of any kind: what it is told, and what it answers."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from fusionbench.errors import ConfigError, Interrupted, MissingHead, MissingPart
from fusionbench.launch import new_job, value_of
from fusionbench.launch.jobs import KINDS, died, perform


@pytest.fixture
def doing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Register a function as the kind "toy"; return its registration."""
    kinds: dict[str, str] = {}
    monkeypatch.setattr("fusionbench.launch.jobs.KINDS", kinds)

    def register(function: Any) -> None:
        kinds["toy"] = f"{__name__}:toy"
        monkeypatch.setattr(f"{__name__}.toy", function)

    return register


def toy(job: Any) -> Any:
    """What a test puts in its place."""


@pytest.mark.parametrize("kind", [*KINDS])
def test_every_kind_names_a_function(kind: str) -> None:
    module, _, function = KINDS[kind].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_a_job_is_plain_data_and_its_function_sees_its_fields(doing: Any, tmp_path: Path) -> None:
    doing(lambda job: {"sum": job["first"] + job["second"], "in": job["folder"]})
    job = json.loads(json.dumps(new_job("toy", tmp_path / "out", {"first": 1, "second": 2})))
    assert value_of(perform(job)) == {"sum": 3, "in": str(tmp_path / "out")}


def test_relative_names_mean_what_they_mean_where_the_command_was_started(
    doing: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "start").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "start" / "word").write_text("found")
    doing(lambda job: Path("word").read_text())
    monkeypatch.chdir(tmp_path / "start")
    job = new_job("toy", Path("out"), {})
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert job["folder"] == str(tmp_path / "start" / "out")
    assert value_of(perform(job)) == "found"


def test_an_error_keeps_its_class_and_its_words(doing: Any, tmp_path: Path) -> None:
    def raising(job: Any) -> None:
        raise MissingPart("clip", "decode", ("perplexity",))

    doing(raising)
    with pytest.raises(MissingPart, match=r"The family 'clip' has no decode \(perplexity need it\)") as found:
        value_of(json.loads(json.dumps(perform(new_job("toy", tmp_path, {})))))
    assert found.value.about is None
    with pytest.raises(MissingHead, match=r"^no head$"):
        value_of({"error": "MissingHead", "message": "no head"})


def test_a_bug_is_an_answer_with_its_traceback(doing: Any, tmp_path: Path) -> None:
    def broken(job: Any) -> None:
        raise ZeroDivisionError("a bug of ours")

    doing(broken)
    answer = perform(new_job("toy", tmp_path, {}))
    assert "A bug ended this toy" in answer["message"]
    assert "ZeroDivisionError: a bug of ours" in answer["message"]


@pytest.mark.parametrize("kind", [Interrupted, KeyboardInterrupt])
def test_a_stop_is_no_answer(doing: Any, tmp_path: Path, kind: type[BaseException]) -> None:
    def stopping(job: Any) -> None:
        raise kind

    doing(stopping)
    with pytest.raises(kind):
        perform(new_job("toy", tmp_path, {}))


def test_a_machine_without_the_folder_of_the_command_says_so(tmp_path: Path) -> None:
    job = {**new_job("run", tmp_path, {}), "here": str(tmp_path / "not-here")}
    assert "Start the command in a folder that all machines share" in perform(job)["message"]


def test_a_machine_with_another_version_says_so(tmp_path: Path) -> None:
    answer = perform(new_job("fly", tmp_path, {}))
    with pytest.raises(ConfigError, match=r"'fly' is not known on .* Install the same version"):
        value_of(answer)


def test_a_job_whose_process_was_lost_twice_says_how() -> None:
    assert "lost twice (signal SIGKILL)" in died("signal SIGKILL")["message"]
