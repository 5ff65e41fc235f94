"""From a built suite to a report: the main job through the command line, on the smallest size."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from transformers import AutoTokenizer, CLIPModel

from fusionbench import Algorithm, configure, fuse, load_suite
from fusionbench.suites.images import make_task

Run = Callable[..., subprocess.CompletedProcess[str]]
TINY = ("suite=mini/clip", "suite.size=tiny")
TIES = (*TINY, "method=ties", "method.scale=0.3", "method.combine=sum", "method.density=0.2")
TASKS = ["mnist", "digits", "fashion", "emoji", "signs", "glyphs", "textures", "land"]


@pytest.fixture(scope="module")
def built(cache: Path) -> Path:
    """The tiny suite, built once a session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSIONBENCH_CACHE", str(cache))
        load_suite("mini/clip", size="tiny")
    return cache


@pytest.fixture
def run(fusionbench: Run, built: Path) -> Run:
    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        found = fusionbench("run", *arguments)
        assert found.returncode == 0, found.stderr
        return found

    return call


def test_a_run_gives_the_same_report_and_weights_bit_for_bit(run: Run, tmp_path: Path) -> None:
    run(*TIES, "--out", tmp_path / "a")
    first = [(tmp_path / "a" / name).read_bytes() for name in ("report.json", "model/model.safetensors")]
    run(*TIES, "--out", tmp_path / "a", "--force", "runtime.threads=1")
    again = [(tmp_path / "a" / name).read_bytes() for name in ("report.json", "model/model.safetensors")]
    assert first == again
    report = json.loads(first[0])
    assert list(report["tasks"]) == TASKS
    values = [report["tasks"][task]["accuracy"]["value"] for task in TASKS]
    assert report["average"]["accuracy"] == pytest.approx(sum(values) / 8)
    assert report["suite"]["size"] == "tiny"
    assert 0 < report["variants"][0]["normalized"] < 1.5


def test_a_finished_run_is_only_read(run: Run, fusionbench: Run, tmp_path: Path) -> None:
    run(*TIES, "--out", tmp_path / "a")
    stamp = (tmp_path / "a" / "report.json").stat().st_mtime_ns
    found = run(*TIES, "--out", tmp_path / "a")
    assert "holds this run already" in found.stderr
    assert (tmp_path / "a" / "report.json").stat().st_mtime_ns == stamp
    other = fusionbench("run", *TIES, "method.scale=0.4", "--out", tmp_path / "a")
    assert other.returncode == 2
    assert "another run" in other.stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    foreign = fusionbench("run", *TIES, "--out", tmp_path / "mine", "--force")
    assert foreign.returncode == 2
    assert (tmp_path / "mine" / "notes.txt").read_text() == "kept"


def test_an_unfinished_run_goes_on_where_it_stopped(run: Run, tmp_path: Path) -> None:
    run(*TIES, "--out", tmp_path / "a")
    whole = (tmp_path / "a" / "report.json").read_bytes()
    model = (tmp_path / "a" / "model" / "model.safetensors").stat().st_mtime_ns
    (tmp_path / "a" / "report.json").unlink()
    (tmp_path / "a" / "tasks" / "land.parquet").unlink()
    kept = (tmp_path / "a" / "tasks" / "mnist.parquet").stat().st_mtime_ns
    run(*TIES, "--out", tmp_path / "a")
    assert (tmp_path / "a" / "report.json").read_bytes() == whole
    assert (tmp_path / "a" / "model" / "model.safetensors").stat().st_mtime_ns == model
    assert (tmp_path / "a" / "tasks" / "mnist.parquet").stat().st_mtime_ns == kept


def test_the_seed_changes_what_is_random_and_nothing_else(run: Run, tmp_path: Path) -> None:
    def merged(name: str, *more: str) -> dict[str, np.ndarray]:
        run(*TIES, *more, "tasks=[mnist]", "tasks.limit=16", "--out", tmp_path / name)
        return load_file(tmp_path / name / "model" / "model.safetensors")

    fixed, same = merged("fixed"), merged("same", "seed=1")
    assert all(np.array_equal(fixed[name], same[name]) for name in fixed)
    drawn, other = merged("drawn", "method.trim=random"), merged("other", "method.trim=random", "seed=1")
    assert any(not np.array_equal(drawn[name], other[name]) for name in drawn)


def test_a_sweep_writes_a_report_a_value_and_a_curve(run: Run, tmp_path: Path) -> None:
    scales = "method.scale=0,0.3,1.0"
    run(*TINY, "method=task_arithmetic", scales, "-m", "tasks.limit=32", "--out", tmp_path / "sweep")
    reports = sorted(tmp_path.glob("sweep/*/report.json"))
    assert {json.loads(path.read_text())["method"]["params"]["scale"] for path in reports} == {0.0, 0.3, 1.0}
    assert (tmp_path / "sweep" / "report" / "curve-scale.png").stat().st_size > 5000
    page = (tmp_path / "sweep" / "report" / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_a_sweep_needs_its_flag(fusionbench: Run, built: Path) -> None:
    found = fusionbench("run", *TINY, "method=ties,task_arithmetic")
    assert found.returncode == 2
    assert "-m" in found.stderr


def test_scale_zero_is_the_pretrained_row_and_the_references_run(run: Run, tmp_path: Path) -> None:
    def tasks(name: str, *more: str) -> dict[str, object]:
        run(*TINY, *more, "tasks.limit=48", "--out", tmp_path / name)
        return json.loads((tmp_path / name / "report.json").read_text())["tasks"]

    assert tasks("zero", "method=task_arithmetic", "method.scale=0") == tasks("base", "method=pretrained")
    individual = tasks("own", "method=individual")
    together = tasks("mtl", "method=traditional_mtl")
    assert list(individual) == list(together) == TASKS


def test_python_gives_the_command_lines_bits(run: Run, built: Path, tmp_path: Path) -> None:
    run(*TIES, "tasks=[mnist]", "--out", tmp_path / "cli")
    pool = load_suite("mini/clip", size="tiny").suite.pool
    fused = fuse("ties", pool, scale=0.3, combine="sum", density=0.2)
    algorithm = configure("ties", scale=0.3, combine="sum", density=0.2)
    again = Algorithm.from_yaml(algorithm.to_yaml())
    assert again == algorithm
    fused.save(tmp_path / "saved")
    expected = load_file(tmp_path / "cli" / "model" / "model.safetensors")
    for found in (fused.weights, again(pool).weights, load_file(tmp_path / "saved" / "model.safetensors")):
        assert found.keys() == expected.keys()
        assert all(np.array_equal(np.asarray(found[key]), expected[key]) for key in expected)


def test_a_fused_folder_is_a_model_of_plain_transformers_and_can_be_evaluated(
    run: Run, fusionbench: Run, tmp_path: Path
) -> None:
    run(*TIES, "--out", tmp_path / "a")
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    found = fusionbench("evaluate", tmp_path / "a" / "model", *TINY, "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["tasks"] == report["tasks"]
    model, loading = CLIPModel.from_pretrained(tmp_path / "a" / "model", output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    tokens = AutoTokenizer.from_pretrained(tmp_path / "a" / "model")(["a letter a"], return_tensors="pt")
    assert model(pixel_values=torch.zeros(1, 3, 32, 32), **tokens).logits_per_image.shape == (1, 1)


def test_fine_tuning_and_a_suite_of_the_users_own_need_no_python(
    run: Run, fusionbench: Run, built: Path, tmp_path: Path
) -> None:
    task = make_task("land", seed=5, train=64, validation=16, test=32)
    splits = {name: getattr(task, name) for name in ("train", "validation", "test")}
    columns = {
        name: {"picture": [Image.fromarray(image) for image in split.images], "kind": split.labels.tolist()}
        for name, split in splits.items()
    }
    made = datasets.DatasetDict({name: datasets.Dataset.from_dict(held) for name, held in columns.items()})
    made.save_to_disk(tmp_path / "views")
    suite = {
        "name": "mine",
        "pool": {"base": load_suite("mini/clip", size="tiny").suite.pool.base, "experts": {"views": "./experts/views"}},
        "tasks": {
            "views": {
                "dataset": str(tmp_path / "views"),
                "columns": {"image": "picture", "label": "kind"},
                "class_names": task.classes,
                "templates": ["a land view {}"],
            }
        },
    }
    (tmp_path / "mine.yaml").write_text(json.dumps(suite))
    tuned = fusionbench(
        "finetune", "suite=./mine.yaml", "recipe.steps=5", "recipe.learning_rate=1e-4", "--out", "experts"
    )
    assert tuned.returncode == 0, tuned.stderr
    run("suite=./mine.yaml", "method=individual", "--out", tmp_path / "own")
    report = json.loads((tmp_path / "own" / "report.json").read_text())
    recorded = json.loads((tmp_path / "experts" / "views" / "fusionbench.json").read_text())["scores"]["views"]["test"]
    assert report["tasks"]["views"]["accuracy"]["value"] == recorded["accuracy"]
    assert report["tasks"]["views"]["accuracy"]["n"] == 32


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("suite=mini/clap", "method=ties"), "Did you mean mini/clip"),
        ((*TINY, "method=ties", "tasks=[mnist,digit]"), "there is no task 'digit'"),
        ((*TINY, "method=ties", "suite.experts=[mnist,dig]"), "has no expert 'dig'"),
        ((*TINY, "method=ties", "method.scale=abc"), "method.scale"),
        ((*TINY,), "method"),
        (("method=ties",), "nothing to fuse"),
    ],
)
def test_mistakes_are_named(
    fusionbench: Run, built: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    found = fusionbench("run", *arguments, "--out", tmp_path / "out")
    assert found.returncode == 2
    assert said in found.stderr
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "out").exists()


def test_the_command_line_as_a_process_of_its_own(apart: Run, built: Path, tmp_path: Path) -> None:
    found = apart("run", *TINY, "method=simple_average", "tasks=[mnist]", "tasks.limit=16", "--out", "out")
    assert found.returncode == 0, found.stderr
    assert "simple_average" in found.stdout
    assert (tmp_path / "out" / "report.json").is_file()
