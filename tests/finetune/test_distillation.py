"""Distillation: by hand, and BitDelta's factors learning the fine-tuned model's logits."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fusionbench.config import Recipe
from fusionbench.errors import CheckpointError, ConfigError
from fusionbench.finetune import distillation
from fusionbench.finetune.distillation import Teacher
from fusionbench.finetune.recipe import FinetuneRecipe
from fusionbench.mixing.loading import load_model
from fusionbench.run.further import train_further
from fusionbench.run.rebuild import rebuild_to
from fusionbench.suites import Suite
from fusionbench.training.checkpoint import read_curve
from fusionbench.weights.sources import open_source
from tiny_causal_lm import make_causal_lm

RECIPE = FinetuneRecipe(steps=30, batch=4, learning_rate=3e-2, only=("scale",))


def taught(monkeypatch: pytest.MonkeyPatch, target: Any) -> Teacher:
    """A teacher that answers with `target`, whatever it is asked."""
    monkeypatch.setattr(distillation, "open_source", lambda _: None)
    monkeypatch.setattr(distillation, "load_module", lambda *_: torch.nn.Linear(1, 1))
    monkeypatch.setattr(distillation, "Trained", lambda _: SimpleNamespace(for_task=lambda _: lambda _: target))
    return Teacher("t", SimpleNamespace(name="toy"))  # type: ignore[arg-type]


def test_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Squares of (1, 2) and (0, 2) over four numbers: 9 / 4; without the second position, which is padding, 5 / 2."""
    teacher = taught(monkeypatch, torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]))
    task: Any = SimpleNamespace(name="a task")
    found = torch.tensor([[[2.0, 2.0], [1.0, 3.0]]], requires_grad=True)
    loss = teacher.loss(task, lambda _: found, {"labels": torch.tensor([[5, 7]])})
    assert loss.item() == pytest.approx(9 / 4)
    assert teacher.loss(task, lambda _: found, {}).item() == pytest.approx(9 / 4)
    padded = teacher.loss(task, lambda _: found, {"labels": torch.tensor([[5, -100]])})
    assert padded.item() == pytest.approx(5 / 2)
    padded.backward()  # type: ignore[no-untyped-call]
    assert found.grad is not None
    assert found.grad.tolist() == [[[1.0, 2.0], [0.0, 0.0]]]


def test_answers_that_are_no_logits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = taught(monkeypatch, {"boxes": 1})
    with pytest.raises(ConfigError, match="a task gives no logits"):
        teacher.loss(SimpleNamespace(name="a task"), lambda _: {"boxes": 1}, {})  # type: ignore[arg-type]


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    place = tmp_path / "data"
    place.mkdir()
    for split in ("train", "validation", "test"):
        texts = ["the dog runs in the house", "a cat sleeps in the house", "two and three and one"]
        (place / f"{split}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts * 3) + "\n")
    for seed, name in enumerate(("base", "a")):
        make_causal_lm(tmp_path / name, seed)
    pool = {"base": str(tmp_path / "base"), "experts": {"a": str(tmp_path / "a")}}
    return Suite.read({"name": "mine", "pool": pool, "tasks": {"texts": {"kind": "perplexity", "dataset": str(place)}}})


def compressed(tmp_path: Path) -> str:
    named = [f"base={tmp_path / 'base'}", f"experts.a={tmp_path / 'a'}", "method=bitdelta"]
    rebuild_to(Recipe.load(None, named), tmp_path / "bits")
    return str(tmp_path / "bits")


@torch.no_grad()
def distance(one: Path | str, other: Path | str) -> float:
    """Mean squared difference of two models' logits on some texts."""
    texts = [[1, 5, 7, 3, 9], [1, 4], [1, 8, 8, 6]]
    models = [load_model(place) for place in (one, other)]
    squares = [(models[0](torch.tensor([t])).logits - models[1](torch.tensor([t])).logits) ** 2 for t in texts]
    return float(torch.cat([s.flatten() for s in squares]).mean())


def test_factors_of_signs_learn_the_fine_tuned_models_logits(suite: Suite, tmp_path: Path) -> None:
    init = compressed(tmp_path)
    record = train_further(init, suite, tmp_path / "out", RECIPE, tasks=("texts",), teacher="a")["texts"]
    out = tmp_path / "out" / "texts"
    assert record["teacher"] == open_source(tmp_path / "a").fingerprint()
    losses = [point.metrics["loss"] for point in read_curve(out)]
    assert losses[-1] < 0.8 * losses[0]
    assert distance(out, tmp_path / "a") < distance(init, tmp_path / "a")
    old, new = open_source(init), open_source(out)
    assert all(name.endswith(".scale") for name in old.specs if old.read(name) != new.read(name))


def test_a_model_taught_by_itself_does_not_move(suite: Suite, tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"only": None, "steps": 2})
    train_further(str(tmp_path / "a"), suite, tmp_path / "out", recipe, tasks=("texts",), teacher=str(tmp_path / "a"))
    old, new = open_source(tmp_path / "a"), open_source(tmp_path / "out" / "texts")
    assert all(old.read(name) == new.read(name) for name in old.specs)


def test_a_teacher_that_is_not_there_or_is_an_adapter_is_refused(suite: Suite, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        train_further(
            str(tmp_path / "a"), suite, tmp_path / "out", RECIPE, tasks=("texts",), teacher=str(tmp_path / "nowhere")
        )
    pool = suite.pool.model_dump()
    pool["experts"]["a"] |= {"adapter": "./adapter"}
    adapted = Suite.read({**suite.model_dump(), "pool": pool}, "adapted")
    with pytest.raises(ConfigError, match="teacher: the expert a of mine is an adapter"):
        train_further(str(tmp_path / "a"), adapted, tmp_path / "out", RECIPE, teacher="a")
