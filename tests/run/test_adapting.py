"""Runs that adapt: what they leave for plots and later runs, how they stop and go on, and what is refused at once."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fusionbench.config import Recipe
from fusionbench.errors import ConfigError, Interrupted, MissingData, NotFinite
from fusionbench.methods._adaptation import Adaptation
from fusionbench.run import run
from fusionbench.training import read_curve

Make = Callable[..., Recipe]
ADAPTS = ("adamerging", "method.steps=6", "method.batch=4", "method.batches=1", "method.checkpoint_every=2")


def bits(folder: Path) -> bytes:
    return (folder / "artefacts" / "coefficients" / "model.safetensors").read_bytes()


def test_the_curve_has_loss_and_spread_of_each_step_and_scores_every_few(recipe: Make, tmp_path: Path) -> None:
    run(recipe(*ADAPTS, "method.evaluate_every=3"), out=tmp_path / "run")
    curve = read_curve(tmp_path / "run" / "training" / "adamerging")
    assert [point.step for point in curve] == [1, 2, 3, 4, 5, 6]
    assert all({"loss", "min", "mean", "max"} <= set(point.metrics) for point in curve)
    assert curve[0].metrics["min"] == curve[0].metrics["max"] == pytest.approx(0.3)
    assert curve[-1].metrics["min"] < curve[-1].metrics["mean"] < curve[-1].metrics["max"]
    scored = {point.step: point.metrics for point in curve if "validation" in point.metrics}
    assert list(scored) == [3, 6]
    for metrics in scored.values():
        assert metrics["validation"] == pytest.approx((metrics["cats"] + metrics["dogs"]) / 2)


def test_control_c_keeps_the_last_checkpoint_and_the_same_command_ends_with_the_same_bits(
    recipe: Make, tmp_path: Path
) -> None:
    run(recipe(*ADAPTS), out=tmp_path / "whole")
    told: list[str] = []

    def stop(what: str, done: int, _: int) -> None:
        told.append(what)
        if what.startswith("adamerging") and done == 3:
            raise KeyboardInterrupt

    said = r"adamerging was stopped after step 3 of 6\..*checkpoint of step 2 is in .*the same command goes on"
    with pytest.raises(Interrupted, match=said):
        run(recipe(*ADAPTS), out=tmp_path / "broken", progress=stop)
    run(recipe(*ADAPTS), out=tmp_path / "broken")
    assert bits(tmp_path / "broken") == bits(tmp_path / "whole")
    curves = [read_curve(tmp_path / name / "training" / "adamerging") for name in ("broken", "whole")]
    assert curves[0] == curves[1]
    assert f"adamerging, loss {curves[0][2].metrics['loss']:.4g}" in told


def test_coefficients_are_saved_by_the_names_of_experts_and_tensors(recipe: Make, tmp_path: Path) -> None:
    run(recipe(*ADAPTS), out=tmp_path / "run")
    path = tmp_path / "run" / "artefacts" / "coefficients" / "model.safetensors"
    with safe_open(path, "pt") as file:
        said = file.metadata()
        shape = tuple(file.get_tensor("coefficients").shape)
    names = said["names"].split("\n")
    assert said["experts"] == "cats\ndogs"
    assert shape == (2, len(names))
    assert all(name.startswith("vision_model.") for name in names)


def test_adaptation_may_look_at_a_disjoint_split_and_the_report_says_so(recipe: Make, tmp_path: Path) -> None:
    found = {}
    for split in ("test", "validation"):
        folder = tmp_path / split
        used = run(recipe(*ADAPTS, f"method.adapt_split={split}"), out=folder).report.adapted_on
        assert used is not None
        assert (used.split, used.tasks, used.count) == (split, ("cats", "dogs"), 24)
        found[split] = bits(folder)
    assert found["test"] != found["validation"]


def _without(suite: Path, split: str) -> None:
    """Take a split from the task dogs."""
    document = json.loads(suite.read_text())
    document["tasks"]["dogs"]["splits"] = {name: name for name in ("train", "validation", "test") if name != split}
    suite.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("asked", "split"),
    [
        ((*ADAPTS, "method.adapt_split=validation"), "validation"),
        (("concrete_task_arithmetic", "method.adapt_split=validation"), "validation"),
        (("concrete_adamerging", "method.adapt_split=validation"), "validation"),
        (("surgery", "method.adapt_split=validation"), "validation"),
        (("fw_merging",), "train"),
        (("fw_merging", "method.variant=soft", "method.adapt_split=validation"), "validation"),
        (("greedy_soup",), "validation"),
        (("scale_search",), "validation"),
        (("fisher",), "train"),
        (("regmean",), "train"),
        (("regmean_plusplus",), "train"),
    ],
)
def test_a_task_without_the_split_is_named_before_anything_long(
    recipe: Make, suite: Path, tmp_path: Path, asked: tuple[str, ...], split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _without(suite, split)

    def long(*_: object, **__: object) -> None:
        raise AssertionError("something long was begun")

    monkeypatch.setattr(Adaptation, "learn", long)
    monkeypatch.setattr("fusionbench.methods._statistics.SharedModule.load", long)
    monkeypatch.setattr("fusionbench.methods._frank_wolfe.Walk._descend", long)
    with pytest.raises(MissingData, match=f"dogs.*{split}"):
        run(recipe(*asked), out=tmp_path / "run")


def test_experts_that_give_no_numbers_are_told_by_the_task(recipe: Make, suite: Path, tmp_path: Path) -> None:
    path = suite.parent / "dogs" / "model.safetensors"
    tensors = load_file(path)
    for part in "qk":
        tensors[f"vision_model.encoder.layers.0.self_attn.{part}_proj.bias"].fill_(3e38)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(NotFinite, match=r"the task (cats|dogs) is (nan|inf).*Check the experts"):
        run(recipe(*ADAPTS), out=tmp_path / "run")


def test_coefficients_of_another_granularity_are_refused(recipe: Make, tmp_path: Path) -> None:
    run(recipe(*ADAPTS), out=tmp_path / "run")
    saved = tmp_path / "run" / "artefacts" / "coefficients"
    with pytest.raises(ConfigError, match=r"no coefficients of 2 experts × 1 groups; they are \(2, \d+\)"):
        run(recipe("adamerging", "method.granularity=task", f"method.coefficients={saved}"), out=tmp_path / "again")


def test_adaptation_holds_the_module_in_eval_mode(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[bool] = []
    plain = Adaptation.descend

    def watched(self: Adaptation, *given: object) -> torch.Tensor:
        modes.append(any(module.training for module in self.merged.module.modules()))
        return plain(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Adaptation, "descend", watched)
    run(recipe(*ADAPTS), out=tmp_path / "run")
    assert modes == [False] * 6
