"""Mixtures through the command line on the tiny suite: run, saved, opened by `evaluate`, found again."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusionbench import load_suite

Run = Callable[..., subprocess.CompletedProcess[str]]
TINY = ("suite=mini/clip", "suite.size=tiny", "tasks.limit=20")


@pytest.fixture
def cli(fusionbench: Run, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(cache))
    load_suite("mini/clip", size="tiny")
    return fusionbench


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


@pytest.mark.parametrize(
    ("method", "trained"),
    [
        (("smile", "method.gate_k=2", "method.k=8"), False),
        (("wemoe", "method.steps=2", "method.batch=4"), True),
        (("pwe_moe", "method.steps=2", "method.batch=4"), True),
    ],
    ids=str,
)
def test_a_mixture_is_run_saved_and_evaluated_as_any_model(
    method: tuple[str, ...], trained: bool, cli: Run, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    found = cli("run", *TINY, f"method={method[0]}", *method[1:], "--out", out)
    assert found.returncode == 0, found.stderr
    first = report(out)
    model = first["variants"][0]["model"]
    assert model["kind"] == "module"
    assert (model["trainable"] > 0) is trained
    assert (first["adapted_on"] is not None) is trained
    assert (out / "model" / "fusion_config.json").is_file()

    again = cli("evaluate", out / "model", *TINY, "--json")
    assert again.returncode == 0, again.stderr
    scored = json.loads(again.stdout)
    assert scored["tasks"] == first["tasks"]
    assert scored["method"]["name"] == method[0]

    # What was made before the run was interrupted is opened, not made again.
    (out / "report.json").unlink()
    shutil.rmtree(out / "tasks")
    stamp = (out / "model" / "fusion_config.json").stat().st_mtime_ns
    assert cli("run", *TINY, f"method={method[0]}", *method[1:], "--out", out).returncode == 0
    assert report(out)["tasks"] == first["tasks"]
    assert (out / "model" / "fusion_config.json").stat().st_mtime_ns == stamp


def test_a_damaged_blueprint_is_one_clear_error(cli: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli("run", *TINY, "method=smile", "method.gate_k=2", "method.k=8", "--out", out).returncode == 0
    (out / "model" / "fusion_config.json").write_text('{"format": 1}')
    found = cli("evaluate", out / "model", *TINY)
    assert found.returncode == 2
    assert found.stderr.startswith("error: ")
    assert "fusion_config.json" in found.stderr
    assert "Traceback" not in found.stderr


def test_ranks_that_a_map_does_not_have_leave_no_model(cli: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = cli("run", *TINY, "method=smile", "method.k=2000", "--out", out)
    assert found.returncode == 2
    assert "method.k=2000" in found.stderr
    assert not (out / "model").exists()


def test_each_model_of_a_recombined_pool_is_evaluated(cli: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = cli("run", *TINY, "suite.experts=[mnist,digits]", "method=recombination", "--out", out)
    assert found.returncode == 0, found.stderr
    variants = report(out)["variants"]
    assert [variant["label"] for variant in variants] == ["mnist", "digits"]
    assert all(set(variant["tasks"]) == {"mnist", "digits"} for variant in variants)
    assert variants[0]["tasks"] != variants[1]["tasks"]
    assert sorted(path.name for path in (out / "model").iterdir()) == ["digits", "mnist"]
    assert sorted(path.name for path in (out / "tasks").iterdir()) == ["digits", "mnist"]
    again = cli("evaluate", out / "model" / "mnist", *TINY, "suite.experts=[mnist,digits]", "--json")
    assert json.loads(again.stdout)["tasks"] == variants[0]["tasks"]
    whole = cli("evaluate", out / "model", *TINY, "suite.experts=[mnist,digits]")
    assert whole.returncode == 2
    said = " ".join(whole.stderr.split())
    assert "Name one of them" in said
    assert "model/mnist" in said.replace(" ", "")


@pytest.mark.parametrize(
    "method",
    [
        ("simple_ensemble",),
        ("weighted_ensemble", "method.trials=2"),
        ("max_model",),
        ("tall_mask", "method.threshold=0.4"),
        ("emr",),
        ("surgery", "method.steps=2"),
    ],
    ids=str,
)
def test_what_is_several_models_is_evaluated_as_it_was_run(method: tuple[str, ...], cli: Run, tmp_path: Path) -> None:
    out, two = tmp_path / "out", (*TINY, "suite.experts=[mnist,digits]")
    found = cli("run", *two, f"method={method[0]}", *method[1:], "--out", out)
    assert found.returncode == 0, found.stderr
    again = cli("evaluate", out / "model", *two, "--json")
    assert again.returncode == 0, again.stderr
    first, scored = report(out), json.loads(again.stdout)
    assert scored["tasks"] == first["tasks"]
    assert scored["method"] == first["method"]
    assert scored["variants"][0]["model"] == first["variants"][0]["model"]


def test_a_preference_merges_gates_that_were_learned_before_to_a_plain_model(cli: Run, tmp_path: Path) -> None:
    from transformers import CLIPModel

    two = (*TINY, "suite.experts=[mnist,digits]", "method=pwe_moe")
    found = cli("run", *two, "method.steps=2", "method.batch=4", "method.grid=3", "--out", tmp_path / "front")
    assert found.returncode == 0, found.stderr
    variants = {variant["label"]: variant for variant in report(tmp_path / "front")["variants"]}
    assert list(variants) == ["equal", "0,1", "0.5,0.5", "1,0"]
    assert variants["equal"]["tasks"] == variants["0.5,0.5"]["tasks"]

    gates = f"method.gates={tmp_path / 'front' / 'artefacts' / 'gates'}"
    found = cli("run", *two, gates, "method.preference=[0,1]", "--out", tmp_path / "plain")
    assert found.returncode == 0, found.stderr
    plain = report(tmp_path / "plain")
    assert plain["tasks"] == variants["0,1"]["tasks"]
    assert plain["variants"][0]["model"]["kind"] == "weights"
    CLIPModel.from_pretrained(tmp_path / "plain" / "model")

    # The saved mixture is scored at any preference, as its front was; another one is another answer.
    model = (tmp_path / "front" / "model").rename(tmp_path / "moved")
    two = (*TINY, "suite.experts=[mnist,digits]")
    scored = {}
    for preference in (None, "0,1", "0.5,0.5", "1,0"):
        asked = () if preference is None else ("--preference", preference)
        found = cli("evaluate", model, *two, *asked, "--json")
        assert found.returncode == 0, found.stderr
        scored[preference] = json.loads(found.stdout)
        assert scored[preference]["tasks"] == variants[preference or "equal"]["tasks"]
        assert scored[preference]["method"]["name"] == "pwe_moe"
    assert len({found["identity"] for found in scored.values()}) == 4
    assert scored["0,1"]["method"]["params"]["preference"] == [0, 1]
    assert scored["0,1"]["variants"][0]["model"]["kind"] == "weights"

    found = cli("report", tmp_path / "front", "--format", "png", "--out", tmp_path / "figures")
    assert found.returncode == 0, found.stderr
    assert any(path.name.startswith("front-pwe_moe") for path in (tmp_path / "figures").iterdir())

    for preference, said in {
        "0.5,0.6": "preference=[0.5, 0.6] sums to 1.1",
        "1": "expected 2 numbers, one an expert: mnist, digits",
        "nan,1": "a preference has no negative entry and sums to 1",
        "most,little": "--preference most,little: expected one number an expert",
    }.items():
        found = cli("evaluate", model, *two, "--preference", preference)
        assert found.returncode == 2
        assert said in " ".join(found.stderr.split())
    found = cli("evaluate", tmp_path / "plain" / "model", *two, "--preference", "0,1")
    assert found.returncode == 2
    assert "A preference weighs the models of pwe_moe, and this is none" in " ".join(found.stderr.split())

    found = cli("run", *two, "method=pwe_moe", gates, "method.preference=[0.5,0.6]", "--out", tmp_path / "off")
    assert (found.returncode, (tmp_path / "off" / "model").exists()) == (2, False)
    assert "method.preference=[0.5, 0.6] sums to 1.1" in found.stderr
