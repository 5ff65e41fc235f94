"""A merged folder against its lock, and made once more."""

import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

import fsspec
import pytest
import torch

from checkpoints import save_model
from fusionbench.cli import main
from fusionbench.config import Recipe
from fusionbench.errors import CheckpointError, ConfigError, OutputError
from fusionbench.merge import merge
from fusionbench.provenance import remake, verify
from fusionbench.records import DataUse, Remote, Report
from fusionbench.run import run
from fusionbench.run.again import remake_run
from fusionbench.weights.lock import LOCK

BASE = {"w": torch.arange(6.0).reshape(2, 3), "v": torch.ones(4)}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for number, name in enumerate(("base", "math", "code")):
        save_model(tmp_path / name, {key: value + number for key, value in BASE.items()}, {"model_type": "toy"})
    return tmp_path


def make(models: Path, *overrides: str, digest: bool = False, out: str = "out") -> Path:
    named = [f"base={models / 'base'}", f"experts.math={models / 'math'}", f"experts.code={models / 'code'}"]
    recipe = Recipe.load(None, [*named, "method=task_arithmetic", "runtime.threads=1", *overrides])
    merge(recipe, models / out, digest=digest)
    return models / out


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_a_lock_names_recipe_inputs_and_outputs_with_their_digests(models):
    folder = make(models, digest=True)
    lock = json.loads((folder / LOCK).read_text())
    assert lock["recipe"]["method"]["name"] == "task_arithmetic"
    assert list(lock["inputs"]) == ["base", "math", "code"]
    expected = hashlib.sha256((models / "math/model.safetensors").read_bytes()).hexdigest()
    assert lock["inputs"]["math"]["files"]["model.safetensors"]["sha256"] == expected
    expected = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert lock["outputs"]["model.safetensors"]["sha256"] == expected


@pytest.mark.parametrize("digest", [False, True])
def test_an_untouched_folder_is_as_its_lock_says(models, digest):
    found = verify(make(models, "output.shard_bytes=30", digest=digest))
    assert (found.outputs, found.inputs, found.full) == ((), (), digest)


def test_a_flipped_bit_is_found(models):
    folder = make(models, digest=True)
    flip(folder / "model.safetensors", -1)
    (problem,) = verify(folder).outputs
    assert "model.safetensors has another SHA-256" in problem


def test_samples_find_a_changed_header_or_a_changed_small_file(models):
    folder = make(models)
    flip(folder / "model.safetensors", -1)
    (problem,) = verify(folder).outputs
    assert "another fingerprint" in problem


def test_missing_truncated_and_foreign_files_are_found(models):
    folder = make(models, "output.shard_bytes=30")
    first, second = sorted(path.name for path in folder.glob("*.safetensors"))
    (folder / first).write_bytes((folder / first).read_bytes()[:-1])
    (folder / second).rename(folder / "other.safetensors")
    problems = verify(folder).outputs
    assert [problem.split()[0] for problem in problems] == [first, second, "other.safetensors"]
    assert ["bytes, the lock says" in problems[0], "missing" in problems[1], "not in" in problems[2]] == [True] * 3


def test_inputs_that_changed_or_went_are_told_apart_from_the_output(models):
    folder = make(models)
    save_model(models / "math", {key: value + 7 for key, value in BASE.items()}, {"model_type": "toy"})
    shutil.rmtree(models / "code")
    found = verify(folder)
    assert found.outputs == ()
    assert ["math" in found.inputs[0], "has changed since" in found.inputs[0]] == [True, True]
    assert "cannot be opened here" in found.inputs[1]


def test_a_folder_made_once_more_is_equal_and_leaves_nothing(models):
    folder = make(models, "method.scale=0.5", "output.dtype=bfloat16")
    before = sorted(path.name for path in models.iterdir())
    assert remake(folder) == ()
    assert sorted(path.name for path in models.iterdir()) == before


def test_a_folder_that_was_tampered_with_comes_out_otherwise(models):
    folder = make(models)
    flip(folder / "model.safetensors", -1)
    assert remake(folder) == ("model.safetensors came out otherwise",)


def test_what_cannot_be_made_again_is_refused_before_anything_is_written(models):
    folder = make(models)
    shutil.rmtree(models / "code")
    with pytest.raises(CheckpointError, match=r"cannot be made again:\n  code"):
        remake(folder)


def test_a_place_where_nothing_can_be_written_is_one_clear_error(models, finished, monkeypatch):
    folder = make(models, out="merged")

    def refuse(prefix: str, dir: Path) -> str:
        raise PermissionError(13, "Permission denied", str(dir / prefix))

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    for again in (lambda: remake(folder), lambda: remake_run(finished)):
        with pytest.raises(OutputError, match=f"{models} cannot be written: Permission denied"):
            again()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "has no fusion.lock.json"),
        ("{", "is not JSON"),
        ("[]", "no lock of schema"),
        ('{"schema": 1}', "no lock of schema"),
        ('{"schema": 2, "recipe": {}, "inputs": {}, "outputs": {"a": 3}}', "is damaged"),
        ('{"schema": 2, "recipe": {}, "inputs": {}}', "is damaged"),
    ],
)
def test_a_lock_that_cannot_be_read_is_one_clear_error(models, content, said):
    folder = make(models)
    if content is None:
        (folder / LOCK).unlink()
    else:
        (folder / LOCK).write_text(content)
    with pytest.raises(CheckpointError, match=said):
        verify(folder)


def test_the_lock_of_a_merged_base_is_not_copied_into_what_is_merged_from_it(models):
    folder = make(models)
    recipe = Recipe.load(None, [f"base={folder}", f"experts.math={models / 'math'}", "method=task_arithmetic"])
    merge(recipe, models / "again")
    assert json.loads((models / "again" / LOCK).read_text())["inputs"]["base"]["reference"] == str(folder)


@pytest.mark.parametrize("where", ["", "/model"])
@pytest.mark.parametrize("kind", ["file", "memory"])
def test_a_folder_at_an_address_is_held_against_its_lock_too(models, monkeypatch, capsys, kind, where):
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(models / "cache"))
    folder = make(models, "output.shard_bytes=30", digest=True)
    address = f"file://{models}/store/merged" if kind == "file" else "memory://store/merged"
    system, top = fsspec.core.url_to_fs(address)
    try:
        system.put(str(folder), f"{top}{where}", recursive=True)
        assert command(monkeypatch, "verify", address) == 0
        assert f"{address} is as its lock says (every byte)" in capsys.readouterr().out
        names = sorted(path.name for path in folder.glob("*.safetensors"))
        content = bytearray((folder / names[0]).read_bytes())
        content[-1] ^= 1
        system.pipe_file(f"{top}{where}/{names[0]}", bytes(content))
        system.mv(f"{top}{where}/{names[1]}", f"{top}{where}/other.safetensors")
        assert command(monkeypatch, "verify", f"{address}/") == 2
        told = capsys.readouterr().err.splitlines()
        assert [line.split()[1] for line in told] == [*names, "other.safetensors"]
        assert ["another SHA-256" in told[0], "is missing" in told[1], "is not in" in told[2]] == [True] * 3
        system.rm_file(f"{top}{where}/{LOCK}")
        assert command(monkeypatch, "verify", address) == 2
        assert f"{address} has no {LOCK}" in capsys.readouterr().err
        assert not [path for path in (models / "cache").rglob("*") if path.is_file()]
    finally:
        fsspec.filesystem("memory").store.clear()


@pytest.mark.parametrize("where", ["", "/model"])
def test_what_is_damaged_at_an_address_is_named_by_the_address(models, monkeypatch, where):
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(models / "cache"))
    folder = make(models)
    system, top = fsspec.core.url_to_fs(f"file://{models}/store")
    system.put(str(folder), f"{top}{where}", recursive=True)
    place, remote = f"file://{models}/store{where}", Remote.at(f"file://{models}/store")
    content = (folder / "model.safetensors").read_bytes()
    system.pipe_file(f"{top}{where}/model.safetensors", content.replace(b"{", b"[", 1))
    (problem,) = verify(remote).outputs
    assert problem.startswith(f"{place}/model.safetensors has a corrupt header")
    for damaged, words in ((b"{", "is not JSON"), (b"{}", "is no lock of schema")):
        system.pipe_file(f"{top}{where}/{LOCK}", damaged)
        with pytest.raises(CheckpointError) as raised:
            verify(remote)
        assert str(raised.value).startswith(f"{place}/{LOCK} {words}")


def test_a_lock_never_leads_out_of_its_folder(models):
    folder = make(models)
    lock = json.loads((folder / LOCK).read_text())
    lock["outputs"]["../base/model.safetensors"] = lock["outputs"].pop("model.safetensors")
    (folder / LOCK).write_text(json.dumps(lock))
    with pytest.raises(CheckpointError, match="is damaged"):
        verify(folder)


def test_a_run_of_a_suite_is_not_made_again_here(models):
    folder = make(models)
    lock = json.loads((folder / LOCK).read_text())
    lock["recipe"] = {"suite": {"name": "mini/clip"}, "method": {"name": "task_arithmetic"}}
    (folder / LOCK).write_text(json.dumps(lock))
    with pytest.raises(ConfigError, match=f"fusionbench reproduce {models}"):
        remake(folder)


def command(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["fusionbench", *map(str, arguments)])
    with pytest.raises(SystemExit) as exited:
        main()
    return int(exited.value.code or 0)


def test_the_command_line_says_what_was_found_and_ends_with_2_where_something_changed(models, monkeypatch, capsys):
    named = [f"base={models / 'base'}", f"experts.math={models / 'math'}", "method=task_arithmetic"]
    assert command(monkeypatch, "merge", *named, "--out", models / "out", "--verify") == 0
    assert command(monkeypatch, "verify", models / "out") == 0
    assert "every byte" in capsys.readouterr().out
    assert command(monkeypatch, "remake", models / "out") == 0
    assert "every file is equal" in capsys.readouterr().out
    assert command(monkeypatch, "reproduce", models / "out") == 0
    assert "every file is equal" in capsys.readouterr().out
    flip(models / "out/model.safetensors", -1)
    assert command(monkeypatch, "verify", models / "out") == 2
    assert "another SHA-256" in capsys.readouterr().err
    assert command(monkeypatch, "remake", models / "out") == 2
    assert command(monkeypatch, "reproduce", models / "out") == 2
    assert "came out otherwise" in capsys.readouterr().err
    assert command(monkeypatch, "reproduce", models / "base") == 2
    assert "holds no finished run" in capsys.readouterr().err


@pytest.fixture
def finished(models) -> Path:
    """The folder of a run without tasks."""
    named = [f"base={models / 'base'}", f"experts.math={models / 'math'}", f"experts.code={models / 'code'}"]
    return run(Recipe.load(None, [*named, "method=task_arithmetic", "runtime.threads=1"]), out=models / "run").folder


def test_a_run_is_made_once_more_and_every_result_is_compared(models, finished, monkeypatch, capsys):
    before = sorted(path.name for path in models.iterdir())
    assert command(monkeypatch, "verify", finished) == 0
    assert command(monkeypatch, "reproduce", finished) == 0
    assert "every result is equal" in capsys.readouterr().out
    assert sorted(path.name for path in models.iterdir()) == before
    flip(finished / "model/model.safetensors", -1)
    (finished / "artefacts").mkdir()
    (finished / "artefacts/more").write_text("")
    assert command(monkeypatch, "verify", finished) == 2
    assert command(monkeypatch, "reproduce", finished) == 2
    told = [line.split()[1] for line in capsys.readouterr().err.splitlines() if "otherwise" in line]
    assert told == ["artefacts/more", "model/model.safetensors"]


def test_another_report_is_told_but_not_what_a_search_wrote_into_it(finished):
    report = Report.load(finished)
    report.model_copy(update={"selected_on": DataUse(split="validation", tasks=("math",))}).save(finished)
    assert remake_run(finished) == ()
    report.model_copy(update={"seed": 1}).save(finished)
    assert remake_run(finished) == ("report.json came out otherwise",)


def test_a_run_whose_inputs_changed_is_not_made_again(models, finished):
    save_model(models / "math", {key: value + 7 for key, value in BASE.items()}, {"model_type": "toy"})
    with pytest.raises(CheckpointError, match=r"cannot be made again: changed since: math\.$"):
        remake_run(finished)
    shutil.rmtree(models / "math")
    with pytest.raises(CheckpointError, match=r"cannot be made again: .*math"):
        remake_run(finished)
    assert not list(models.glob("*remade*"))


def test_a_run_of_another_version_is_not_made_again(models, finished):
    path = finished / "recipe.yaml"
    path.write_text(path.read_text().replace("identity: sha256:", "identity: sha256:0", 1))
    with pytest.raises(CheckpointError, match="its recipe or the version of a part has changed"):
        remake_run(finished)
