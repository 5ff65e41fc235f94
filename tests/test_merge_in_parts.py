"""A merge whose files several processes make gives the bytes of a merge in one, whatever happens to the processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from checkpoints import save_model
from fusionbench import merge_in_parts
from fusionbench.compat import load_stages
from fusionbench.config import Recipe
from fusionbench.config.launcher import LauncherConfig
from fusionbench.errors import (
    CheckpointError,
    ConfigError,
    FusionBenchError,
    Interrupted,
    MissingExtra,
    NotFinite,
    OutputError,
)
from fusionbench.kernels import prediction
from fusionbench.launch.jobs import died, perform
from fusionbench.launch.launching import LAUNCHERS
from fusionbench.merge import merge
from fusionbench.registry import methods
from fusionbench.stages import merge_stages
from fusionbench.weights.partial import MARK, PREPARED

PROCESSES = ["runtime.launcher.name=processes", "runtime.launcher.workers=2"]
OTHERS = {
    "ray": ["runtime.launcher.name=ray", "runtime.launcher.workers=2"],
    "slurm": ["runtime.launcher.name=slurm", "runtime.launcher.address=local", "runtime.launcher.workers=2"],
}
PACKAGES = {"ray": "ray", "slurm": "submitit"}
SHARD = 4000
NEEDED: dict[str, tuple[str, ...]] = {
    "slerp": ("base=null",),
    "dare": ("method.combine=ties", "method.ties_density=0.5", "method.rescale=norm"),
    "ram": ("method.gain=0.1",),
    "knots": ("method.inner.name=ties",),
}
OF_ONE_EXPERT = ("arcee_fusion", "nearswap", "passthrough")
Launched = Generator[tuple[int, Any], None, None]


def tensors(seed: int) -> dict[str, torch.Tensor]:
    """A model with a tied table, blocks of matrices, a norm with running statistics, counts, and bfloat16."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * 8).round() / 8

    table = random(50, 12)
    blocks = {f"model.layers.{i}.mlp.weight": random(24, 12) for i in range(6)}
    norm = {"norm.running_mean": random(5), "norm.running_var": random(5).abs() + 1, "norm.weight": random(5)}
    narrow = {"model.layers.5.mlp.bias": random(24).bfloat16(), "steps": torch.tensor([seed])}
    return {"embed_tokens.weight": table, **blocks, **norm, **narrow, "lm_head.weight": table.clone()}


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for number, name in enumerate(("base", "a", "b")):
        save_model(tmp_path / name, tensors(number), {"model_type": "toy"}, shards=1 + number)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Let jobs be done in this process, as text that has been on its way; return them."""
    done: list[dict[str, Any]] = []

    def launch(jobs: Sequence[Any], launcher: LauncherConfig, threads: int) -> Launched:
        # The last comes first: the order is no matter.
        for number, job in reversed([*enumerate(jobs)]):
            done.append(json.loads(json.dumps(job)))
            yield number, json.loads(json.dumps(perform(done[-1])))

    for name in ("processes", "ray"):
        monkeypatch.setitem(LAUNCHERS, name, launch)
    merge_in_parts._opened.cache_clear()
    return done


def recipe(*overrides: str) -> Recipe:
    start = ["base=base", "experts.a=a", "runtime.threads=1", f"output.shard_bytes={SHARD}"]
    second = [] if any(text in overrides for text in map("method={}".format, OF_ONE_EXPERT)) else ["experts.b=b"]
    return Recipe.load(None, [*start, *second, *overrides])


def in_parts(folder: Path, *overrides: str, **options: Any) -> int:
    return merge(recipe(*overrides), folder, in_parts=True, **options).passes


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def streamed() -> list[str]:
    return [name for name in methods if methods[name].kind == "stream" and not methods[name].needs]


@pytest.mark.parametrize("name", streamed())
def test_every_method_gives_the_bytes_of_a_merge_in_one_process(name: str, models: Path, here: list[Any]) -> None:
    asked = (f"method={name}", *NEEDED.get(name, ()))
    whole = merge(recipe(*asked), models / "one")
    said: list[tuple[int, int]] = []
    passes = in_parts(models / "parts", *asked, *PROCESSES, progress=lambda _, done, total: said.append((done, total)))
    assert content(models / "parts") == content(models / "one")
    assert passes == whole.passes
    assert said[0][0] == 0
    assert said[-1] == (whole.parameters, whole.parameters)
    shards = len([*(models / "one").glob("*.safetensors")])
    assert shards > 2
    assert [job["part"] for job in here if "verify" in job] == [*reversed(range(shards))]


def looks(jobs: list[dict[str, Any]]) -> list[tuple[int | None, int | None]]:
    """Which part each first look was at, and in which pass, in the order of passes and parts."""
    found = [(job.get("look"), job["part"]) for job in jobs if job["part"] is None or job.get("look") is not None]
    return sorted(found, key=str)


def test_a_first_look_is_divided_where_it_counts_and_left_out_where_a_tensor_is_looked_at_alone(
    models: Path, here: list[Any]
) -> None:
    machines, shards = OTHERS["ray"], range(4)
    for asked, expected in {
        ("method=task_arithmetic", *machines): [],
        ("method=breadcrumbs", *machines): [],
        ("method=sce", *PROCESSES): [],
        ("method=ties", "method.scope=tensor", *PROCESSES): [],
        ("method=ties", *machines): [(number, part) for number in range(3) for part in shards],
        ("method=ties", "method.scope=changed", "method.keep=official", *machines): [
            (number, part) for number in range(2) for part in shards
        ],
        # On one machine nothing is won by it.
        ("method=ties", *PROCESSES): [(None, None)],
        ("method=opcm", *machines): [(None, None)],
    }.items():
        here.clear()
        in_parts(models / "-".join(asked), *asked)
        assert looks(here) == expected, asked


def test_who_makes_a_file_looks_at_no_other_tensors_where_each_is_looked_at_alone(
    models: Path, here: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = merge_in_parts.prepare_plan, list[str]()

    def looking(plan: Any, *more: Any, **named: Any) -> Any:
        seen.extend(step.output.name for step in plan)
        return real(plan, *more, **named)

    monkeypatch.setattr(merge_in_parts, "prepare_plan", looking)
    in_parts(models / "parts", "method=breadcrumbs", *PROCESSES)
    # The table stands in two files, by two names, and is looked at for each.
    assert sorted(seen) == sorted(name.replace("lm_head", "embed_tokens") for name in tensors(0))


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize(("shard_bytes", "files"), [(5_000_000_000, 1), (8000, 2), (2600, 5)])
@pytest.mark.parametrize(
    "asked",
    [
        ("method=ties",),
        ("method=ties", "method.scope=changed", "method.density=[0.3,0.15]"),
        ("method=ties", "method.scope=tensor", "method.keep=official"),
        ("method=ties", "method.density=1"),
        ("method=breadcrumbs", "method.top_drop=0.05"),
        ("method=sce", "method.select_topk=0.4"),
        ("method=model_stock",),
    ],
    ids=" ".join,
)
def test_looks_in_so_many_parts_find_what_one_finds(
    asked: tuple[str, ...], shard_bytes: int, files: int, sampled: bool, models: Path, here: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if sampled:
        # One process then guesses the cuts from a sample.
        monkeypatch.setattr(prediction, "LEAST", 1)
    asked = (*asked, f"output.shard_bytes={shard_bytes}")
    merge(recipe(*asked), models / "one")
    in_parts(models / "parts", *asked, *OTHERS["ray"])
    assert content(models / "parts") == content(models / "one")
    assert len([*(models / "one").glob("*.safetensors")]) == files


def test_what_was_counted_is_not_counted_again(models: Path, here: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    merge(recipe("method=ties"), models / "one")
    mine = LAUNCHERS["ray"]
    for last in ((0, 2), (1, 1), (2, 3)):

        def interrupted(
            jobs: Sequence[Any], launcher: LauncherConfig, threads: int, last: tuple[int, int] = last
        ) -> Launched:
            for number, answer in mine(jobs, launcher, threads):
                yield number, answer
                if (jobs[number].get("look"), jobs[number]["part"]) == last:
                    raise KeyboardInterrupt

        monkeypatch.setitem(LAUNCHERS, "ray", interrupted)
        with pytest.raises(Interrupted, match="the same command goes on"):
            in_parts(models / "parts", "method=ties", *OTHERS["ray"])
        assert (models / "parts.partial").is_dir()
    monkeypatch.setitem(LAUNCHERS, "ray", mine)
    in_parts(models / "parts", "method=ties", *OTHERS["ray"])
    assert looks(here) == [(number, part) for number in range(3) for part in range(4)]
    assert content(models / "parts") == content(models / "one")


def test_a_count_that_the_starter_does_not_see_is_an_error(
    models: Path, here: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def idle(jobs: Sequence[Any], launcher: LauncherConfig, threads: int) -> Launched:
        yield from ((number, {"value": 0}) for number, _ in enumerate(jobs))

    monkeypatch.setitem(LAUNCHERS, "ray", idle)
    with pytest.raises(OutputError, match="the machines do not share that folder"):
        in_parts(models / "parts", "method=ties", *OTHERS["ray"])


@pytest.mark.parametrize("machines", [PROCESSES, OTHERS["ray"]], ids=" ".join)
@pytest.mark.parametrize("name", ["ties", "opcm"])
def test_who_does_not_see_what_was_found_of_the_whole_model_looks_at_it_whole(
    name: str, machines: list[str], models: Path, here: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    merge(recipe(f"method={name}"), models / "one")
    mine = LAUNCHERS["ray"]

    def unseeing(jobs: Sequence[Any], launcher: LauncherConfig, threads: int) -> Launched:
        if "verify" in jobs[0]:
            (Path(jobs[0]["folder"]) / PREPARED).unlink()
        yield from mine(jobs, launcher, threads)

    for launcher in ("processes", "ray"):
        monkeypatch.setitem(LAUNCHERS, launcher, unseeing)
    in_parts(models / "parts", f"method={name}", *machines)
    assert content(models / "parts") == content(models / "one")


def test_other_processes_make_the_files_and_the_command_line_asks_for_it(models: Path) -> None:
    asked = ["base=base", "experts.a=a", "experts.b=b", "method=ties", f"output.shard_bytes={SHARD}"]
    merge_stages(load_stages(None, asked), models / "one")
    merge_stages(load_stages(None, [*asked, *PROCESSES]), models / "parts")
    assert content(models / "parts") == content(models / "one")


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
# Ray and submitit warn of what is theirs to mend.
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_gives_the_same_bytes(name: str, models: Path) -> None:
    pytest.importorskip(PACKAGES[name])
    for method in ("ties", "tsv_m"):
        merge(recipe(f"method={method}"), models / f"{method}-one")
        in_parts(models / method, f"method={method}", *OTHERS[name])
        assert content(models / method) == content(models / f"{method}-one")


def losing(part: int, times: int) -> Callable[..., Launched]:
    """A launcher whose process is lost at one part, so many times, having written half of a file."""
    left = [times]

    def launch(jobs: Sequence[Any], launcher: LauncherConfig, threads: int) -> Launched:
        for number, job in enumerate(jobs):
            for _ in range(2):
                if job["part"] != part or job.get("look") is not None or not left[0]:
                    yield number, perform(job)
                    break
                left[0] -= 1
                (Path(job["folder"]) / ".model-half").write_text("half")
            else:
                yield number, died("signal SIGKILL")

    return launch


def test_a_part_whose_process_is_lost_is_tried_once_more(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merge(recipe("method=ties"), models / "one")
    monkeypatch.setitem(LAUNCHERS, "processes", losing(1, 1))
    in_parts(models / "parts", "method=ties", *PROCESSES)
    assert content(models / "parts") == content(models / "one")


def test_a_part_that_is_lost_twice_is_one_error_and_the_same_command_makes_only_what_is_missing(
    models: Path, monkeypatch: pytest.MonkeyPatch, here: list[Any]
) -> None:
    mine = LAUNCHERS["processes"]
    monkeypatch.setitem(LAUNCHERS, "processes", losing(2, 2))
    with pytest.raises(FusionBenchError, match=r"lost twice \(signal SIGKILL\).*The same command tries it again"):
        in_parts(models / "parts", "method=ties", *PROCESSES)
    assert not (models / "parts").exists()
    monkeypatch.setitem(LAUNCHERS, "processes", mine)
    said: list[int] = []
    in_parts(models / "parts", "method=ties", *PROCESSES, progress=lambda _, done, total: said.append(done))
    merge(recipe("method=ties"), models / "one")
    assert content(models / "parts") == content(models / "one")
    assert min(job["part"] for job in here) == 2
    assert not looks(here)
    first = [load_file(file).values() for file in sorted((models / "one").glob("*.safetensors"))[:2]]
    assert said[0] == sum(tensor.numel() for held in first for tensor in held)


def killed_after(parts: int, folder: Path, *overrides: str) -> None:
    """Merge in parts in a process that is killed when so many parts are done."""
    child = os.fork()
    if not child:
        real = merge_in_parts.CheckpointWriter.take

        def take(self: Any, number: int, left: list[int] = [parts]) -> None:  # noqa: B006
            real(self, number)
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

        merge_in_parts.CheckpointWriter.take = take  # type: ignore[method-assign]
        in_parts(folder, *overrides, *PROCESSES)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_killed_starter_goes_on_with_what_is_finished_and_does_not_look_again(models: Path, here: list[Any]) -> None:
    killed_after(2, models / "parts", "method=ties")
    assert not (models / "parts").exists()
    (models / "parts.partial" / ".model-00001.lost-7").write_text("half")
    in_parts(models / "parts", "method=ties", *PROCESSES)
    merge(recipe("method=ties"), models / "one")
    assert content(models / "parts") == content(models / "one")
    shards = len([*(models / "one").glob("*.safetensors")])
    assert not looks(here)
    made = [job["part"] for job in here]
    assert made == [*reversed(range(shards - 2))]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("several", [True, False])
def test_a_finished_file_that_was_cut_since_is_made_again(several: bool, models: Path, here: list[Any]) -> None:
    merge(recipe("method=ties"), models / "one")
    killed_after(2, models / "parts", "method=ties")
    file = max((models / "parts.partial").glob("model-*"))
    file.write_bytes(file.read_bytes()[:-8])
    merge(recipe("method=ties", *PROCESSES), models / "parts", in_parts=several)
    assert content(models / "parts") == content(models / "one")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_one_process_and_several_go_on_with_each_other(models: Path, here: list[Any]) -> None:
    merge(recipe("method=ties"), models / "one")
    killed_after(2, models / "first", "method=ties")
    torn = models / "first.partial" / ".model-00001.lost-7"
    torn.write_text("half")
    merge(recipe("method=ties"), models / "first")
    assert content(models / "first") == content(models / "one")


def test_what_the_first_look_found_is_kept_when_nothing_else_is(
    models: Path, here: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = LAUNCHERS["processes"]

    def interrupted(jobs: Sequence[Any], launcher: LauncherConfig, threads: int) -> Launched:
        if "verify" in jobs[0]:
            raise KeyboardInterrupt
        yield from mine(jobs, launcher, threads)

    monkeypatch.setitem(LAUNCHERS, "processes", interrupted)
    with pytest.raises(Interrupted, match="the same command goes on"):
        in_parts(models / "parts", "method=ties", *PROCESSES)
    assert (models / "parts.partial" / PREPARED).is_file()
    monkeypatch.setitem(LAUNCHERS, "processes", mine)
    here.clear()
    in_parts(models / "parts", "method=ties", *PROCESSES)
    assert not looks(here)
    merge(recipe("method=ties"), models / "one")
    assert content(models / "parts") == content(models / "one")


def test_numbers_that_are_none_leave_nothing(models: Path, here: list[Any]) -> None:
    bad = tensors(1) | {"model.layers.3.mlp.weight": torch.full((24, 12), float("nan"))}
    save_model(models / "a", bad, {"model_type": "toy"})
    with pytest.raises(NotFinite, match=r"a: model\.layers\.3\.mlp\.weight holds nan at \[0, 0\]"):
        in_parts(models / "parts", "method=task_arithmetic", *PROCESSES)
    assert not [*models.glob("parts*")]


def test_a_budget_that_is_too_small_for_a_worker_is_an_error_that_says_how_much_it_takes(
    models: Path, here: list[Any]
) -> None:
    with pytest.raises(ConfigError, match=r"runtime\.memory=1,000,000 bytes is too small: this merge needs at least"):
        in_parts(models / "parts", "method=ties", "runtime.memory=1MB", *PROCESSES)
    assert not [*models.glob("parts*")]


def test_a_machine_that_sees_other_models_says_which(models: Path, here: list[Any]) -> None:
    mine = LAUNCHERS["processes"]

    def elsewhere(jobs: Sequence[Any], launcher: LauncherConfig, threads: int) -> Launched:
        shutil.rmtree(models / "b")
        save_model(models / "b", tensors(7), {"model_type": "toy"})
        yield from mine(jobs, launcher, threads)

    LAUNCHERS["processes"] = elsewhere
    try:
        with pytest.raises(CheckpointError, match=r"b \(b\): another model on .* than where the merge was started"):
            in_parts(models / "parts", "method=task_arithmetic", *PROCESSES)
    finally:
        LAUNCHERS["processes"] = mine
    assert not [*models.glob("parts*")]


def test_a_machine_with_another_version_says_so(models: Path, here: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    mine = LAUNCHERS["processes"]

    def elsewhere(jobs: Sequence[Any], launcher: LauncherConfig, threads: int) -> Launched:
        older = [{**job, "about": {**job["about"], "versions": {"fusionbench": "0.0.1"}}} for job in jobs]
        yield from mine(older, launcher, threads)

    monkeypatch.setitem(LAUNCHERS, "processes", elsewhere)
    with pytest.raises(CheckpointError, match=r"and 0\.0\.1 where the merge was started"):
        in_parts(models / "parts", "method=task_arithmetic", *PROCESSES)


@pytest.mark.parametrize("what", ["gone", "another's"])
def test_a_folder_that_is_not_shared_or_not_ours_any_more_is_left_alone(
    what: str, models: Path, here: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = LAUNCHERS["processes"]

    def elsewhere(jobs: Sequence[Any], launcher: LauncherConfig, threads: int) -> Launched:
        other = models / "elsewhere"
        if what == "another's":
            other.mkdir()
            (other / MARK).write_text('{"key": "of something else"}\n')
        yield from mine([{**job, "folder": str(other)} for job in jobs], launcher, threads)
        assert not other.exists() or [path.name for path in other.iterdir()] == [MARK]

    monkeypatch.setitem(LAUNCHERS, "processes", elsewhere)
    with pytest.raises(OutputError, match="is not the folder of this merge"):
        in_parts(models / "parts", "method=task_arithmetic", *PROCESSES)


def test_an_output_that_the_starter_does_not_see_is_an_error(
    models: Path, here: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def idle(jobs: Sequence[Any], launcher: LauncherConfig, threads: int) -> Launched:
        yield from ((number, {"value": 0}) for number, _ in enumerate(jobs))

    monkeypatch.setitem(LAUNCHERS, "processes", idle)
    with pytest.raises(OutputError, match="the machines do not share that folder"):
        in_parts(models / "parts", "method=task_arithmetic", *PROCESSES)


def test_a_disk_that_is_too_small_is_noticed_before_any_job(
    models: Path, here: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 61, 39))
    with pytest.raises(OutputError, match="39 are free there"):
        in_parts(models / "parts", "method=ties", *PROCESSES)
    assert here == []
    assert not [*models.glob("parts*")]


@pytest.mark.parametrize(("name", "package"), [*PACKAGES.items()])
def test_a_launcher_whose_package_is_missing_says_so_before_anything_is_read(
    name: str, package: str, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"fusionbench\[{name}\]"):
        in_parts(models / "parts", "method=ties", *OTHERS[name])
    assert not [*models.glob("parts*")]


def test_an_output_of_one_file_is_said_to_need_no_others(models: Path, here: list[Any]) -> None:
    whole = merge(recipe("method=ties", "output.shard_bytes=5GB", *PROCESSES), models / "one", in_parts=True)
    assert [job["part"] for job in here if "verify" in job] == [0]
    assert "output.shard_bytes=500MB makes several" in whole.notes[-1]


KILLING = """
import os, pathlib, runpy, signal
from fusionbench.weights import shard_writer
real = shard_writer.ShardWriter.write
def write(self, *given):
    count = pathlib.Path(os.environ["DEATHS"])
    if self._number == 1 and (left := int(count.read_text())):
        count.write_text(str(left - 1))
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, *given)
shard_writer.ShardWriter.write = write
runpy.run_module("fusionbench.launch.worker", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("deaths", [1, 2])
def test_workers_that_are_killed_by_the_system(deaths: int, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fusionbench.launch import processes

    real, count = subprocess.Popen, models / "deaths"
    count.write_text(str(deaths))

    def start(command: list[str], **options: Any) -> Any:
        worker = command[-1] == "fusionbench.launch.worker"
        return real([sys.executable, "-c", KILLING] if worker else command, **options)

    monkeypatch.setenv("DEATHS", str(count))
    monkeypatch.setattr(processes.subprocess, "Popen", start)
    merge(recipe("method=ties"), models / "one")
    if deaths == 2:
        with pytest.raises(FusionBenchError, match=r"lost twice \(signal SIGKILL"):
            in_parts(models / "parts", "method=ties", *PROCESSES)
        assert not (models / "parts").exists()
    in_parts(models / "parts", "method=ties", *PROCESSES)
    assert count.read_text() == "0"
    assert content(models / "parts") == content(models / "one")


def test_tied_tables_in_two_files_are_merged_as_one(models: Path, here: list[Any]) -> None:
    in_parts(models / "parts", "method=ties", *PROCESSES)
    index = json.loads((models / "parts" / "model.safetensors.index.json").read_text())["weight_map"]
    files = {name: index[name] for name in ("embed_tokens.weight", "lm_head.weight")}
    assert len({*files.values()}) == 2
    one, two = (load_file(models / "parts" / file)[name] for name, file in files.items())
    assert torch.equal(one, two)
