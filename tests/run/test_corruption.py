"""Runs on corrupted images: what is corrupted, what the report says, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fusionbench.config import Recipe
from fusionbench.errors import ConfigError
from fusionbench.families import family_named
from fusionbench.run import resolve, run
from fusionbench.run.evaluation import build_tasks
from fusionbench.tasks import Split, build_task
from fusionbench.tasks.corruptions import corruption
from tiny_texts import write_text_task

Make = Callable[..., Recipe]
CONTRAST = ("tasks.corruption=contrast", "tasks.severity=5")


def pixels(recipe: Recipe, split: Split) -> np.ndarray:
    (task, *_) = build_tasks(resolve(recipe))
    (batch,) = task.batches(split, size=100)
    mean, std = 0.5, 0.25
    return np.rint((batch["pixel_values"].permute(0, 2, 3, 1).numpy() * std + mean) * 255).astype(np.uint8)


def test_images_are_corrupted_by_their_index_but_for_those_of_training(recipe: Make) -> None:
    plain = {split: pixels(recipe("pretrained"), split) for split in ("train", "validation", "test")}
    noisy = recipe("pretrained", "tasks.corruption=imagenet_c/gaussian_noise", "tasks.severity=3")
    change = corruption("imagenet_c/gaussian_noise", 3)
    for split in ("validation", "test"):
        wanted = np.stack([change.apply(image, index) for index, image in enumerate(plain[split])])
        assert np.array_equal(pixels(noisy, split), wanted)
    assert np.array_equal(pixels(noisy, "train"), plain["train"])


def test_the_report_names_the_corruption_and_an_adaptive_method_looks_at_it(recipe: Make, tmp_path: Path) -> None:
    asked = ("adamerging", "method.steps=2", "method.batch=4")
    clean = run(recipe(*asked), out=tmp_path / "clean").report
    corrupted = run(recipe(*asked, *CONTRAST), out=tmp_path / "corrupted").report
    assert clean.identity != corrupted.identity
    assert any("contrast, severity 5" in note for note in corrupted.notes)
    assert corrupted.adapted_on is not None
    assert corrupted.adapted_on.corruption == "contrast, severity 5"
    assert clean.adapted_on is not None
    assert clean.adapted_on.corruption is None
    learned = [tmp_path / name / "model" / "model.safetensors" for name in ("clean", "corrupted")]
    assert learned[0].read_bytes() != learned[1].read_bytes()


def test_fisher_looks_at_clean_training_images(recipe: Make, tmp_path: Path) -> None:
    asked = ("fisher", "method.examples=4")
    clean = run(recipe(*asked), out=tmp_path / "clean")
    corrupted = run(recipe(*asked, *CONTRAST), out=tmp_path / "corrupted")
    assert corrupted.report.adapted_on is None or corrupted.report.adapted_on.corruption is None
    weights = [tmp_path / name / "model" / "model.safetensors" for name in ("clean", "corrupted")]
    tensors = [path.read_bytes() for path in weights]
    # The headers name the runs' recipes; the tensors behind them are the same.
    assert tensors[0][-1000:] == tensors[1][-1000:]
    assert clean.report.identity != corrupted.report.identity


def test_training_images_are_not_scored_corrupted() -> None:
    with pytest.raises(ConfigError, match="training images are left as they are"):
        Recipe.load(None, ["suite=mini/clip", "method=pretrained", "tasks.corruption=contrast", "tasks.split=train"])


def test_texts_have_no_corruption(gpt2_folder: Path, cache: Path, tmp_path: Path) -> None:
    from fusionbench.weights.sources import open_source

    data = write_text_task(tmp_path / "moods")
    spec = {"kind": "text_lines", "dataset": str(data), "class_names": ["bad", "good"]}
    spec["corruption"] = {"name": "contrast", "severity": "2"}
    with pytest.raises(ConfigError, match="moods is not about images"):
        build_task("moods", spec, family_named("gpt2"), open_source(str(gpt2_folder)))
