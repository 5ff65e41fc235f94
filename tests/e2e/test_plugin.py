"""A third party adds a method, a family and a kind of task from a package of its own."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

PLUGIN = Path(__file__).parents[1] / "plugin"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(PLUGIN)], check=True, capture_output=True)
    return target


def plane(folder: Path, angle: float) -> Path:
    folder.mkdir()
    weight = np.array([[math.cos(angle), math.sin(angle)]], np.float32)
    save_file({"linear.weight": weight, "linear.bias": np.zeros(1, np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "plane"}))
    return folder


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    for name, angle in {"base": 3.0, "east": 0.0, "north": math.pi / 2}.items():
        plane(tmp_path / name, angle)
    angles = {"east": 0.0, "north": math.pi / 2, "north_east": math.pi / 4}
    tasks = {name: {"dataset": "made", "kind": "half_planes", "options": {"angle": a}} for name, a in angles.items()}
    document = {
        "name": "planes",
        "pool": {"base": "./base", "experts": {"east": "./east", "north": "./north"}},
        "tasks": tasks,
        "unseen": ["north_east"],
    }
    file = tmp_path / "planes.yaml"
    file.write_text(json.dumps(document))
    return file


@pytest.mark.parametrize(("kind", "name"), [("methods", "midpoint"), ("families", "points"), ("tasks", "half_planes")])
def test_its_names_are_listed(kind: str, name: str, apart: Run, installed: Path) -> None:
    found = apart("list", kind, "--json", path=installed)
    assert name in {entry["name"] for entry in json.loads(found.stdout)}, found.stderr


def test_its_method_runs_on_its_family_and_its_tasks(apart: Run, installed: Path, suite: Path) -> None:
    out = suite.parent / "run"
    found = apart("run", f"suite={suite}", "method=midpoint", "method.part=1", "--out", out, path=installed)
    assert found.returncode == 0, found.stderr
    report = json.loads((out / "report.json").read_text())
    # The mean of the two planes points north-east: it is right wherever x + y decides.
    assert report["tasks"]["north_east"]["accuracy"]["value"] == 1.0
    assert report["tasks"]["north_east"]["seen"] is False
    assert 0.6 < report["average"]["accuracy"] < 0.9
    np.testing.assert_allclose(load_file(out / "model" / "model.safetensors")["linear.weight"], [[0.5, 0.5]], atol=1e-6)


def test_its_parameter_is_checked_like_ours(apart: Run, installed: Path, suite: Path) -> None:
    found = apart("run", f"suite={suite}", "method=midpoint", "method.prat=1", path=installed)
    assert found.returncode == 2
    assert "did you mean part?" in found.stderr.lower()


def test_without_the_package_the_name_is_unknown(apart: Run, suite: Path) -> None:
    found = apart("run", f"suite={suite}", "method=midpoint")
    assert found.returncode == 2
    assert "no method named 'midpoint'" in found.stderr
