import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fusionbench.errors import ConfigError
from fusionbench.families import load_module
from fusionbench.finetune.tune import score
from fusionbench.registry import suites
from fusionbench.suites import load_suite
from fusionbench.suites.images import TASKS, make_task
from fusionbench.suites.mini.assembly import build_key
from fusionbench.suites.mini.recipe import recipes
from fusionbench.suites.tasks import open_tasks
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights


@pytest.fixture
def folder(tiny, tiny_cache, monkeypatch) -> Path:
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tiny_cache))
    return Path(tiny.suite.pool.base).parent


@pytest.fixture
def manifest(folder) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def average(scores: dict[str, dict[str, float]]) -> float:
    return sum(score["accuracy"] for score in scores.values()) / len(scores)


def test_it_is_listed_with_a_summary():
    assert suites["mini/clip"].summary.startswith("Eight small image tasks")


def test_there_is_an_expert_for_each_of_the_eight_tasks_and_one_model_for_all(tiny):
    assert tuple(tiny.suite.pool.experts) == TASKS == tiny.suite.seen
    assert tiny.suite.unseen == ()
    assert (tiny.size, tiny.seed) == ("tiny", 0)
    assert all(Path(expert.model).is_dir() for expert in tiny.suite.pool.experts.values())
    assert Path(tiny.suite.pool.mtl).is_dir()


def test_reports_are_told_which_images_are_not_recorded(tiny):
    (note,) = tiny.notes
    assert "emoji, signs, glyphs, textures, land are drawn or rendered" in note


def test_the_tasks_show_the_images_and_words_of_their_maker(tiny, folder):
    task = open_tasks(tiny.suite, ("signs",))["signs"]
    made = make_task("signs", seed=0, train=400, validation=50, test=100)
    assert task.class_names == made.classes
    assert (task.size("train"), task.size("validation"), task.size("test")) == (400, 50, 100)
    (batch,) = task.batches("test", size=100)
    np.testing.assert_array_equal(batch["labels"].numpy(), made.test.labels)
    expected = (made.test.images.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.3
    np.testing.assert_allclose(batch["pixel_values"].numpy(), expected, atol=1e-5)


def test_plain_transformers_loads_base_and_experts_and_sees_the_tasks_logits(tiny, folder):
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

    task = open_tasks(tiny.suite, ("land",))["land"]
    images = np.load(folder / "data/land/test_images.npy")[:4]
    words = AutoTokenizer.from_pretrained(tiny.suite.pool.base)(
        [f"a land view {name}" for name in task.class_names], padding=True, return_tensors="pt"
    )
    pixels = AutoImageProcessor.from_pretrained(tiny.suite.pool.base, backend="pil")(list(images), return_tensors="pt")
    for reference in (tiny.suite.pool.base, tiny.suite.pool.experts["land"].model):
        module = CLIPModel.from_pretrained(reference)
        with torch.no_grad():
            theirs = module(**words, **pixels).logits_per_image
            ours = task.bind(module)(next(task.batches("test", size=4)))
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_experts_keep_the_bases_bits_outside_the_vision_tower(tiny):
    base = LazyWeights(open_source(tiny.suite.pool.base))
    for reference in (tiny.suite.pool.experts["mnist"].model, tiny.suite.pool.mtl):
        expert = LazyWeights(open_source(reference))
        same = {name for name in base if torch.equal(base[name], expert[name])}
        assert same == {name for name in base if not name.startswith("vision_model.")}


def test_experts_know_their_tasks_much_better_than_the_base_and_other_experts_do_not(tiny, manifest):
    scores = manifest["scores"]
    assert average(scores["individual"]) > average(scores["pretrained"]) + 0.1
    assert average(scores["individual"]) > average(scores["traditional_mtl"])


def test_the_manifests_scores_can_be_measured_again(tiny, folder, manifest):
    source = open_source(tiny.suite.pool.base)
    tasks = open_tasks(tiny.suite, ("fashion",), base=source)
    module = load_module(tasks["fashion"].family, source)
    assert score(module, tasks["fashion"], "test") == manifest["scores"]["pretrained"]["fashion"]


def test_a_build_leaves_nothing_but_the_suite(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["base", "data", "experts", "manifest.json", "suite.yaml"]
    assert sorted(path.name for path in (folder / "experts").iterdir()) == sorted([*TASKS, "mtl"])


def test_the_folder_is_a_suite_that_a_user_can_name(tiny, folder):
    found = load_suite(folder / "suite.yaml").suite
    assert found == tiny.suite.model_copy(update={"method_defaults": {}})


def test_a_subset_has_the_tasks_of_its_experts(tiny, folder):
    some = load_suite("mini/clip", size="tiny", experts=("land", "mnist"), unseen=("signs",)).suite
    assert list(open_tasks(some)) == ["land", "mnist", "signs"]


def test_another_seed_recipe_version_or_input_is_another_build():
    sizes, _ = recipes()
    keys = {build_key(recipe, 1, size, seed, {}) for size, recipe in sizes.items() for seed in (0, 1)}
    assert len(keys) == 6
    assert build_key(sizes["tiny"], 2, "tiny", 0, {}) not in keys
    assert build_key(sizes["tiny"], 1, "tiny", 0, {"emoji.npz": "a"}) not in keys


def test_an_unknown_size_is_refused_with_the_known_ones(cache):
    with pytest.raises(ConfigError, match=r"no size 'smal'. Did you mean small"):
        load_suite("mini/clip", size="smal")
    assert not (cache / "suites/mini-clip").exists()


def test_a_suite_that_is_built_is_found_without_torch(folder):
    program = (
        "import sys; from fusionbench.suites import load_suite; "
        "load_suite('mini/clip', size='tiny'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
