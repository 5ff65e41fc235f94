import sys
import threading
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from fusionbench.errors import FusionBenchError
from fusionbench.finetune.recipe import FinetuneRecipe
from fusionbench.suites import Suite, workers
from fusionbench.suites.workers import Job, Work, main, one_thread, run_beside, run_here


def work(out: Path, *names: str) -> Work:
    suite = Suite(name="s", pool={"base": "./missing", "experts": {"a": "./a"}}, tasks={"a": {}, "b": {}})
    jobs = tuple(Job(name=name, tasks=(name,), recipe=FinetuneRecipe(steps=10)) for name in names)
    return Work(suite=suite, out=out, jobs=jobs)


def pretend(monkeypatch, tmp_path: Path, script: str) -> None:
    """Let a shell script stand for the interpreter that workers run under."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(workers, "POLL_SECONDS", 0.01)


def test_what_the_user_must_mend_comes_back_as_the_worker_said_it(tmp_path, monkeypatch):
    pretend(monkeypatch, tmp_path, "echo 'The disk is full.' >&2; exit 2")
    with pytest.raises(FusionBenchError, match=r"^The disk is full\.$"):
        run_beside(work(tmp_path / "out", "a"), 2)


def test_a_worker_that_dies_is_a_bug_with_the_end_of_what_it_wrote(tmp_path, monkeypatch):
    pretend(monkeypatch, tmp_path, "echo 'Traceback: oh' >&2; exit 1")
    with pytest.raises(RuntimeError, match=r"code 1: Traceback: oh"):
        run_beside(work(tmp_path / "out", "a"), 1)


def test_one_failing_worker_ends_the_others(tmp_path, monkeypatch):
    pretend(monkeypatch, tmp_path, f"mkdir {tmp_path}/first && exit 1; exec sleep 600")
    with pytest.raises(RuntimeError):
        run_beside(work(tmp_path / "out", "a"), 2)


def test_control_c_ends_the_workers(tmp_path, monkeypatch):
    pretend(monkeypatch, tmp_path, "exec sleep 600")
    started = []
    popen = workers.subprocess.Popen
    monkeypatch.setattr(
        workers.subprocess, "Popen", lambda *args, **kwargs: started.append(popen(*args, **kwargs)) or started[-1]
    )

    def stop(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_beside(work(tmp_path / "out", "a"), 2, stop)
    assert [process.poll() for process in started] == [-9, -9]


def test_progress_counts_finished_models_and_the_steps_of_unfinished_ones(tmp_path, monkeypatch):
    pretend(monkeypatch, tmp_path, "sleep 0.1")
    (tmp_path / "out/a").mkdir(parents=True)
    (tmp_path / "out/b.training/b").mkdir(parents=True)
    (tmp_path / "out/b.training/b/curve.jsonl").write_text('{"step": 4, "metrics": {}}\n')
    told = []
    run_beside(work(tmp_path / "out", "a", "b", "c"), 1, lambda *news: told.append(news))
    assert told[0] == ("experts", 14, 30)


def test_a_job_that_another_process_has_is_left_to_it_and_waited_for(tmp_path):
    jobs, passed = work(tmp_path / "out", "a"), threading.Event()
    (tmp_path / "out").mkdir()
    lock = FileLock(tmp_path / "out/a.lock")
    with lock:
        ours = threading.Thread(target=run_here, args=(jobs, lambda *news: passed.set()))
        ours.start()
        passed.wait()
        assert ours.is_alive()
        # the other process finishes
        (tmp_path / "out/a").mkdir()
        (tmp_path / "out/a/fusionbench.json").touch()
    ours.join()
    assert sorted(path.name for path in (tmp_path / "out/a").iterdir()) == ["fusionbench.json"]


def test_a_worker_ends_with_2_for_what_the_user_must_mend(tmp_path, capsys):
    file = tmp_path / "work.json"
    file.write_text(work(tmp_path / "out", "a").model_dump_json())
    assert main([str(file)]) == 2
    assert "missing" in capsys.readouterr().err


def test_threads_are_put_back(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
