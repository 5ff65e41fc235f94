"""What the papers print: averages that their own cells contradict are told, and doubtful cells are no targets."""

import numpy as np
import pytest

from fusionbench.experiments.model import load_experiment
from fusionbench.experiments.printed import UNSEEN, cosines_beside, misprints_of, printed_of, recomputed_of
from fusionbench.report.analysis import Square


def row(experiment, label):
    return next(row for row in experiment.rows if row.label == label)


def test_an_average_that_its_cells_contradict_is_told():
    table = load_experiment("concrete-clip-b32")
    mtl = row(table, "traditional_mtl")
    # 88.9 is printed; the eight cells are 73.9 74.4 93.9 98.2 95.8 98.9 99.5 77.9, and their mean is the target.
    assert recomputed_of(table, mtl, {})["average"] == pytest.approx(712.5 / 8)
    assert printed_of(table, mtl, {})["average"] == pytest.approx(712.5 / 8)
    assert misprints_of(table, mtl, {}) == ["the printed average is 88.9, its cells give 89.1"]
    assert misprints_of(table, row(table, "simple_average"), {}) == []


def test_seen_and_unseen_averages_are_recomputed_apart():
    table = load_experiment("generalization-clip-b32-1")
    found = recomputed_of(table, row(table, "task_arithmetic"), {})
    # Seen 64.3 63.0 73.2 54.9 84.7 79.5; unseen MNIST 75.5, EuroSAT 42.6.
    assert found == {"average": pytest.approx(419.6 / 6), UNSEEN: pytest.approx(59.05)}
    assert misprints_of(table, row(table, "task_arithmetic"), {}) == []


def test_an_average_over_cells_in_doubt_is_not_recomputed():
    table = load_experiment("concrete-generalization-clip-b32")
    doubtful = [each for each in table.rows if any(value is None for value in printed_of(table, each, {}).values())]
    assert doubtful
    for each in doubtful:
        missing = [name for name, value in printed_of(table, each, {}).items() if value is None]
        if any(name not in ("average", UNSEEN) for name in missing):
            assert len(recomputed_of(table, each, {})) < 2


def test_cosines_are_counted_beside_the_printed_ones():
    names = ["sun397", "svhn", "mnist"]
    # Printed for ViT-B/32: svhn–sun397 0.01, mnist–sun397 0.01, mnist–svhn 0.15.
    values = np.array([[1.0, 0.5, 0.5], [0.02, 1.0, 0.5], [0.024, 0.25, 1.0]])
    said = cosines_beside("clip-vit-b32/ta8", Square("cosines", names, names, values))
    assert said == "2 of 3 printed cosines agree within 0.015; the largest difference is 0.100 (mnist, svhn)."
    assert cosines_beside("gpt2/glue7", Square("cosines", names, names, values)) == ""
    assert cosines_beside("clip-vit-b32/ta8", Square("cosines", ["a"], ["a"], np.eye(1))) == ""
