import numpy as np
import pytest

from fusionbench.errors import ConfigError
from fusionbench.tasks import ACCURACY
from fusionbench.tasks.metrics import CLASSIFIED, chosen_metrics


def test_accuracy_and_its_standard_error_by_hand() -> None:
    # 3 of 4 are right: 0.75, and sqrt(0.75 * 0.25 / 4) = sqrt(0.046875) = 0.216506
    value, stderr = ACCURACY.compute({"correct": np.array([True, False, True, True])})
    assert value == 0.75
    assert stderr == pytest.approx(0.2165063509)


def test_accuracy_of_all_right_answers_has_no_standard_error() -> None:
    assert ACCURACY.compute({"correct": np.ones(7, bool)}) == (1.0, 0.0)


def test_of_a_task_those_metrics_can_be_chosen_that_its_rows_are_enough_for() -> None:
    assert [metric.name for metric in chosen_metrics("pets", ("f1", "accuracy"), CLASSIFIED)] == ["f1", "accuracy"]
    with pytest.raises(
        ConfigError, match=r"no metric named 'spearman' of the task pets\. Known: accuracy, f1, matthews"
    ):
        chosen_metrics("pets", ("accuracy", "spearman"), CLASSIFIED)
