"""`mini/scene` in a size of seconds: the same code as tiny, small and large."""

import json
from pathlib import Path

import pytest

from fusionbench.config import Recipe
from fusionbench.errors import NotAdaptable
from fusionbench.registry import suites
from fusionbench.run import run
from fusionbench.suites.building import build_once
from fusionbench.suites.images import TASKS
from fusionbench.suites.mini.build import build
from fusionbench.suites.mini.scene import VERSION
from fusionbench.suites.mini.scene_parts import PARTS
from fusionbench.suites.mini.scene_recipe import MiniSceneRecipe, recipes
from fusionbench.suites.scenes import CLASSES
from fusionbench.weights.sources import open_source

FAST = {"steps": 2, "batch": 4, "learning_rate": 1e-3}
MICRO = MiniSceneRecipe.read(
    {
        "scenes": {"train": 6, "validation": 4, "test": 4, "height": 16, "width": 24},
        "tasks": ["land"],
        "images": {"train": 12, "validation": 1, "test": 1},
        "mixture": {"emoji": 4, "signs": 4, "share": 1, "coarse": 1},
        "encoder": {"stem_width": 4, "widths": [2, 2, 2, 2], "depths": [1, 1, 1, 1], "head_width": 4},
        "pretraining": {"steps": 2, "batch": 4, "warmup": 1},
        "experts": FAST,
        "mtl": FAST,
    }
)


def make(folder: Path, seed: int = 0) -> Path:
    about = {"name": "mini/scene", "version": VERSION, "size": "micro"}
    build_once(folder, lambda working: build(working, PARTS, MICRO, seed=seed, progress=None, about=about))
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSIONBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        return make(tmp_path_factory.mktemp("builds") / "whole")


def test_it_is_listed_with_three_sizes_of_known_image_tasks() -> None:
    assert "ray-cast" in suites["mini/scene"].summary
    sizes, _ = recipes()
    assert set(sizes) == {"tiny", "small", "large"}
    assert all(set(recipe.tasks) <= set(TASKS) for recipe in sizes.values())


def test_experts_hold_encoder_and_head_and_name_the_heads_channels(whole: Path) -> None:
    for task, channels in (("segmentation", CLASSES), ("depth", ("depth",)), ("normals", ("right", "down", "away"))):
        source = open_source(whole / "experts" / task)
        assert source.specs["head.4.weight"].shape == (len(channels), 4, 1, 1)
        assert "layer4.0.conv2.weight" in source.specs
        assert [source.config["id2label"][str(i)] for i in range(len(channels))] == list(channels)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(whole: Path, cache: Path, tmp_path: Path) -> None:
    again, other = make(tmp_path / "again"), make(tmp_path / "other", seed=1)
    for name in ("data/scenes/test_depth.npy", "base/model.safetensors", "experts/normals/model.safetensors"):
        assert (again / name).read_bytes() == (whole / name).read_bytes()
        assert (other / name).read_bytes() != (whole / name).read_bytes()


@pytest.mark.parametrize("method", ["simple_average", "task_arithmetic", "ties"])
def test_a_merge_is_scored_on_three_unlike_metrics_and_has_no_average_of_them(
    method: str, whole: Path, cache: Path, tmp_path: Path
) -> None:
    run(Recipe.load(None, [f"suite={whole / 'suite.yaml'}", f"method={method}"]), out=tmp_path / "run")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert {task: next(key for key in found if key != "seen") for task, found in report["tasks"].items()} == {
        "segmentation": "mean_iou", "depth": "absolute_error", "normals": "angle_mean",
    }  # fmt: skip
    assert report["average"] is None
    assert report["primary_average"] is None
    assert report["tasks"]["normals"]["within_30"]["n"] == 4


def test_normalized_turns_round_where_lower_is_better(whole: Path, cache: Path, tmp_path: Path) -> None:
    run(Recipe.load(None, [f"suite={whole / 'suite.yaml'}", "method=pretrained"]), out=tmp_path / "run")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    own = json.loads((whole / "manifest.json").read_text())["scores"]["individual"]
    found = {task: next(value for key, value in of.items() if key != "seen") for task, of in report["tasks"].items()}
    ratios = [
        found["segmentation"]["value"] / own["segmentation"]["mean_iou"],
        own["depth"]["absolute_error"] / found["depth"]["value"],
        own["normals"]["angle_mean"] / found["normals"]["value"],
    ]
    assert report["variants"][0]["normalized"] == pytest.approx(sum(ratios) / 3)


def test_adaptation_is_refused_with_the_reason_and_works_on_segmentation_alone(
    whole: Path, cache: Path, tmp_path: Path
) -> None:
    adapt = [f"suite={whole / 'suite.yaml'}", "method=adamerging", "method.steps=1", "method.batch=2"]
    with pytest.raises(NotAdaptable, match="depth has no objective without labels"):
        run(Recipe.load(None, adapt), out=tmp_path / "all")
    run(Recipe.load(None, [*adapt, "suite.experts=[segmentation]"]), out=tmp_path / "one")
    assert (tmp_path / "one" / "report.json").is_file()
