"""Metrics on resamples of two or three examples, worked out by hand."""

import numpy as np
import pytest

from fusionbench.errors import ConfigError
from fusionbench.report.resampling import statistic_of

TWICE = np.array([[0, 0], [0, 1], [1, 1]])


def values(metric: str, chosen=TWICE, **rows) -> list[float]:
    return statistic_of(metric, {name: np.array(column) for name, column in rows.items()})(np.array(chosen)).tolist()


def test_accuracy_is_the_share_of_right_examples():
    assert values("accuracy", correct=[True, False]) == [1.0, 0.5, 0.0]


def test_scores_of_other_tools_are_averaged():
    assert values("acc_norm", score=[0.25, 0.75]) == [0.25, 0.5, 0.75]


def test_the_median_over_wordings_is_taken_after_the_mean_over_examples():
    # Wordings: the first example is right in all three, the second in the first only.
    assert values("median_accuracy", correct=[[1, 1, 1], [1, 0, 0]]) == [1.0, 0.5, 0.0]


def test_rank_correlation_is_of_the_drawn_pairs():
    rows = {"answer": [1.0, 2.0, 3.0], "target": [1.0, 3.0, 2.0]}
    # (1,2,3) against (1,3,2): ρ = 1 − 6·2/(3·8) = 0.5; equal answers have no order: 0.
    assert values("spearman", [[0, 1, 2], [0, 0, 0]], **rows) == [pytest.approx(0.5), 0.0]


def test_matthews_and_f1_are_of_the_drawn_table():
    rows = {"label": [1, 0, 1], "predicted": [1, 0, 0]}
    # TP 1, TN 1, FN 1: (1·1 − 0·1) / √(1·2·1·2) = 1/2, F₁ = 2/3; without the third example both are 1.
    assert values("matthews", [[0, 1, 2], [0, 1, 1]], **rows) == [pytest.approx(0.5), pytest.approx(1.0)]
    assert values("f1", [[0, 1, 2], [0, 1, 1]], **rows) == [pytest.approx(2 / 3), 1.0]


def test_metrics_of_sums_add_the_drawn_examples_first():
    # Errors 1 over 2 pixels and 9 over 6: (1 + 9) / 8, not the mean of 1/2 and 3/2.
    assert values("absolute_error", absolute=[1.0, 9.0], pixels=[2, 6]) == [0.5, 1.25, 1.5]
    assert values("token_loss", loss=[2.0, 6.0], tokens=[2, 2]) == [1.0, 2.0, 3.0]
    assert values("perplexity", loss=[2.0, 6.0], tokens=[2, 2]) == pytest.approx(list(np.exp([1.0, 2.0, 3.0])))
    tables = [[[2, 0], [0, 2]], [[0, 2], [2, 0]]]
    # All right, half right (2 / 6 in both classes), none right.
    assert values("mean_iou", confusion=tables) == pytest.approx([1.0, 1 / 3, 0.0])
    assert values("pixel_accuracy", confusion=tables) == pytest.approx([1.0, 0.5, 0.0])


def test_columns_that_a_metric_does_not_need_are_not_touched():
    rows = {"degrees": [4.0, 8.0], "pixels": [2, 2], "angles": [["not"], ["a number"]]}
    assert values("angle_mean", **rows) == [2.0, 3.0, 4.0]


def test_an_unknown_metric_without_a_column_to_average_is_refused():
    with pytest.raises(ConfigError, match=r"'mean_iu'.*Did you mean mean_iou"):
        values("mean_iu", confusion=[[[1]]])
