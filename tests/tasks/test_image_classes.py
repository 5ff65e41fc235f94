from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fusionbench.errors import ConfigError, MissingData, MissingHead, MissingPart
from fusionbench.families import family_named, load_module
from fusionbench.suites import load_suite
from fusionbench.suites.tasks import open_tasks
from fusionbench.tasks import Task, TaskSpec, build_task
from fusionbench.tasks.base import HasTrainedHead
from fusionbench.tasks.classification import ClassificationTask
from fusionbench.weights.sources import open_source
from tiny_resnets import TASKS, write_resnet_suite


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_resnet_suite(tmp_path_factory.mktemp("resnets")).parent


def make(folder: Path, kind: str = "image_class_arrays", **changes: Any) -> ClassificationTask:
    document = {
        "kind": kind, "dataset": str(folder / "data" / "shapes"), "class_names": TASKS["shapes"],
        "head": str(folder / "experts" / "shapes"), **changes,
    }  # fmt: skip
    spec = TaskSpec.read(document, "The task")
    made = build_task("shapes", spec, family_named("image_classifier"), open_source(folder / "base"))
    assert isinstance(made, ClassificationTask)
    return made


def test_a_task_of_arrays_gives_the_logits_of_transformers_own_classifier(folder: Path, cache: Path) -> None:
    from transformers import AutoModelForImageClassification

    task = make(folder)
    assert isinstance(task, Task)
    assert isinstance(task, HasTrainedHead)
    batch = next(task.batches("test", size=8))
    assert batch["pixel_values"].shape == (8, 3, 32, 32)
    assert batch["labels"].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    expert = open_source(folder / "experts" / "shapes")
    with torch.inference_mode():
        found = task.bind(load_module(task.family, expert))(batch)
        theirs = AutoModelForImageClassification.from_pretrained(folder / "experts" / "shapes").eval()
        torch.testing.assert_close(found, theirs(batch["pixel_values"]).logits, rtol=1e-5, atol=1e-5)


def test_pixels_are_normalised_as_the_bases_folder_says(folder: Path, cache: Path) -> None:
    pixels = next(make(folder).batches("test", size=1))["pixel_values"]
    raw = np.load(folder / "data" / "shapes" / "test_images.npy")[0]
    np.testing.assert_allclose(pixels[0, 1].numpy(), (raw[:, :, 1] / 255 - 0.5) / 0.5, atol=1e-6)


def test_corrupted_images_are_read_where_they_are_not_for_training(folder: Path, cache: Path) -> None:
    change = {"name": "contrast", "severity": "5", "seed": "0"}
    plain, flat = make(folder), make(folder, corruption=change)
    for split, factor in (("train", 1.0), ("test", 0.15)):
        before, after = (next(task.batches(split, size=8))["pixel_values"] for task in (plain, flat))
        # Channels keep 0.15 of their contrast, each value within a unit of 255 of it.
        torch.testing.assert_close(after.std((2, 3)), factor * before.std((2, 3)), rtol=0, atol=2 / 127)


def test_a_data_set_in_a_folder_of_images_brings_class_names(folder: Path, cache: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("long", "round", "square")):
        (tmp_path / "test" / name).mkdir(parents=True)
        for copy in range(2):
            image = np.full((40, 40, 3), 100 * number + copy, np.uint8)
            Image.fromarray(image).save(tmp_path / "test" / name / f"{copy}.png")
    task = make(folder, "image_classes", dataset=str(tmp_path), class_names=None, head=None)
    assert task.class_names == ("long", "round", "square")
    batch = next(task.batches("test", size=6))
    assert batch["labels"].tolist() == [0, 0, 1, 1, 2, 2]
    assert batch["pixel_values"].shape == (6, 3, 32, 32)  # resized to what the model takes
    with pytest.raises(MissingHead, match="shapes has no trained head"):
        task.bind(lambda **_: None)


def test_a_suite_gives_each_task_the_head_of_its_expert(folder: Path, cache: Path) -> None:
    tasks = open_tasks(load_suite(folder / "suite.yaml").suite)
    assert {name: task.head.state_dict()["1.weight"].shape[0] for name, task in tasks.items()} == {
        "shapes": 3, "colours": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"class_names": None}, ConfigError, "brings no class_names"),
        ({"class_names": ["round", "long", "square"]}, ConfigError, "The labels of .* are round, square, long"),
        ({"class_names": ["round", "square"]}, ConfigError, "Both must be the same"),
        ({"templates": ["a {}"]}, ConfigError, "its head is trained, not made of texts"),
        ({"metrics": ["acuracy"]}, ConfigError, "no metric named 'acuracy'"),
        ({"columns": {"image": "img"}}, ConfigError, "takes no columns"),
        ({"dataset": "/nowhere"}, MissingData, "holds no split"),
        ({"kind": "image_classes", "options": {"a": 1}}, ConfigError, "takes no options"),
    ],
)
def test_a_wrong_description_is_one_clear_error(
    changes: dict[str, Any], error: type[Exception], message: str, folder: Path
) -> None:
    with pytest.raises(error, match=message):
        make(folder, **changes)


def test_a_label_that_is_no_class_and_a_missing_split_are_refused(folder: Path, cache: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "test_images.npy", np.zeros((2, 32, 32, 3), np.uint8))
    np.save(tmp_path / "test_labels.npy", np.array([0, 3]))
    task = make(folder, dataset=str(tmp_path))
    with pytest.raises(ConfigError, match="has the label 3, but the task has 3 classes"):
        task.batches("test", size=2)
    with pytest.raises(MissingData, match="no split 'train'"):
        task.size("train")


def test_a_head_of_another_base_and_a_folder_without_a_head_are_refused(
    folder: Path, gpt2_folder: Path, tmp_path: Path
) -> None:
    from transformers import ResNetConfig, ResNetForImageClassification

    from fusionbench.errors import IncompatibleModels

    labels = {"id2label": dict(enumerate(TASKS["shapes"])), "label2id": {n: i for i, n in enumerate(TASKS["shapes"])}}
    wider = ResNetConfig(embedding_size=8, hidden_sizes=[8, 24], depths=[1, 1], layer_type="basic", **labels)
    ResNetForImageClassification(wider).save_pretrained(tmp_path / "wider")
    with pytest.raises(IncompatibleModels, match=r"does not fit the task shapes"):
        make(folder, head=str(tmp_path / "wider"))
    with pytest.raises(MissingHead, match="holds no head") as refused:
        make(folder, head=str(folder / "base"))
    assert "It is a" not in str(refused.value)
    with pytest.raises(MissingHead, match=r"holds no head.*It is a 'gpt2' model, the base is a 'resnet'"):
        make(folder, head=str(gpt2_folder))


def test_a_family_without_heads_or_images_is_refused(folder: Path) -> None:
    spec = TaskSpec.read(
        {"kind": "image_class_arrays", "dataset": str(folder / "data" / "shapes"), "class_names": TASKS["shapes"]}, "T"
    )
    with pytest.raises(MissingPart, match="trained heads"):
        build_task("shapes", spec, family_named("clip"), open_source(folder / "base"))
    with pytest.raises(MissingPart, match="image input"):
        build_task("shapes", spec, family_named("gpt2"), open_source(folder / "base"))


def test_an_expert_of_another_family_is_refused_before_anything_is_merged(
    folder: Path, cache: Path, tmp_path: Path
) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    from fusionbench.config import Recipe
    from fusionbench.errors import IncompatibleModels
    from fusionbench.run import run

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ViTForImageClassification(ViTConfig(image_size=32, patch_size=16, **sizes)).save_pretrained(tmp_path / "vit")
    recipe = Recipe.load(
        None, [f"suite={folder / 'suite.yaml'}", "method=simple_average", f"experts.shapes={tmp_path / 'vit'}"]
    )
    with pytest.raises(IncompatibleModels, match="is a 'vit' model"):
        run(recipe, out=tmp_path / "out")
    assert not (tmp_path / "out" / "model").exists()


def test_a_base_with_a_head_of_its_own_keeps_it_and_only_the_rest_is_fused(
    folder: Path, cache: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    from fusionbench.config import Recipe
    from fusionbench.run import run

    shapes, colours = (load_file(folder / "experts" / name / "model.safetensors") for name in TASKS)
    overrides = [
        f"suite={folder / 'suite.yaml'}", "method=simple_average", f"base={folder / 'experts' / 'shapes'}"
    ]  # fmt: skip
    run(Recipe.load(None, overrides), out=tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model" / "model.safetensors")
    assert torch.equal(merged["classifier.1.weight"], shapes["classifier.1.weight"])
    name = "resnet.embedder.embedder.convolution.weight"
    torch.testing.assert_close(merged[name], (shapes[name] + colours[name]) / 2)
