"""`fusionbench fetch`: what is there, what is missing, and exit codes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hub_stand_in import HubCache
from tiny_texts import make_gpt2

Cli = Callable[..., tuple[int, str, str]]


def test_a_suite_that_is_there_is_told_line_by_line(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    hub = HubCache(tmp_path).use(monkeypatch)
    for name in ("gpt2", "tanganke/gpt2_cola"):
        make_gpt2(hub.model(name))
    held = datasets.Dataset.from_dict({"sentence": ["a", "b"], "label": [0, 1]})
    hub.dataset("nyu-mll/glue", {"train": held, "validation": held}, "cola")
    code, out, _ = cli("fetch", "suite=gpt2/glue7", "suite.experts=[cola]")
    assert code == 0
    assert out.splitlines() == [
        "model base: gpt2 is there",
        "model cola: tanganke/gpt2_cola is there",
        "data cola: nyu-mll/glue (cola) is there",
    ]  # fmt: skip


def test_what_is_missing_is_one_error(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    HubCache(tmp_path).use(monkeypatch)
    code, out, error = cli("fetch", "suite=gpt2/glue7", "suite.experts=[cola]")
    assert code == 2
    assert "data cola: nyu-mll/glue (cola) is missing" in out
    assert "3 of 3 could not be had" in error
    assert "Traceback" not in error
    assert cli("fetch")[0] == 2
