"""The command line in several processes: one prints, one complains, all exit with the same code."""

import io
import re
import shlex
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from forked import in_processes
from fusionbench.cli.console import complain, say_json
from fusionbench.cli.several import main_of_several
from fusionbench.config import Recipe
from fusionbench.errors import ConfigError
from fusionbench.suites.request import FinetuneRequest
from fusionbench.training import joined, processes

MISTAKE = 2
PAGE = Path(__file__).parents[2] / "docs" / "guides" / "several-processes.md"


def command(failing: int | None, error: type[Exception] = ConfigError, *, busy: bool = False) -> Callable[[], None]:
    """A command that prints, and in which one process fails as the command line does.

    Where they are `busy`, the others look up only when that process has ended.
    """

    def run() -> None:
        group = joined()
        try:
            with group.united():
                if group.rank == failing:
                    raise error("no such thing")
                if busy:
                    group.store.wait(["ended"])
                group.wait()
        except ConfigError as said:
            complain(str(said))
            sys.exit(MISTAKE)
        say_json({"by": group.rank})

    return run


def ended(
    work: Callable[[], None], *words: str, then: Callable[[], object] = bool
) -> Callable[[], tuple[object, str, str]]:
    """In a process: the exit code, and what it wrote to both streams; `then` is done last."""

    def there() -> tuple[object, str, str]:
        sys.argv = ["fusionbench", *words]
        sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
        try:
            main_of_several(work, MISTAKE)
        except SystemExit as end:
            then()
            return end.code, sys.stdout.getvalue(), sys.stderr.getvalue()
        raise AssertionError("it did not exit")

    return there


def test_the_main_process_prints_for_all() -> None:
    main, other = in_processes(2, ended(command(None), "run"))
    assert main == (0, '{\n  "by": 0\n}\n', "")
    assert other == (0, "", "")


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_is_said_once_by_the_main_process(failing: int) -> None:
    main, other = in_processes(2, ended(command(failing), "run"))
    assert main == (MISTAKE, "", "error: no such thing\n")
    assert other == (MISTAKE, "", "")


def test_a_bug_is_told_once_with_its_traceback() -> None:
    main, other = in_processes(2, ended(command(1, ValueError), "run"))
    assert (main[0], other[0]) == (1, 1)
    assert "in process 1" in main[2]
    assert "ValueError: no such thing" in main[2]
    assert other[2] == ""


def test_where_the_main_process_is_busy_the_one_that_failed_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LAST_WORDS", timedelta(milliseconds=100))
    said = ended(command(1, busy=True), "run", then=lambda: joined().store.set("ended", "1"))
    _, other = in_processes(2, said)
    assert other == (MISTAKE, "", "error: no such thing\n")


@pytest.mark.parametrize("words", [("merge", "method=ties"), ("run", "suite=mini/clip", "-m"), ("sweep",)])
def test_what_one_process_does_is_refused_once(words: tuple[str, ...]) -> None:
    def never() -> None:
        raise AssertionError("it was begun")

    main, other = in_processes(2, ended(never, *words))
    assert (main[0], other[0]) == (MISTAKE, MISTAKE)
    assert main[2].startswith(f"error: {words[0]} is done by one process")
    assert other[1:] == ("", "")


def test_the_commands_of_the_guide_are_ones() -> None:
    lines = [line for line in PAGE.read_text().splitlines() if "-m fusionbench " in line]
    assert len(lines) >= 6
    for line in lines:
        verb, *words = shlex.split(re.split(r"-m fusionbench ", line)[1])
        given = [word for word in words if "=" in word]
        assert words[len(words) - 2] == "--out" or verb == "evaluate"
        if verb == "finetune":
            FinetuneRequest.load(given)
        else:
            Recipe.load(None, [*(["method=pretrained"] if verb == "evaluate" else []), *given])
