"""Every metric of rows that several processes made is the metric of one's, to the bit."""

import numpy as np
import pytest

from fusionbench.tasks.answers import MEDIAN_ACCURACY, SPEARMAN
from fusionbench.tasks.base import Metric, Rows
from fusionbench.tasks.dense_metrics import ANGLE_BINS, DEPTH, NORMALS, SEGMENTATION
from fusionbench.tasks.evaluation import joined_rows
from fusionbench.tasks.lm_eval import mean_score
from fusionbench.tasks.metrics import CLASSIFIED
from fusionbench.tasks.perplexity import PERPLEXITY, TOKEN_LOSS

COUNT = 37
HARNESS = Metric("acc", "fraction", "higher", mean_score)
ALL = [*CLASSIFIED, SPEARMAN, MEDIAN_ACCURACY, *SEGMENTATION, *DEPTH, *NORMALS, PERPLEXITY, TOKEN_LOSS, HARNESS]


def rows_for(metric: Metric) -> Rows:
    """Rows of `COUNT` examples with every column that a metric may read."""
    draw = np.random.default_rng(0)
    if metric.name == "median_accuracy":
        return {"correct": draw.random((COUNT, 3)) > 0.4}
    return {
        "correct": draw.random(COUNT) > 0.4,
        "label": draw.integers(0, 3, COUNT),
        "predicted": draw.integers(0, 3, COUNT),
        "answer": draw.integers(0, 9, COUNT).astype(float),
        "target": draw.random(COUNT),
        "score": draw.random(COUNT),
        "confusion": draw.integers(0, 50, (COUNT, 4, 4)),
        "absolute": draw.random(COUNT) * 90,
        "relative": draw.random(COUNT) * 40,
        "degrees": draw.random(COUNT) * 900,
        "pixels": draw.integers(60, 99, COUNT),
        "within": draw.integers(0, 60, (COUNT, 3)),
        "angles": draw.integers(0, 2, (COUNT, ANGLE_BINS)).astype(np.int32),
        "loss": draw.random(COUNT) * 30,
        "tokens": draw.integers(2, 40, COUNT),
    }


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_rows_of_three_parts_score_as_the_whole_does(metric: Metric) -> None:
    whole = rows_for(metric)
    parts = [
        {name: column[first:last] for name, column in whole.items()} for first, last in ((0, 5), (5, 6), (6, COUNT))
    ]
    assert metric.compute(joined_rows(parts)) == metric.compute(whole)
    # The order of the parts is that of the data, which resampling depends on.
    assert np.isfinite(metric.compute(whole)).all()
