"""`mini/image` in a size of seconds: the same code as tiny, small and large."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fusionbench.registry import families, suites
from fusionbench.suites import Suite
from fusionbench.suites.building import build_once
from fusionbench.suites.images import TASKS, make_task
from fusionbench.suites.load import load_suite
from fusionbench.suites.mini.assembly import build_key
from fusionbench.suites.mini.build import build
from fusionbench.suites.mini.image import VERSION, packaged_arrays
from fusionbench.suites.mini.image_parts import PARTS
from fusionbench.suites.mini.image_recipe import MiniImageRecipe, Mixture, recipes
from fusionbench.suites.mini.mixture import make_mixture
from fusionbench.suites.tasks import open_tasks
from fusionbench.weights.sources import open_source

FAST = {"steps": 3, "batch": 8, "learning_rate": 1e-3}
MICRO = MiniImageRecipe.read(
    {
        "tasks": ["mnist", "land"],
        "images": {"train": 20, "validation": 4, "test": 8},
        "mixture": {"emoji": 8, "signs": 4},
        "backbone": {"embedding": 8, "widths": [8, 16], "depths": [1, 1]},
        "pretraining": {"steps": 4, "batch": 8, "warmup": 1},
        "experts": FAST,
        "mtl": FAST,
    }
)


def make(folder: Path, seed: int = 0, recipe: MiniImageRecipe = MICRO) -> Path:
    about = {"name": "mini/image", "version": VERSION, "size": "micro"}
    build_once(folder, lambda working: build(working, PARTS, recipe, seed=seed, progress=None, about=about))
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSIONBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        return make(tmp_path_factory.mktemp("builds") / "whole")


@pytest.fixture
def suite(whole: Path, cache: Path) -> Suite:
    return load_suite(whole / "suite.yaml").suite


def test_it_is_listed_and_its_family_known() -> None:
    assert "ResNet" in suites["mini/image"].summary
    assert "resnet" in families["image_classifier"].data["model_types"]


def test_an_expert_is_a_classifier_that_transformers_loads_with_the_tasks_labels(whole: Path) -> None:
    from transformers import AutoModelForImageClassification

    model, loading = AutoModelForImageClassification.from_pretrained(
        whole / "experts" / "land", output_loading_info=True
    )
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert [model.config.id2label[i] for i in range(10)] == list(make_task("land", seed=0, train=1).classes)


def test_transformers_classifier_gives_the_recorded_accuracy(whole: Path) -> None:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    folder = whole / "experts" / "mnist"
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    images, labels = (np.load(whole / "data" / "mnist" / f"test_{part}.npy") for part in ("images", "labels"))
    with torch.inference_mode():
        logits = model(**processor(list(images), return_tensors="pt")).logits
    recorded = json.loads((folder / "fusionbench.json").read_text())["scores"]["mnist"]["test"]["accuracy"]
    assert float((logits.argmax(-1).numpy() == labels).mean()) == pytest.approx(recorded)


def test_the_base_has_no_head_and_running_statistics_of_its_training(whole: Path) -> None:
    base = open_source(whole / "base")
    assert not [name for name in base.specs if name.startswith("classifier")]
    from fusionbench.weights.tensors import LazyWeights

    assert int(LazyWeights(base)["embedder.embedder.normalization.num_batches_tracked"]) == 4


def test_training_an_expert_moves_its_running_statistics_and_training_all_keeps_the_bases(whole: Path) -> None:
    from fusionbench.weights.tensors import LazyWeights

    def mean(folder: str) -> torch.Tensor:
        weights = LazyWeights(open_source(whole / folder))
        (name,) = [n for n in weights if n.endswith("embedder.embedder.normalization.running_mean")]
        return weights[name]

    assert not torch.equal(mean("experts/land"), mean("base"))
    assert torch.equal(mean("experts/mtl"), mean("base"))


def test_tasks_take_their_heads_from_their_experts(suite: Suite, whole: Path) -> None:
    from safetensors.torch import load_file

    stored = load_file(whole / "experts" / "land" / "model.safetensors")["classifier.1.weight"]
    assert torch.equal(open_tasks(suite)["land"].head.state_dict()["1.weight"], stored)
    assert open_tasks(suite, heads=False)["land"].head is None


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(whole: Path, cache: Path, tmp_path: Path) -> None:
    again, other = make(tmp_path / "again"), make(tmp_path / "other", seed=1)
    for name in ("data/land/test_images.npy", "base/model.safetensors", "experts/land/model.safetensors"):
        assert (again / name).read_bytes() == (whole / name).read_bytes()
        assert (other / name).read_bytes() != (whole / name).read_bytes()


def test_the_mixture_has_no_task_label_but_coarse_ones() -> None:
    tasks = {"land": make_task("land", seed=0, train=40, validation=1, test=1)}
    mixture = make_mixture(tasks, Mixture(emoji=12, signs=6, share=0.5, coarse=2), seed=0)
    own = mixture.labels[-20:]
    assert len(mixture.images) == len(mixture.labels)
    # ten classes of land in pairs, numbered after all others
    assert set(own - own.min()) == set(range(5))
    assert own.min() == mixture.labels[:-20].max() + 1
    assert mixture.classes == mixture.labels.max() + 1
    plain = make_mixture({}, Mixture(emoji=12, signs=6, share=0.5), seed=0)
    assert np.array_equal(plain.images, mixture.images[:-20])


def test_a_share_of_nothing_takes_no_task_image() -> None:
    tasks = {"land": make_task("land", seed=0, train=10, validation=1, test=1)}
    empty, plain = (make_mixture(t, Mixture(emoji=4, signs=4, share=0), seed=0) for t in (tasks, {}))
    assert np.array_equal(empty.images, plain.images)
    assert empty.classes == plain.classes


def test_every_size_has_at_least_four_known_tasks_and_a_key_of_its_own() -> None:
    sizes, _ = recipes()
    assert set(sizes) == {"tiny", "small", "large"}
    for recipe in sizes.values():
        assert len(recipe.tasks) >= 4
        assert set(recipe.tasks) <= set(TASKS)
    keys = {build_key(recipe, VERSION, size, 0, packaged_arrays()) for size, recipe in sizes.items()}
    assert len(keys) == 3
