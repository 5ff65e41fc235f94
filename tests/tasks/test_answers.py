import numpy as np
import pytest
from scipy.stats import spearmanr
from torchmetrics.functional.regression import spearman_corrcoef

from fusionbench.tasks.answers import MEDIAN_ACCURACY, SPEARMAN, median_accuracy, spearman
from fusionbench.tasks.metrics import chosen_metrics


def rows(answers, targets):
    return {"answer": np.array(answers, float), "target": np.array(targets, float)}


def test_an_answer_that_is_no_number_counts_as_zero_in_the_rank_correlation():
    # ranks of (1, 2, 3, 0) are 2 3 4 1, of (1, 2, 3, 4) 1 2 3 4: 1 − 6·(1 + 1 + 1 + 9) / (4·15) = −0.2
    assert spearman(rows([1, 2, 3, 0], [1, 2, 3, 4]))[0] == pytest.approx(-0.2)


def test_ties_share_their_ranks_as_in_scipy_and_torchmetrics():
    import torch

    generator = np.random.default_rng(0)
    targets = generator.integers(0, 6, 50).astype(float)
    answers = np.round(targets + generator.normal(0, 2, 50))
    value, _ = spearman(rows(answers, targets))
    assert value == pytest.approx(spearmanr(answers, targets).statistic)
    assert value == pytest.approx(float(spearman_corrcoef(torch.tensor(answers), torch.tensor(targets))), abs=1e-6)


def test_equal_answers_give_no_order_and_so_zero():
    assert spearman(rows([3.8, 3.8, 3.8], [1, 2, 3])) == (0.0, 0.0)


def test_the_standard_error_is_about_that_of_a_correlation_and_the_same_each_time():
    generator = np.random.default_rng(1)
    targets = generator.normal(size=400)
    answers = targets + generator.normal(size=400)
    value, error = spearman(rows(answers, targets))
    # (1 − ρ²) / √(n − 1) holds for normal values
    assert error == pytest.approx((1 - value**2) / np.sqrt(399), rel=0.25)
    assert spearman(rows(answers, targets)) == (value, error)


def test_the_median_over_templates_is_taken_of_their_accuracies():
    correct = np.array([[1, 0, 1], [1, 0, 0], [1, 0, 1], [1, 1, 0]], bool)
    # accuracies 1, 1/4, 1/2: the median is 1/2, its error √(1/4 / 4)
    assert median_accuracy({"correct": correct}) == (0.5, 0.25)


def test_of_an_even_number_of_templates_the_median_is_between_the_middle_two():
    assert median_accuracy({"correct": np.array([[1, 0], [1, 1]], bool)})[0] == 0.75


def test_both_are_found_by_name():
    names = ("spearman", "median_accuracy")
    found = chosen_metrics("pets", names, (MEDIAN_ACCURACY, SPEARMAN))
    assert [metric.compute for metric in found] == [spearman, median_accuracy]
