"""One model scored by many processes: each does some examples of a task as a job of a launcher, and keeps their rows.

Parts begin where a batch of the whole reading does, so that their rows together are those of one process, bit for bit.
"""

import json
import shutil
from collections.abc import Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from fusionbench.config import RuntimeConfig, SuiteConfig, TasksConfig
from fusionbench.config.launcher import LauncherConfig
from fusionbench.launch import Job, launch, new_job, value_of
from fusionbench.merge import Progress, silent
from fusionbench.mixing import Fused, Skipped
from fusionbench.run.folder import TASKS
from fusionbench.run.opening import open_fused
from fusionbench.run.rows import read_rows, write_rows
from fusionbench.run.setting import Setting, setting_of_suite
from fusionbench.suites.tasks import open_tasks
from fusionbench.tasks import Task
from fusionbench.tasks.evaluation import BATCH, Part, joined_rows, parts_of_split, rows_of
from fusionbench.weights.devices import device_named

KIND, PARTS = "rows", "parts"


class Asked(NamedTuple):
    """What is scored, and on what: what every job of one evaluation says."""

    model: str
    suite: SuiteConfig
    tasks: TasksConfig
    runtime: RuntimeConfig
    preference: Sequence[float] | None = None


def make_rows(
    asked: Asked, launcher: LauncherConfig, tasks: Sequence[Task], folder: Path, progress: Progress = silent
) -> None:
    """Let a launcher's processes make the rows of tasks whose file is not in the folder yet.

    A task that the model cannot answer is left without a file. What was made before a stop is not made again.

    Args:
        asked: what is scored, and on what.
        launcher: who does it; its `workers` are the parts that a task is divided into, where it has as many batches.
        tasks: of which.
        folder: of the evaluation, whose `tasks` takes the rows, a file a task; one that all machines share.
        progress: told how many parts are done.

    Raises:
        FusionBenchError: that a job raises, or that says how its process was lost. What is finished is kept.
    """
    place = folder / TASKS
    count = launcher.workers or max(1, asked.runtime.threads // launcher.cpus)
    parts = {
        task.name: parts_of_split(task, asked.tasks.split, count, batch=BATCH, limit=asked.tasks.limit)
        for task in tasks
        if not (place / f"{task.name}.parquet").is_file()
    }
    jobs = [
        _job(asked, launcher, folder, name, part)
        for name, each in parts.items()
        for part in each
        if not _file(folder, name, part).is_file()
    ]
    progress("evaluating parts", 0, len(jobs))
    with closing(launch(jobs, launcher, asked.runtime.threads)) as answers:
        for done, (_, answer) in enumerate(answers, start=1):
            value_of(answer)
            progress("evaluating parts", done, len(jobs))
    for name, each in parts.items():
        files = [_file(folder, name, part) for part in each]
        if all(file.is_file() for file in files):
            write_rows(place / f"{name}.parquet", dict(joined_rows([read_rows(file) for file in files])))
    shutil.rmtree(folder / PARTS, ignore_errors=True)


def _file(folder: Path, task: str, part: Part) -> Path:
    return folder / PARTS / f"{task}-{part.start}-{'end' if part.stop is None else part.stop}.parquet"


def _job(asked: Asked, launcher: LauncherConfig, folder: Path, task: str, part: Part) -> Job:
    runtime = asked.runtime.model_copy(update={"launcher": None, "threads": launcher.cpus})
    documents = (document.model_dump(mode="json") for document in (asked.suite, asked.tasks, runtime))
    said = [asked.model, *documents, asked.preference]
    return new_job(KIND, folder, {"asked": said, "task": task, "part": list(part), "batch": BATCH})


def rows_job(job: Job) -> bool:
    """Do a job of `make_rows`: write the rows of a part; return whether the model answers the task.

    Raises:
        FusionBenchError: where the model or the suite is not there, or they do not fit.
    """
    fused, setting, tasks = _opened(json.dumps(job["asked"]))
    task, part, asked = tasks[job["task"]], Part(*job["part"]), setting.recipe.tasks
    try:
        rows = rows_of(fused.for_task(task), task, asked.split, part, batch=job["batch"], limit=asked.limit)
    except Skipped:
        return False
    write_rows(_file(Path(job["folder"]), task.name, part), dict(rows))
    return True


# One model at a time: what is open for a part is kept for the next one.
@lru_cache(maxsize=1)
def _opened(text: str) -> tuple[Fused, Setting, dict[str, Task]]:
    model, suite, tasks, runtime, preference = json.loads(text)
    setting = setting_of_suite(SuiteConfig.read(suite), TasksConfig.read(tasks), silent)
    device = device_named(RuntimeConfig.read(runtime).device)
    fused = open_fused(model, setting.pool, device, preference=preference).fused
    found: Any = open_tasks(setting.suite.suite, setting.tasks, base=setting.pool.reference) if setting.suite else {}
    return fused, setting, dict(found)
