import json
from pathlib import Path

import pytest

from fusionbench.errors import Interrupted
from fusionbench.suites.building import build_once
from fusionbench.suites.images import TASKS
from fusionbench.suites.mini import build as building
from fusionbench.suites.mini.build import build
from fusionbench.suites.mini.clip_parts import PARTS
from fusionbench.suites.mini.recipe import MiniClipRecipe

FAST = {"batch": 8, "learning_rate": 1e-3}
MICRO = MiniClipRecipe.read(
    {
        "images": {"train": 20, "validation": 4, "test": 8, "emoji": 4, "signs": 4, "fashion": 4},
        "towers": {"width": 16, "depth": 1, "mlp": 16, "heads": 2, "projection": 8, "text_width": 16},
        "pretraining": {"steps": 6, "batch": 16, "warmup": 2},
        "experts": {"steps": 3, **FAST},
        "mtl": {"steps": 3, **FAST},
    }
)


def make(folder: Path, seed: int = 0, progress=None, recipe: MiniClipRecipe = MICRO) -> Path:
    about = {"name": "mini/clip", "version": 1, "size": "micro"}
    build_once(folder, lambda working: build(working, PARTS, recipe, seed=seed, progress=progress, about=about))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSIONBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        return make(tmp_path_factory.mktemp("builds") / "whole")


@pytest.mark.parametrize("stop_in", ["images", "pretraining", "experts"])
def test_a_build_that_was_interrupted_goes_on_to_the_same_bytes(tmp_path, cache, whole, stop_in, monkeypatch):
    monkeypatch.setattr(building, "CHECKPOINT_EVERY", 2)
    told = []

    def stop(what: str, done: int, total: int) -> None:
        told.append((what, done))
        if what == stop_in and done >= total / 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="the same command goes on"):
        make(tmp_path / "broken", progress=stop)
    told.clear()
    make(tmp_path / "broken", progress=lambda what, done, total: told.append((what, done)))
    assert contents(tmp_path / "broken") == contents(whole)
    earlier = ["images", "pretraining", "experts"].index(stop_in)
    assert {what for what, _ in told}.isdisjoint(["images", "pretraining", "experts"][:earlier])
    if stop_in == "pretraining":
        # step 3 was the last, the checkpoint is of step 2
        assert told[0] == ("pretraining", 3)


@pytest.mark.slow
def test_workers_beside_each_other_give_the_bytes_of_one_after_another(tmp_path, cache, whole, monkeypatch):
    monkeypatch.setattr(building, "FEW_STEPS", 0)
    assert contents(make(tmp_path / "beside")) == contents(whole)


def test_progress_is_told_of_every_part(tmp_path, cache):
    told = []
    make(tmp_path / "suite", progress=lambda *news: told.append(news))
    assert [news for news in told if news[0] == "images"][-1] == ("images", len(TASKS), len(TASKS))
    assert [news for news in told if news[0] == "pretraining"][-1] == ("pretraining", 6, 6)
    assert [news for news in told if news[0] == "experts"][-1] == ("experts", 27, 27)


def test_another_seed_gives_other_images_weights_and_experts(tmp_path, cache, whole):
    ours, other = contents(whole), contents(make(tmp_path / "other", seed=1))
    for name in ("data/land/test_images.npy", "base/model.safetensors", "experts/mnist/model.safetensors"):
        assert ours[name] != other[name]
    record = json.loads(other["experts/mnist/fusionbench.json"])
    assert record["recipe"]["seed"] == 1


def test_the_share_of_alias_captions_is_the_recipes(tmp_path, cache, whole):
    images = MICRO.images.model_copy(update={"alias_share": 0.0})
    plain = make(tmp_path / "plain", recipe=MICRO.model_copy(update={"images": images}))
    aliases = {f"{task}{label}" for task in TASKS for label in range(20)}

    def words(folder: Path) -> set[str]:
        return set(json.loads((folder / "base/tokenizer.json").read_text())["model"]["vocab"])

    assert len(words(whole) & aliases) > 20
    assert not words(plain) & aliases
