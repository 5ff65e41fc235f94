from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from forked import in_processes
from fusionbench.errors import ConfigError, MissingData
from fusionbench.families import Batch, load_module
from fusionbench.families.clip import Clip
from fusionbench.mixing import FusedModule
from fusionbench.tasks import ImageTask, Predictor, Score, Task, evaluate, from_arrays, open_vocabulary_task
from fusionbench.tasks.evaluation import Part, check_readable, joined_rows, parts_of_split, rows_of
from fusionbench.training import joined
from fusionbench.weights.sources import open_source
from tiny_clip import noise

pytestmark = pytest.mark.usefixtures("cache")
BRIGHT = np.array([1, 1, 0, 1, 0, 0, 1, 0, 0, 1])
"""Which of ten images are white; the others are black."""
LABELS = np.array([1, 1, 0, 0, 0, 1, 1, 0, 0, 1])
"""Two of them are labelled otherwise: the fourth and the sixth."""


@pytest.fixture
def task(clip_folder: Path) -> ImageTask:
    images = np.repeat(BRIGHT.astype(np.uint8) * 255, 32 * 32 * 3).reshape(10, 32, 32, 3)
    return open_vocabulary_task(
        "brightness",
        {"test": from_arrays(images, LABELS)},
        class_names=["cat", "bird"],
        templates=["a {}"],
        family=Clip(),
        base=open_source(clip_folder),
    )


class Brightness:
    """A model that says 1 for a bright image."""

    def for_task(self, task: Task) -> Predictor:
        def predict(batch: Batch) -> torch.Tensor:
            bright = batch["pixel_values"].mean(dim=(1, 2, 3))
            return torch.stack([-bright, bright], dim=1)

        return predict


def test_a_score_by_hand(task: ImageTask) -> None:
    scores, rows = evaluate(Brightness(), task, "test")
    # 8 of 10 are right; sqrt(0.8 * 0.2 / 10) = 0.126491
    assert scores == {"accuracy": Score(0.8, 10, pytest.approx(0.1264911064))}
    assert rows == {}


@pytest.mark.parametrize("batch", [1, 3, 10, 256])
def test_rows_are_kept_in_the_datas_order_whatever_the_batch(task: ImageTask, batch: int) -> None:
    found = evaluate(Brightness(), task, "test", batch=batch, keep_rows=True)
    assert found.rows["correct"].tolist() == (BRIGHT == LABELS).tolist()


def test_a_limit_scores_the_first_examples_only(task: ImageTask) -> None:
    found = evaluate(Brightness(), task, "test", limit=4, batch=3)
    assert found.scores["accuracy"][:2] == (0.75, 4)


def test_two_evaluations_are_equal_and_make_no_graph(task: ImageTask, clip_folder: Path) -> None:
    module = load_module(Clip(), open_source(clip_folder))
    modes: list[bool] = []
    module.visual_projection.register_forward_hook(lambda *_: modes.append(torch.is_inference_mode_enabled()))
    fused = FusedModule(module, Clip())
    assert evaluate(fused, task, keep_rows=True).scores == evaluate(fused, task).scores
    assert modes == [True, True]


def test_a_model_is_scored_as_a_loop_over_its_own_logits_scores_it(task: ImageTask, clip_folder: Path) -> None:
    from transformers import AutoTokenizer, CLIPModel

    images = noise(12, seed=4)
    raw = from_arrays(images, np.arange(12) % 2)
    other = ImageTask("noise", task.family, task.head, task.class_names, {"test": raw}, task.processor)
    model = CLIPModel.from_pretrained(clip_folder)
    tokens = AutoTokenizer.from_pretrained(clip_folder)(["a cat", "a bird"], padding=True, return_tensors="pt")
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).sub(0.5).div(0.25)
    with torch.inference_mode():
        answers = model(pixel_values=pixels, **tokens).logits_per_image.argmax(dim=1)
    found = evaluate(FusedModule(model, Clip()), other, batch=5, keep_rows=True)
    assert found.rows["correct"].tolist() == (answers.numpy() == np.arange(12) % 2).tolist()


class Numbers:
    """A task of ten examples whose rows tell which batch they were in, and that reads four at a time at most."""

    name = "numbers"

    def size(self, split: str) -> int:
        return 10

    def batches(self, split: str, *, size: int, start: int = 0, limit: int | None = None) -> Iterator[Batch]:
        count, size = min(limit or 10, 10), min(size, 4)
        for first in range(start, count, size):
            yield {"number": torch.arange(first, min(first + size, count))}

    def rows(self, predict: Predictor, batch: Batch) -> dict[str, np.ndarray]:
        return {"number": batch["number"].numpy(), "batch": np.full(len(batch["number"]), int(batch["number"][0]))}


@pytest.mark.parametrize(
    ("count", "limit", "expected"),
    [
        (1, None, [(0, 10)]),
        (2, None, [(0, 4), (4, 10)]),
        (3, None, [(0, 4), (4, 8), (8, 10)]),
        (9, None, [(0, 4), (4, 8), (8, 10)]),
        (2, 5, [(0, 4), (4, 5)]),
        (2, 3, [(0, 3)]),
        (2, 99, [(0, 4), (4, 10)]),
    ],
)
def test_parts_begin_where_a_batch_begins_and_are_all_examples_once(count, limit, expected) -> None:
    parts = parts_of_split(Numbers(), "test", count, limit=limit)
    assert parts == [Part(*part) for part in expected]
    rows = joined_rows([rows_of(None, Numbers(), "test", part, limit=limit) for part in parts])
    whole = rows_of(None, Numbers(), "test", limit=limit)
    assert rows["number"].tolist() == list(range(min(limit or 10, 10)))
    assert {name: column.tolist() for name, column in rows.items()} == {
        name: column.tolist() for name, column in whole.items()
    }


def test_a_task_whose_one_batch_stands_for_all_is_one_part() -> None:
    class Harness(Numbers):
        def batches(self, split: str, *, size: int, start: int = 0, limit: int | None = None) -> Iterator[Batch]:
            yield {} if limit is None else {"limit": limit}

    assert parts_of_split(Harness(), "test", 4) == parts_of_split(Harness(), "test", 4, limit=2) == [Part()]


@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_find_the_bits_of_one(task: ImageTask, clip_folder: Path, count: int) -> None:
    """Ten examples in batches of three; with four processes one has a single example."""
    module = load_module(Clip(), open_source(clip_folder))
    fused = FusedModule(module, Clip())
    next(task.batches("test", size=1))

    def found() -> tuple[object, list[object]]:
        evaluation = evaluate(fused, task, "test", batch=3, keep_rows=True, processes=joined())
        return evaluation.scores, [column.tolist() for column in evaluation.rows.values()]

    (alone,) = in_processes(1, found)
    assert in_processes(count, found) == [alone] * count


def test_what_is_missing_of_any_split_is_told_before_anything_is_run(task: ImageTask) -> None:
    check_readable([task], "test")
    with pytest.raises(MissingData, match=r"brightness has no split 'validation'\. It has: test"):
        check_readable([task], "test", "validation")
    with pytest.raises(MissingData, match="no examples"):
        check_readable([task], "test", limit=0)
    wrong = replace(task, class_names=("cat",))
    with pytest.raises(ConfigError, match="has the label 1, but the task has 1 classes"):
        check_readable([task, wrong], "test")
