import math
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fusionbench.errors import ConfigError, MissingData, MissingPart, NotFinite
from fusionbench.families import load_module
from fusionbench.families.clip import Clip
from fusionbench.tasks import ImageTask, Task, from_arrays, open_vocabulary_task
from fusionbench.weights.sources import open_source
from tiny_clip import noise

pytestmark = pytest.mark.usefixtures("cache")
COUNT = 10
LABELS = np.arange(COUNT) % 2


@pytest.fixture
def pets(clip_folder: Path) -> ImageTask:
    data = {"train": from_arrays(noise(COUNT), LABELS), "test": from_arrays(noise(4, seed=1), LABELS[:4])}
    return open_vocabulary_task(
        "pets",
        data,  # type: ignore[arg-type]
        class_names=["cat", "dog"],
        templates=["a photo of a {}", "a {}"],
        family=Clip(),
        base=open_source(clip_folder),
    )


def fixed(logits: list[list[float]]) -> Any:
    """A predictor that says the same whatever it is shown."""
    return lambda batch: torch.tensor(logits)


def test_an_image_task_is_a_task(pets: ImageTask) -> None:
    task: Task = pets
    assert isinstance(pets, Task)
    assert (task.name, task.version, task.family.name, task.metrics[0].name) == ("pets", 1, "clip", "accuracy")
    assert task.size("train") == COUNT


def test_batches_are_normalised_images_in_the_datas_order(pets: ImageTask) -> None:
    batches = list(pets.batches("train", size=4))
    assert [len(batch["labels"]) for batch in batches] == [4, 4, 2]
    assert torch.cat([batch["labels"] for batch in batches]).tolist() == LABELS.tolist()
    # the tiny CLIP's processor has mean 0.5 and standard deviation 0.25
    expected = (noise(COUNT).astype(np.float64) / 255 - 0.5) / 0.25
    pixels = torch.cat([batch["pixel_values"] for batch in batches])
    np.testing.assert_allclose(pixels.permute(0, 2, 3, 1), expected, atol=1e-6)


def test_a_limit_takes_the_first_examples_and_a_start_passes_over_some(pets: ImageTask) -> None:
    (batch,) = pets.batches("train", size=8, start=2, limit=5)
    (whole,) = pets.batches("train", size=COUNT)
    assert torch.equal(batch["pixel_values"], whole["pixel_values"][2:5])
    assert sum(len(batch["labels"]) for batch in pets.batches("train", size=8, limit=1000)) == COUNT


def test_without_labels_there_is_no_label_key(pets: ImageTask) -> None:
    assert all(set(batch) == {"pixel_values"} for batch in pets.batches("train", size=4, labels=False))


def test_seeded_batches_resume_where_they_stopped_and_stay_within_the_limit(pets: ImageTask) -> None:
    whole = list(islice(pets.batches("train", size=3, seed=7, limit=6), 6))
    later = list(islice(pets.batches("train", size=3, seed=7, limit=6, start=9), 3))
    for one, other in zip(whole[3:], later, strict=True):
        assert torch.equal(one["pixel_values"], other["pixel_values"])
    (first,) = pets.batches("train", size=6, limit=6)
    drawn = torch.cat([whole[0]["pixel_values"], whole[1]["pixel_values"]])
    assert torch.equal(drawn.flatten(1).sum(1).sort().values, first["pixel_values"].flatten(1).sum(1).sort().values)


def test_batches_may_be_changed_without_changing_the_data(pets: ImageTask) -> None:
    (first,) = pets.batches("test", size=4)
    kept = first["pixel_values"].clone(), first["labels"].clone()
    first["pixel_values"].zero_()
    first["labels"].zero_()
    (again,) = pets.batches("test", size=4)
    assert torch.equal(again["pixel_values"], kept[0])
    assert torch.equal(again["labels"], kept[1])


def test_the_prediction_is_the_head_over_the_features(pets: ImageTask, clip_folder: Path) -> None:
    module = load_module(Clip(), open_source(clip_folder))
    (batch,) = pets.batches("test", size=4)
    with torch.inference_mode():
        features = Clip().features(module, batch)
        assert torch.equal(pets.bind(module)(batch), pets.head(features))


def test_the_loss_is_the_mean_cross_entropy_by_hand(pets: ImageTask) -> None:
    # logits (0, 0): log 2; logits (log 3, 0) of which the second is right: probability 1/4, so log 4
    predict = fixed([[0.0, 0.0], [math.log(3), 0.0]])
    loss = pets.loss(predict, {"labels": torch.tensor([0, 1])})
    assert float(loss) == pytest.approx((math.log(2) + math.log(4)) / 2)


def test_the_objective_is_the_mean_entropy_by_hand(pets: ImageTask) -> None:
    # (1/2, 1/2): log 2; (3/4, 1/4): log 4 - 3/4 log 3; a certain answer: 0
    predict = fixed([[0.0, 0.0], [math.log(3), 0.0], [300.0, -300.0]])
    entropy = pets.objective(predict, {})
    assert float(entropy) == pytest.approx((math.log(2) + math.log(4) - 0.75 * math.log(3)) / 3)


def test_rows_say_of_each_example_whether_it_is_right(pets: ImageTask) -> None:
    rows = pets.rows(fixed([[2.0, 1.0], [2.0, 1.0], [-1.0, 3.0]]), {"labels": torch.tensor([0, 1, 1])})
    assert rows["correct"].tolist() == [True, False, True]
    assert rows["correct"].dtype == bool
    assert (rows["label"].tolist(), rows["predicted"].tolist()) == ([0, 1, 1], [0, 0, 1])


def test_outputs_that_are_not_finite_are_an_error_and_no_score(pets: ImageTask) -> None:
    with pytest.raises(NotFinite, match="logits for the task pets hold NaN or Inf"):
        pets.rows(fixed([[float("nan"), 1.0]]), {"labels": torch.tensor([0])})


def test_training_reaches_the_features_through_the_frozen_head(pets: ImageTask, clip_folder: Path) -> None:
    module = load_module(Clip(), open_source(clip_folder))
    (batch,) = pets.batches("test", size=4)
    pets.loss(pets.bind(module), batch).backward()
    gradient = module.get_parameter("vision_model.encoder.layers.0.mlp.fc1.weight").grad
    assert gradient is not None
    assert gradient.abs().sum() > 0
    assert module.get_parameter("text_projection.weight").grad is None


def test_a_missing_split_names_those_there_are(pets: ImageTask) -> None:
    with pytest.raises(MissingData, match=r"pets has no split 'validation'\. It has: train, test\."):
        pets.size("validation")
    with pytest.raises(MissingData, match="has no split 'validation'"):
        pets.batches("validation", size=2)


def test_an_empty_split_is_refused_before_it_is_read(pets: ImageTask) -> None:
    with pytest.raises(MissingData, match=r"no examples in the split 'test' \(limit: 0\)"):
        pets.batches("test", size=2, limit=0)


def test_labels_beyond_the_class_names_are_refused(pets: ImageTask) -> None:
    wrong = replace(pets, data={"test": from_arrays(noise(2), np.array([0, 5]))})
    with pytest.raises(ConfigError, match="pets: example 1 of the split 'test' has the label 5"):
        wrong.batches("test", size=2)


def test_a_family_without_images_is_refused(clip_folder: Path) -> None:
    class Blind:
        name = "blind"

    with pytest.raises(MissingPart, match="The family 'blind' has no image input"):
        open_vocabulary_task(
            "pets",
            {},
            class_names=["cat"],
            templates=["{}"],
            family=Blind(),
            base=open_source(clip_folder),  # type: ignore[arg-type]
        )
