"""Methods whose result is one model a task, and those that match units, through the command line on the tiny suite."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from fusionbench import load_suite

Run = Callable[..., subprocess.CompletedProcess[str]]
TINY = ("suite=mini/clip", "suite.size=tiny", "suite.experts=[digits,signs]", "tasks.limit=20")


@pytest.fixture
def run(fusionbench: Run, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(cache))
    load_suite("mini/clip", size="tiny")

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        found = fusionbench("run", *TINY, *arguments)
        assert found.returncode == 0, found.stderr
        return found

    return call


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


@pytest.mark.parametrize("method", [("emr",), ("tall_mask",)], ids=str)
def test_each_task_has_a_masked_model_whose_size_is_reported_and_a_run_goes_on(
    method: tuple[str, ...], run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(f"method={method[0]}", *method[1:], "--out", out)
    first = report(out)
    assert list(first["tasks"]) == ["digits", "signs"]
    model, base = first["variants"][0]["model"], load_suite("mini/clip", size="tiny").suite.pool.base
    stored = sum(t.nbytes for t in load_file(out / "model" / "model.safetensors").values())
    bytes_of_base = sum(t.nbytes for t in load_file(Path(str(base)) / "model.safetensors").values())
    assert (model["kind"], model["bytes"]) == ("per_task", stored + bytes_of_base + 2 * 8)
    assert (first["selected_on"] is not None) == (method == ("tall_mask",))
    assert not (out / "model" / "config.json").exists()

    # The model was written, the report was not: the run is made whole and says the same.
    (out / "report.json").unlink()
    run(f"method={method[0]}", *method[1:], "--out", out)
    assert report(out)["variants"] == first["variants"]


@pytest.mark.parametrize("method", [("git_rebasin",), ("zipit", "method.examples=8")], ids=str)
def test_models_of_one_base_are_in_one_order_so_that_matching_gives_their_average(
    method: tuple[str, ...], run: Run, tmp_path: Path
) -> None:
    run("method=simple_average", "--out", tmp_path / "average")
    run(f"method={method[0]}", *method[1:], "--out", tmp_path / "out")
    average, found = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("average", "out"))
    gaps = {name: float(abs(found[name] - tensor).max()) for name, tensor in average.items()}
    moved = [name for name, gap in gaps.items() if gap > 1e-5]
    # By weights every unit stays; activations may confuse a few units that hardly answer.
    assert not [name for name in moved if "mlp" not in name and "self_attn" not in name]
    if method == ("git_rebasin",):
        assert not moved
    looked = report(tmp_path / "out")["adapted_on"]
    assert (looked is None) == (method == ("git_rebasin",))
    if looked is not None:
        assert (looked["split"], looked["count"]) == ("train", 16)
