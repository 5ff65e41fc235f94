import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_f1_score, multiclass_matthews_corrcoef

from fusionbench.tasks.confusion import f1, matthews
from fusionbench.tasks.metrics import CLASSIFIED, chosen_metrics


def rows(label, predicted):
    return {"label": np.array(label), "predicted": np.array(predicted)}


def test_matthews_of_a_table_worked_out_by_hand():
    # TP 3, TN 2, FP 1, FN 2: (3·2 − 1·2) / √(4 · 5 · 3 · 4) = 4 / √240
    value, _ = matthews(rows([1, 1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 1]))
    assert value == pytest.approx(4 / np.sqrt(240))


def test_f1_of_a_table_worked_out_by_hand():
    # 2·3 / (2·3 + 1 + 2)
    value, _ = f1(rows([1, 1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 1]))
    assert value == pytest.approx(6 / 9)


@pytest.mark.parametrize(("label", "predicted"), [([0, 1, 1], [1, 1, 1]), ([1, 1, 1], [0, 1, 1]), ([0, 0], [0, 0])])
def test_matthews_is_zero_where_one_class_alone_is_true_or_predicted(label, predicted):
    assert matthews(rows(label, predicted))[0] == 0


def test_f1_is_zero_where_nothing_is_positive():
    assert f1(rows([0, 0], [0, 0])) == (0, 0)


@pytest.mark.parametrize("classes", [2, 3])
def test_they_agree_with_torchmetrics(classes):
    random = np.random.default_rng(classes)
    label = random.integers(0, classes, 300)
    predicted = np.where(random.random(300) < 0.6, label, random.integers(0, classes, 300))
    said, true = torch.from_numpy(predicted), torch.from_numpy(label)
    expected = float(multiclass_matthews_corrcoef(said, true, classes))
    assert matthews(rows(label, predicted))[0] == pytest.approx(expected, abs=1e-6)
    if classes == 2:
        assert f1(rows(label, predicted))[0] == pytest.approx(float(binary_f1_score(said, true)), abs=1e-6)


def test_standard_errors_are_those_of_resampled_examples_and_always_the_same():
    random = np.random.default_rng(0)
    label = random.integers(0, 2, 400)
    predicted = np.where(random.random(400) < 0.8, label, 1 - label)
    given = rows(label, predicted)
    for metric in (matthews, f1):
        value, error = metric(given)
        again = np.random.default_rng(1).integers(0, 400, (600, 400))
        plain = np.std([metric(rows(label[drawn], predicted[drawn]))[0] for drawn in again])
        assert error == pytest.approx(plain, rel=0.1)
        assert metric(given) == (value, error)


def test_they_are_found_by_name():
    assert [metric.unit for metric in chosen_metrics("pets", ("matthews", "f1"), CLASSIFIED)] == [
        "correlation",
        "fraction",
    ]
