"""Runs and evaluations in several processes: one report, written by the main one; an error in one ends all."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from forked import in_processes
from fusionbench.config import Recipe, SuiteConfig, TasksConfig
from fusionbench.errors import NotFinite
from fusionbench.methods._adaptation import Adaptation
from fusionbench.records import Report
from fusionbench.run import evaluate_model, evaluation, run
from fusionbench.tasks import evaluate
from fusionbench.training import joined, read_curve

Make = Callable[..., Recipe]
ADAPTS = ("adamerging", "method.steps=6", "method.batch=4", "method.batches=1", "method.checkpoint_every=2")
TOLERANCE = 1e-5


def digests(folder: Path) -> dict[str, str]:
    """Of all files of a run that are the same whenever it is made, by name."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("run.json", "checkpoint.pt")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def coefficients(folder: Path) -> torch.Tensor:
    return load_file(folder / "artefacts" / "coefficients" / "model.safetensors")["coefficients"]


def test_a_merge_is_made_by_the_main_process_and_scored_by_all(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve examples of each task, in batches of four."""
    monkeypatch.setattr(evaluation, "evaluate", lambda *args, **how: evaluate(*args, batch=4, **how))
    asked = recipe("task_arithmetic", "method.scale=0.3")
    report = run(asked, out=tmp_path / "one").report
    found = in_processes(2, lambda: run(asked, out=tmp_path / "two").report.model_dump())
    assert found == [report.model_dump()] * 2
    assert digests(tmp_path / "two") == digests(tmp_path / "one")
    again = in_processes(2, lambda: run(asked, out=tmp_path / "two").reused)
    assert again == [True, True]


def test_an_adaptation_is_divided_and_leaves_what_one_leaves(recipe: Make, tmp_path: Path) -> None:
    asked = recipe(*ADAPTS, "method.evaluate_every=3")
    alone = run(asked, out=tmp_path / "one").report
    found = in_processes(2, lambda: run(asked, out=tmp_path / "two").report.model_dump())
    assert found[0] == found[1]
    assert found[0]["adapted_on"] == alone.model_dump()["adapted_on"]
    torch.testing.assert_close(coefficients(tmp_path / "two"), coefficients(tmp_path / "one"), atol=TOLERANCE, rtol=0)
    curves = [read_curve(tmp_path / name / "training" / "adamerging") for name in ("one", "two")]
    for one, two in zip(*curves, strict=True):
        assert two.metrics == pytest.approx(one.metrics, abs=TOLERANCE)
    assert digests(tmp_path / "two").keys() == digests(tmp_path / "one").keys()
    assert not list(tmp_path.glob(".*.lock"))


def test_scores_on_the_way_are_divided_too(recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()

    def watched(*given: Any, **how: Any) -> Any:
        seen.add(how["processes"].count)
        return evaluate(*given, **how)

    monkeypatch.setattr("fusionbench.run.whole.evaluate", watched)

    def work() -> set[int]:
        run(recipe(*ADAPTS, "method.evaluate_every=6"), out=tmp_path / "run")
        return seen

    assert in_processes(2, work) == [{2}, {2}]


def test_an_adaptation_that_was_stopped_goes_on_with_another_number(recipe: Make, tmp_path: Path) -> None:
    asked = recipe(*ADAPTS)
    run(asked, out=tmp_path / "one")

    def stopped() -> None:
        def stop(what: str, done: int, _: int) -> None:
            if what.startswith("adamerging") and done == 3:
                raise KeyboardInterrupt

        run(asked, out=tmp_path / "two", progress=stop)

    for error in in_processes(3, stopped):
        assert error.kind == "Interrupted"
        assert "checkpoint of step 2" in str(error)
    run(asked, out=tmp_path / "two")
    torch.testing.assert_close(coefficients(tmp_path / "two"), coefficients(tmp_path / "one"), atol=TOLERANCE, rtol=0)
    assert [p.step for p in read_curve(tmp_path / "two" / "training" / "adamerging")] == [1, 2, 3, 4, 5, 6]


def test_an_error_in_one_process_is_that_of_all_and_leaves_nothing(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Adaptation.descend

    def breaking(self: Adaptation, *given: object) -> torch.Tensor:
        if joined().rank == 1:
            raise NotFinite("the task dogs is nan")
        return plain(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Adaptation, "descend", breaking)
    found = in_processes(2, lambda: run(recipe(*ADAPTS), out=tmp_path / "run"))
    assert [(error.kind, str(error)) for error in found] == [("NotFinite", "the task dogs is nan")] * 2
    assert not (tmp_path / "run" / "report.json").exists()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("surgery",), "surgery runs in one process, and 2 were started.*adamerging, "),
        (("task_arithmetic", "batch_norm=recalibrate"), "batch_norm=recalibrate runs in one process"),
        (("ties", "method.density=7"), "density"),
    ],
)
def test_what_is_not_divided_is_refused_with_one_message(
    recipe: Make, tmp_path: Path, asked: tuple[str, ...], said: str
) -> None:
    found = in_processes(2, lambda: run(recipe(*asked), out=tmp_path / "run"))
    for error in found:
        assert error.kind == "ConfigError"
        with pytest.raises(type(error), match=said):
            raise error
    assert not (tmp_path / "run").exists()


def test_a_model_is_evaluated_by_all(suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "evaluate", lambda *args, **how: evaluate(*args, batch=4, **how))
    asked = str(suite.parent / "cats"), SuiteConfig(name=str(suite)), TasksConfig()
    alone = evaluate_model(*asked).model_dump()
    assert in_processes(2, lambda: evaluate_model(*asked).model_dump()) == [alone] * 2
    kept = in_processes(3, lambda: evaluate_model(*asked, out=tmp_path / "kept").model_dump())
    assert kept == [alone] * 3
    assert Report.load(tmp_path / "kept").model_dump() == alone


def started(*words: str, count: int = 2, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command of fusionbench in processes that torchrun starts."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    return subprocess.run(
        [*torchrun, "-m", "fusionbench", *words], capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


@pytest.mark.slow
def test_the_command_line_in_two_processes_prints_one_table(recipe: Make, suite: Path, tmp_path: Path) -> None:
    words = ["run", f"suite={suite}", *(f"method={ADAPTS[0]}", *ADAPTS[1:]), "runtime.threads=1"]
    alone = [sys.executable, "-m", "fusionbench", *words, "--out", str(tmp_path / "run")]
    plain = subprocess.run(alone, capture_output=True, text=True, timeout=300, check=True).stdout
    (tmp_path / "run").rename(tmp_path / "one")
    two = started(*words, "--out", str(tmp_path / "run"))
    assert (two.returncode, two.stdout) == (0, plain), two.stderr
    torch.testing.assert_close(coefficients(tmp_path / "run"), coefficients(tmp_path / "one"), atol=TOLERANCE, rtol=0)


@pytest.mark.slow
def test_two_processes_fine_tune_what_one_does(suite: Path, tmp_path: Path) -> None:
    words = ["finetune", f"suite={suite}", "tasks=[cats]", "recipe.steps=4", "recipe.batch=4"]
    for name, count in (("one", 1), ("two", 2)):
        made = started(*words, "--out", str(tmp_path / name), count=count)
        assert made.returncode == 0, made.stderr
        assert made.stdout.count("cats accuracy") == 1
    one, two = (load_file(tmp_path / name / "cats" / "model.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=TOLERANCE, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "suite=nowhere.yaml", "method=ties"], "nowhere.yaml"),
        (["merge", "method=ties"], "merge is done by one process"),
        (["run", "suite=mini/clip", "method=ties", "method.scale=1,2", "-m"], "run is done by one process"),
        (["run", "suite=mini/clip", "method=tiess"], "Did you mean"),
    ],
)
def test_a_mistake_is_said_once(words: list[str], said: str) -> None:
    found = started(*words)
    assert found.returncode != 0
    assert found.stderr.count("error: ") == 1, found.stderr
    assert said in found.stderr
    assert found.stdout == ""


@pytest.mark.slow
def test_a_killed_process_ends_the_run_and_the_same_command_goes_on(suite: Path, tmp_path: Path) -> None:
    code = (
        "import os, signal\n"
        "from fusionbench.methods._adaptation import Adaptation\n"
        "plain, seen = Adaptation.descend, []\n"
        "def dying(self, *given):\n"
        "    seen.append(1)\n"
        "    if os.environ['RANK'] == '1' and len(seen) == 5:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return plain(self, *given)\n"
        "Adaptation.descend = dying\n"
        "from fusionbench.cli import main\n"
        "main()\n"
    )
    (tmp_path / "dying.py").write_text(code)
    words = ["run", f"suite={suite}", f"method={ADAPTS[0]}", *ADAPTS[1:], "--out", str(tmp_path / "run")]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    killed = subprocess.run(
        [*torchrun, str(tmp_path / "dying.py"), *words], capture_output=True, text=True, timeout=300
    )
    assert killed.returncode != 0
    assert f"Signal {signal.SIGKILL.value}" in killed.stderr
    assert not (tmp_path / "run" / "report.json").exists()
    assert (tmp_path / "run" / "training" / "adamerging" / "checkpoint.pt").exists()
    again = started(*words)
    assert again.returncode == 0, again.stderr
    assert [p.step for p in read_curve(tmp_path / "run" / "training" / "adamerging")] == [1, 2, 3, 4, 5, 6]
