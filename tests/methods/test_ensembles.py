"""Ensembles: the worked numbers of the specification, their laws, and members that stay as they are."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import Kept, Toy

from fusionbench.errors import ConfigError, NotAdaptable
from fusionbench.merge import Pool
from fusionbench.methods.ensembles import (
    average_outputs,
    largest_outputs,
    max_model,
    simple_ensemble,
    weighted_ensemble,
)
from fusionbench.mixing import Skipped
from fusionbench.weights.tensors import TensorSource

A, B = torch.tensor([[2.0, 0, 0]]), torch.tensor([[0.0, 1, 0.5]])


class Constant(nn.Module):
    """The same logits for every point."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(3))

    def forward(self, points: Tensor) -> Tensor:
        return self.logits.expand(len(points), 3)


class Ask:
    """A task that hands on what the module says."""

    metrics = ()

    def __init__(self, family: Toy) -> None:
        self.name, self.family = "ask", family

    def bind(self, backbone: Any) -> Any:
        return lambda batch: self.family.features(backbone, batch)


FAMILY = Toy(Constant)
POINTS = {"points": torch.zeros(2, 3)}


class Classes(Ask):
    """Such a task with names of its classes."""

    def __init__(self, name: str, *class_names: str) -> None:
        super().__init__(FAMILY)
        self.name, self.class_names = name, class_names


def pool() -> Pool:
    config = {"model_type": "toy"}
    members = {name: TensorSource(name, {"logits": logits[0]}, config) for name, logits in (("a", A), ("b", B))}
    return Pool(TensorSource("base", {"logits": torch.zeros(3)}, config), members)


def close(found: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(found[0], torch.tensor(expected), atol=2e-6, rtol=0)


def test_the_mean_of_logits_and_of_probabilities_by_hand() -> None:
    close(average_outputs([A, B], [0.5, 0.5], "logits"), [1, 0.5, 0.25])
    close(average_outputs([A, B], [0.5, 0.5], "logits").softmax(-1), [0.481024, 0.291756, 0.227220])
    close(average_outputs([A, B], [0.5, 0.5], "probabilities"), [0.486655, 0.306494, 0.206851])


def test_log_probabilities_rank_as_logits_do() -> None:
    by_logs = average_outputs([A, B], [0.5, 0.5], "log_probabilities")
    close(by_logs.softmax(-1), [0.481024, 0.291756, 0.227220])


def test_weights_by_hand() -> None:
    close(average_outputs([A, B], [0.25, 0.75], "logits"), [0.5, 0.75, 0.375])
    close(average_outputs([A, B], [0.25, 0.75], "probabilities"), [0.336489, 0.406487, 0.257024])


def test_the_surest_member_decides_by_probability_not_by_logit() -> None:
    first, second = torch.tensor([[11.0, 10, 0]]), torch.tensor([[0.0, 3, 0]])
    assert largest_outputs([first, second], "logits").argmax() == 0
    close(largest_outputs([first, second], "probabilities"), [0.731050, 0.909443, 0.045279])


def test_label_sets_may_differ_an_absent_class_is_minus_infinity() -> None:
    """The flu example of heterogeneous model reuse: three models, five classes, class 4 wins with 3/4."""
    absent = -torch.inf
    shares = [[absent, absent, absent, 0.25, 0.75], [absent, 2 / 7, 4 / 7, 1 / 7, absent]]
    logits = [torch.tensor([row]).log() if absent not in row else _logs(row) for row in shares]
    found = largest_outputs(logits, "probabilities")
    assert found.argmax() == 4
    close(found[:, 1:], [2 / 7, 4 / 7, 0.25, 0.75])


def _logs(row: list[float]) -> Tensor:
    values = torch.tensor([row])
    return torch.where(values > 0, values.clamp_min(1e-30).log(), values)


def test_a_member_is_asked_for_the_classes_of_its_own_task_alone(tmp_path: Path) -> None:
    """By hand: a knows x and y, b y and z; the softmax of (2, 0) is (.881, .119), that of (1, .5) (.622, .378)."""
    models = replace(pool(), tasks={"a": "first", "b": "second"})
    tasks = {"first": Classes("first", "x", "y"), "second": Classes("second", "y", "z")}
    context = Kept(tmp_path).context(FAMILY)
    both = Classes("both", "x", "y", "z")
    close(max_model(models, tasks, context).for_task(both)(POINTS).exp(), [0.880797, 0.622459, 0.377541])
    every = max_model(models, tasks, context, labels="all").for_task(both)(POINTS)
    close(every.exp(), [0.786986, 0.506480, 0.307196])
    close(max_model(models, {}, context).for_task(both)(POINTS).exp(), [0.786986, 0.506480, 0.307196])


def test_a_member_that_knows_no_class_of_a_task_is_not_asked(tmp_path: Path) -> None:
    models = replace(pool(), tasks={"a": "first", "b": "second"})
    tasks = {"first": Classes("first", "u", "v", "w"), "second": Classes("second", "x", "y", "z")}
    context = Kept(tmp_path).context(FAMILY)
    close(max_model(models, tasks, context, over="logits").for_task(tasks["second"])(POINTS), [0, 1, 0.5])
    with pytest.raises(Skipped, match=r"no member was trained on any of its classes.*labels=all"):
        max_model(models, tasks, context).for_task(Classes("third", "r", "s", "t"))(POINTS)


def test_a_class_that_no_member_knows_is_never_predicted_and_stays_a_number(tmp_path: Path) -> None:
    models = replace(pool(), tasks={"a": "first", "b": "first"})
    tasks = {"first": Classes("first", "y", "z")}
    found = max_model(models, tasks, Kept(tmp_path).context(FAMILY), over="logits")
    scores = found.for_task(Classes("wide", "x", "y", "z"))(POINTS)
    assert torch.isfinite(scores).all()
    assert scores[0].tolist() == [torch.finfo(torch.float32).min, 1, 0.5]


class Maps(Ask):
    """A task of maps: two class scores a pixel, or depths."""

    def __init__(self, *, classes: bool) -> None:
        super().__init__(FAMILY)
        self.classes = classes

    def bind(self, backbone: Any) -> Any:
        return lambda batch: self.family.features(backbone, batch)[:, :2, None, None].expand(-1, 2, 3, 3)

    def objective(self, predict: Any, batch: Any) -> Tensor:
        if not self.classes:
            raise NotAdaptable("depths have no distribution")
        return predict(batch).mean()


def test_maps_are_averaged_over_their_channels_and_depths_as_they_are(tmp_path: Path) -> None:
    """By hand: softmax of (2, 0) and (0, 1) along the channels; depths have none, so their plain mean."""
    context = Kept(tmp_path).context(FAMILY)
    ensemble = simple_ensemble(pool(), {}, context, over="probabilities")
    shares = ensemble.for_task(Maps(classes=True))(POINTS)
    close(shares[:, :, 0, 0].exp(), [(0.880797 + 0.268941) / 2, (0.119203 + 0.731059) / 2])
    close(ensemble.for_task(Maps(classes=False))(POINTS)[:, :, 2, 1], [1, 0.5])
    close(max_model(pool(), {}, context).for_task(Maps(classes=True))(POINTS)[:, :, 1, 1].exp(), [0.880797, 0.731059])
    with pytest.raises(Skipped, match="no class scores"):
        max_model(pool(), {}, context).for_task(Maps(classes=False))(POINTS)


@pytest.mark.parametrize("resident", [True, False])
def test_members_answer_together_resident_or_one_at_a_time(tmp_path: Path, resident: bool) -> None:
    context = Kept(tmp_path).context(FAMILY)
    models = pool()
    before = {name: source.fingerprint() for name, source in models.experts.items()}
    close(simple_ensemble(models, {}, context, resident=resident).for_task(Ask(FAMILY))(POINTS), [1, 0.5, 0.25])
    close(
        weighted_ensemble(models, {}, context, weights=[1, 3], resident=resident).for_task(Ask(FAMILY))(POINTS),
        [0.5, 0.75, 0.375],
    )
    close(max_model(models, {}, context, over="logits", resident=resident).for_task(Ask(FAMILY))(POINTS), [2, 1, 0.5])
    assert before == {name: source.fingerprint() for name, source in models.experts.items()}


def test_weights_are_searched_on_validation_data_only(tmp_path: Path) -> None:
    kept = Kept(tmp_path)

    def evaluate(fused: Any) -> dict[str, float]:
        with torch.inference_mode():
            return {"ask": float(fused.for_task(Ask(FAMILY))(POINTS)[0, 1])}

    fused = weighted_ensemble(pool(), {"ask": Ask(FAMILY)}, kept.context(FAMILY, evaluate), trials=16)
    assert evaluate(fused)["ask"] > 0.8
    assert kept.used["selected"]["split"] == "validation"
    assert "selected on validation data" in kept.notes[0]


@pytest.mark.parametrize("over", ["logits", "probabilities", "log_probabilities"])
def test_a_loss_of_an_ensemble_is_that_of_its_distribution(over: Any, tmp_path: Path) -> None:
    """−log of the mean probability of class 1 is −log .306494, not the loss of shares that are taken for logits."""
    outputs = simple_ensemble(pool(), {}, Kept(tmp_path).context(FAMILY), over=over).for_task(Ask(FAMILY))(POINTS)
    loss = torch.nn.functional.cross_entropy(outputs, torch.tensor([1, 1]))
    expected = {"probabilities": 0.306494}.get(over, 0.291756)
    assert loss.item() == pytest.approx(-math.log(expected), abs=1e-5)


def test_the_search_runs_every_member_once_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, forward = [], Constant.forward
    monkeypatch.setattr(Constant, "forward", lambda self, points: (runs.append(1), forward(self, points))[1])

    def evaluate(fused: Any) -> dict[str, float]:
        predict = torch.inference_mode()(fused.for_task(Ask(FAMILY)))
        return {"ask": sum(float(predict({"points": torch.full((2, 3), float(n))})[0, 1]) for n in range(3))}

    context = Kept(tmp_path).context(FAMILY, evaluate)
    found = weighted_ensemble(pool(), {"ask": Ask(FAMILY)}, context, trials=8)
    assert len(runs) == 2 * 3
    found.for_task(Ask(FAMILY))(POINTS)
    assert len(runs) == 2 * 3 + 2


def test_an_ensemble_is_saved_whole(tmp_path: Path) -> None:
    simple_ensemble(pool(), {}, Kept(tmp_path).context(FAMILY), over="probabilities").save(tmp_path / "saved")
    about = json.loads((tmp_path / "saved" / "ensemble.json").read_text())
    assert about == {
        "format": 2,
        "members": ["a", "b"],
        "tasks": {"a": None, "b": None},
        "resident": True,
        "method": "simple_ensemble",
        "over": "probabilities",
    }
    assert sorted(path.name for path in (tmp_path / "saved" / "members").iterdir()) == ["a", "b"]


def test_a_save_that_is_cut_short_leaves_no_ensemble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    ensemble = simple_ensemble(pool(), {}, Kept(tmp_path).context(FAMILY))
    second, read = ensemble.members[1].source, TensorSource.read

    def cut(source: TensorSource, *where: Any) -> memoryview:
        if source is second:
            raise Killed
        return read(source, *where)

    monkeypatch.setattr(TensorSource, "read", cut)
    with pytest.raises(Killed):
        ensemble.save(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("resident", [True, False])
def test_members_run_on_the_contexts_device_and_batches_follow(tmp_path: Path, resident: bool) -> None:
    context = replace(Kept(tmp_path).context(FAMILY), device=torch.device("meta"))
    found = simple_ensemble(pool(), {}, context, resident=resident).for_task(Ask(FAMILY))(POINTS)
    assert found.device.type == "meta"


def test_a_task_of_another_family_is_skipped(tmp_path: Path) -> None:
    other = Toy(Constant, name="other")
    with pytest.raises(Skipped, match="'other'"):
        simple_ensemble(pool(), {}, Kept(tmp_path).context(FAMILY)).for_task(Ask(other))


def test_mistakes(tmp_path: Path) -> None:
    context = Kept(tmp_path).context(FAMILY)
    with pytest.raises(ConfigError, match="sum to 0"):
        weighted_ensemble(pool(), {}, context, weights=[1, -1])
    with pytest.raises(ConfigError, match="3 values for 2 experts"):
        weighted_ensemble(pool(), {}, context, weights=[1, 1, 1])
    with pytest.raises(ConfigError, match="no tasks"):
        weighted_ensemble(pool(), {}, context)
