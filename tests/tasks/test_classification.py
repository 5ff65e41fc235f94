from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fusionbench.errors import ConfigError, MissingData, MissingHead, NotFinite
from fusionbench.families import family_named, load_module
from fusionbench.tasks import HasTrainedHead, Task
from fusionbench.tasks.classification import ClassificationTask
from fusionbench.tasks.text_data import Texts, TextSplit, from_texts
from fusionbench.weights.sources import open_source
from tiny_texts import SENTENCES

LABELS = np.array([int("good" in text) for text in SENTENCES])


def make_task(base: Path, labels=LABELS, head: nn.Module | None = None) -> ClassificationTask:
    family, source = family_named("gpt2"), open_source(base)
    processor = family.token_processor(source)
    split = TextSplit(from_texts(Texts(list(SENTENCES), None, labels)), processor)
    return ClassificationTask("moods", family, source.config, ("bad", "good"), {"test": split}, processor, head)


@pytest.fixture
def task(cache, gpt2_folder) -> ClassificationTask:
    return make_task(gpt2_folder)


class Fixed(nn.Module):
    """A head that answers the same whatever it is given; it must have a parameter, by which its place is known."""

    def __init__(self, logits: list[list[float]]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits), requires_grad=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.logits[: len(features)]


def backbone(gpt2_folder: Path) -> nn.Module:
    return load_module(family_named("gpt2"), open_source(gpt2_folder))


def test_it_is_a_task_with_a_trained_head(task):
    assert isinstance(task, Task)
    assert isinstance(task, HasTrainedHead)


def test_a_task_without_a_head_says_so_when_it_is_bound(task, gpt2_folder):
    with pytest.raises(MissingHead, match=r"The task moods has no trained head.*head: REF.*experts\.moods\.head=REF"):
        task.bind(backbone(gpt2_folder))


def test_a_fresh_head_is_a_function_of_the_seed_and_leaves_the_generator_alone(task):
    before = torch.get_rng_state()
    one, same, other = task.fresh_head(3), task.fresh_head(3), task.fresh_head(4)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.weight, same.weight)
    assert not torch.equal(one.weight, other.weight)
    assert one.weight.shape == (2, 16)
    assert one.training


def test_logits_are_the_heads_of_the_last_real_tokens_state(task, gpt2_folder):
    module, head = backbone(gpt2_folder), task.fresh_head(0)
    (batch,) = task.batches("test", size=10)
    logits = task.with_head(head).bind(module)(batch)
    for row, text in zip(logits, SENTENCES, strict=True):
        words = torch.tensor([task.processor.prepare([text])[0]["input_ids"]])
        expected = module(words).last_hidden_state[0, -1] @ head.weight.T
        torch.testing.assert_close(row, expected, rtol=1e-5, atol=1e-5)


def test_rows_loss_and_objective_are_those_computed_by_hand(gpt2_folder, cache):
    # classes of the first three sentences: good, bad, good
    task = make_task(gpt2_folder, head=Fixed([[0.0, 0.0], [1.0, 3.0], [0.0, np.log(3.0)]]))
    batch = next(task.batches("test", size=3))
    predict = task.bind(backbone(gpt2_folder))
    rows = task.rows(predict, batch)
    assert rows["label"].tolist() == [1, 0, 1]
    assert rows["predicted"].tolist() == [0, 1, 1]
    assert rows["correct"].tolist() == [False, False, True]
    # log-softmax at the labels: log 1/2, −(2 + log(1 + e⁻²)), log 3/4
    loss = (np.log(2) + 2 + np.log1p(np.exp(-2)) - np.log(0.75)) / 3
    assert task.loss(predict, batch).item() == pytest.approx(loss, rel=1e-5)
    p = 1 / (1 + np.exp(-2))
    entropies = (np.log(2), -p * np.log(p) - (1 - p) * np.log(1 - p), -0.75 * np.log(0.75) - 0.25 * np.log(0.25))
    assert task.objective(predict, batch).item() == pytest.approx(sum(entropies) / 3, rel=1e-5)


def test_logits_that_mean_nothing_are_refused(gpt2_folder, cache):
    task = make_task(gpt2_folder, head=Fixed([[0.0, float("nan")]]))
    with pytest.raises(NotFinite, match="logits for the task moods hold NaN"):
        task.rows(task.bind(backbone(gpt2_folder)), next(task.batches("test", size=1)))


def test_batches_are_read_in_order_or_without_end_and_may_hide_the_labels(task):
    assert [len(batch["labels"]) for batch in task.batches("test", size=4)] == [4, 2]
    assert [len(batch["labels"]) for batch in task.batches("test", size=4, limit=3)] == [3]
    endless = task.batches("test", size=4, seed=0)
    drawn = [next(endless) for _ in range(3)]
    assert torch.equal(torch.cat([batch["labels"] for batch in drawn]).sort().values, torch.tensor([0] * 8 + [1] * 4))
    later = next(task.batches("test", size=4, seed=0, start=4))
    assert torch.equal(later["input_ids"], drawn[1]["input_ids"])
    assert "labels" not in next(task.batches("test", size=4, labels=False))


def test_a_missing_split_and_an_empty_one_are_named(task):
    with pytest.raises(MissingData, match=r"The task moods has no split 'train'\. It has: test"):
        task.size("train")
    with pytest.raises(MissingData, match=r"no examples in the split 'test' \(limit: 0\)"):
        next(task.batches("test", size=2, limit=0))


def test_a_label_that_is_no_class_is_refused_before_anything_is_run(cache, gpt2_folder):
    task = make_task(gpt2_folder, labels=np.array([0, 1, 0, 2, 0, 1]))
    with pytest.raises(ConfigError, match=r"moods: example 3 of the split 'test' has the label 2.*2 classes"):
        task.batches("test", size=2)
