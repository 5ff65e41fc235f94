"""Faults that a review found: each was seen before it was mended."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from checkpoints import save_model
from fusionbench.cli import main
from fusionbench.config import Recipe
from fusionbench.errors import ConfigError, NotFinite, OutputError
from fusionbench.merge import merge
from fusionbench.suites import load_suite
from fusionbench.suites.content import digest_of_tasks
from fusionbench.suites.model import Suite
from fusionbench.weights.journal import read_journal
from fusionbench.weights.partial import MARK
from fusionbench.weights.writer import CheckpointWriter

BASE = {"w": torch.ones(2, 3), "v": torch.ones(4)}


def command(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["fusionbench", *map(str, arguments)])
    with pytest.raises(SystemExit) as exited:
        main()
    return int(exited.value.code or 0)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for number, name in enumerate(("base", "math", "code")):
        save_model(tmp_path / name, {key: value + number for key, value in BASE.items()}, {"model_type": "toy"})
    return tmp_path


def named(models: Path) -> list[str]:
    return [f"base={models / 'base'}", f"experts.math={models / 'math'}", f"experts.code={models / 'code'}"]


def suite(folder: Path, template: str = "a {}", task: str | None = None) -> Suite:
    return Suite.read(
        {
            "name": "mine",
            "pool": {"base": "b", "experts": {"digits": {"model": "e", "task": task} if task else "e"}},
            "tasks": {
                "digits": {"dataset": str(folder), "class_names": ["one", "two"], "templates": [template]},
                "other": {"dataset": "org/name"},
            },
        },
        "The suite",
    )


class TestASuiteOfTheUsersOwn:
    def test_its_words_its_data_and_its_experts_tasks_decide_its_digest(self, tmp_path):
        data = tmp_path / "digits"
        data.mkdir()
        np.save(data / "test_labels.npy", np.array([0, 1, 1]))
        first = digest_of_tasks(suite(data))
        assert digest_of_tasks(suite(data)) == first
        assert digest_of_tasks(suite(data, "a purple cow {}")) != first
        assert digest_of_tasks(suite(data, task="other")) != first
        np.save(data / "test_labels.npy", np.array([1, 0, 1]))
        assert digest_of_tasks(suite(data)) != first

    def test_the_digest_names_the_run(self, tmp_path):
        (tmp_path / "mine.yaml").write_text(suite(tmp_path).to_yaml())
        before = load_suite(str(tmp_path / "mine.yaml")).build
        (tmp_path / "mine.yaml").write_text(suite(tmp_path, "another {}").to_yaml())
        assert before is not None
        assert load_suite(str(tmp_path / "mine.yaml")).build != before

    def test_what_is_no_suite_is_refused_in_words(self):
        with pytest.raises(ConfigError, match="5 is no suite"):
            load_suite(5)  # type: ignore[arg-type]


class TestARunThatFails:
    def test_leaves_nothing_so_that_the_mended_one_may_have_its_folder(self, models, monkeypatch, capsys):
        save_model(models / "code", {**BASE, "w": torch.full((2, 3), float("nan"))}, {"model_type": "toy"})
        asked = [*named(models), "method=task_arithmetic", "--out", models / "out"]
        assert command(monkeypatch, "run", *asked) == 2
        assert "holds nan" in capsys.readouterr().err
        assert not (models / "out").exists()
        save_model(models / "code", BASE, {"model_type": "toy"})
        assert command(monkeypatch, "run", *asked) == 0

    def test_says_which_file_to_make_anew(self, models, monkeypatch, capsys):
        asked = [*named(models), "method=task_arithmetic", "--out", models / "out"]
        assert command(monkeypatch, "run", *asked) == 0
        (models / "out/report.json").write_text("{")
        assert command(monkeypatch, "run", *asked) == 2
        assert "--force" in capsys.readouterr().err
        (models / "out/report.json").unlink()
        model = models / "out/model/model.safetensors"
        model.write_bytes(model.read_bytes()[:-1])
        assert command(monkeypatch, "run", *asked) == 2
        assert "this run's own model: add --force" in capsys.readouterr().err

    @pytest.mark.skipif(os.geteuid() != 0 or not Path("/proc/self").is_dir(), reason="needs /proc")
    def test_a_place_that_nobody_can_write_is_told_as_such(self, models, monkeypatch, capsys):
        assert command(monkeypatch, "run", *named(models), "method=task_arithmetic", "--out", "/proc/foo") == 2
        assert "cannot be written" in capsys.readouterr().err
        assert command(monkeypatch, "merge", *named(models), "method=task_arithmetic", "--out", "/proc/foo") == 2
        assert "cannot be written" in capsys.readouterr().err


def test_a_run_reports_what_the_check_of_its_models_noted(models, monkeypatch):
    halves = {key: value.half() for key, value in BASE.items()}
    save_model(models / "code", halves, {"model_type": "toy"})
    assert command(monkeypatch, "run", *named(models), "method=task_arithmetic", "--out", models / "out") == 0
    notes = json.loads((models / "out/report.json").read_text())["notes"]
    assert any("F16" in note for note in notes)
    assert not any(str(models) in note for note in notes)


class TestAMergeThatGoesOn:
    def finished_in(self, models: Path) -> frozenset[str]:
        return read_journal(models / "out.partial" / MARK)[1]

    def begun(self, models: Path, monkeypatch) -> Recipe:
        """A merge of which one tensor is finished."""
        from fusionbench.weights import journal

        monkeypatch.setattr(journal, "SYNC_BYTES", 1)
        recipe = Recipe.load(None, [*named(models), "method=task_arithmetic", "runtime.threads=1"])
        real, wrote = CheckpointWriter.write, []

        def stopping(self, name, content, start=0):
            if wrote:
                raise KeyboardInterrupt
            real(self, name, content, start)
            wrote.append(name)

        with monkeypatch.context() as patch:
            patch.setattr(CheckpointWriter, "write", stopping)
            with pytest.raises(BaseException, match="tensors are kept"):
                merge(recipe, models / "out")
        assert len(self.finished_in(models)) == 1
        return recipe

    def test_keeps_what_it_has_where_the_next_call_is_a_mistake(self, models, monkeypatch):
        recipe = self.begun(models, monkeypatch)
        wrong = recipe.model_copy(update={"runtime": recipe.runtime.model_copy(update={"memory": 1000})})
        with pytest.raises(ConfigError, match="too small"):
            merge(wrong, models / "out")
        assert len(self.finished_in(models)) == 1
        merge(recipe, models / "out")
        assert (models / "out/model.safetensors").is_file()

    def test_begins_anew_where_a_file_of_it_is_gone(self, models, monkeypatch):
        recipe = self.begun(models, monkeypatch)
        (models / "out.partial/model.safetensors").unlink()
        merge(recipe, models / "out")
        assert (models / "out/model.safetensors").is_file()

    def test_leaves_no_folder_that_it_made_above(self, models):
        save_model(models / "code", {**BASE, "w": torch.full((2, 3), float("nan"))}, {"model_type": "toy"})
        recipe = Recipe.load(None, [*named(models), "method=task_arithmetic"])
        with pytest.raises(NotFinite):
            merge(recipe, models / "deep/new/out")
        assert not (models / "deep").exists()

    def test_refuses_a_link_that_leads_nowhere_at_once(self, models):
        (models / "out").symlink_to(models / "nowhere")
        with pytest.raises(OutputError, match="exists"):
            merge(Recipe.load(None, [*named(models), "method=task_arithmetic"]), models / "out")

    def test_a_journal_line_that_is_no_object_counts_as_not_written(self, tmp_path):
        (tmp_path / "journal").write_text('{"key": "k"}\n[1]\n{"finished": ["a"]}\n3\n')
        assert read_journal(tmp_path / "journal") == ("k", frozenset({"a"}))


@pytest.mark.parametrize(
    ("extra", "said"), [("output.model=false", "output.model=false"), ("suite=mini/clip", "suite")]
)
def test_merge_refuses_what_it_has_no_use_for(models, monkeypatch, capsys, extra, said):
    asked = [*named(models), "method=task_arithmetic", extra, "--out", models / "out"]
    assert command(monkeypatch, "merge", *asked) == 2
    assert said in capsys.readouterr().err
    assert not (models / "out").exists()


def test_an_interruption_while_the_program_starts_is_no_traceback():
    program = (
        "import sys\n"
        "class Stop:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'typer': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Stop())\n"
        "from fusionbench.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert "Stopped" in done.stderr
    assert "Traceback" not in done.stderr


def test_finetune_does_not_write_into_the_folder_of_a_run(models):
    from fusionbench.finetune.recipe import FinetuneRecipe
    from fusionbench.suites.tuning import finetune_suite

    (models / "out").mkdir()
    (models / "out/recipe.yaml").write_text("# fusionbench identity: x\n")
    with pytest.raises(OutputError, match="folder of a run"):
        finetune_suite(suite(models), models / "out", FinetuneRecipe(steps=1))


def test_a_lock_follows_files_that_are_changed_on_purpose(models):
    from fusionbench.provenance import verify
    from fusionbench.weights.lock import renew_outputs

    merge(Recipe.load(None, [*named(models), "method=task_arithmetic"]), models / "out", digest=True)
    file = models / "out/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    assert verify(models / "out").outputs
    renew_outputs(models / "out")
    found = verify(models / "out")
    assert (found.outputs, found.full) == ((), True)
