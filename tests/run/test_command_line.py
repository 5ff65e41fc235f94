"""`run` and `evaluate`: what goes to which stream, and what is refused."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fusionbench.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fusionbench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the command line in this process: its code, and what it wrote to either stream."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fusionbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        streams = capsys.readouterr()
        return int(ended.value.code or 0), streams.out, streams.err

    return call


def test_several_runs_print_one_json_list_of_their_reports(fusionbench: Run, suite: Path, tmp_path: Path) -> None:
    sweep = ("run", f"suite={suite}", "method=task_arithmetic", "method.scale=0,0.5", "tasks.limit=4", "-m", "--json")
    code, out, err = fusionbench(*sweep, "--out", tmp_path / "all")
    assert code == 0, err
    reports = json.loads(out)
    assert [report["method"]["params"]["scale"] for report in reports] == [0.0, 0.5]
    kept = {path.read_text() for path in tmp_path.glob("all/*/report.json")}
    assert {json.dumps(report, indent=1, ensure_ascii=False) + "\n" for report in reports} == kept
    assert "report.html" in err


def test_a_run_that_fails_is_left_out_of_the_list_and_said(fusionbench: Run, suite: Path, tmp_path: Path) -> None:
    sweep = ("run", f"suite={suite}", "method=traditional_mtl,pretrained", "tasks.limit=4", "-m", "--json")
    code, out, err = fusionbench(*sweep, "--out", tmp_path / "all")
    assert code == 2
    assert [report["method"]["name"] for report in json.loads(out)] == ["pretrained"]
    assert "traditional_mtl" in err


def test_an_evaluation_takes_what_it_follows_and_nothing_else(fusionbench: Run, suite: Path) -> None:
    model = suite.parent / "cats"
    code, out, err = fusionbench("evaluate", model, f"suite={suite}", "tasks.limit=4", "runtime.device=cpu", "--json")
    assert code == 0, err
    assert json.loads(out)["method"]["name"] == "model"
    for given, said in (("method=ties", "method"), ("output.dtype=float16", "output"), ("seed=1", "seed")):
        code, _, err = fusionbench("evaluate", model, f"suite={suite}", given)
        assert code == 2
        assert f"{said}: evaluate scores the model as it is" in err


def test_weights_by_expert_on_the_command_line(fusionbench: Run, suite: Path, tmp_path: Path) -> None:
    run = ("run", f"suite={suite}", "method=weighted_ensemble", "tasks.limit=4")
    code, _, err = fusionbench(*run, "method.weights={dogs:3,cats:1}", "--out", tmp_path / "named")
    assert code == 0, err
    about = json.loads((tmp_path / "named" / "model" / "ensemble.json").read_text())
    assert about["weights"] == [0.25, 0.75]
    code, _, err = fusionbench(*run, "method.weights=[{value:1}]", "--out", tmp_path / "scheduled")
    assert code == 2
    assert "method.weights differs from tensor to tensor" in err


def test_mergekits_name_of_a_method_is_read_with_a_note(fusionbench: Run, suite: Path) -> None:
    code, out, err = fusionbench("run", f"suite={suite}", "method=linear", "method.weights=[1,2]", "--dry-run")
    assert code == 0, err
    assert "name: weighted_average" in out
    assert "linear is mergekit's name" in err
