"""The references and golden files hold together: they are what every method is judged by."""

from __future__ import annotations

import compare
import independent
import numpy as np
import pytest
from golden_cases import golden_cases
from golden_inputs import GOLDEN, inputs, read_inputs


@pytest.mark.parametrize("row", list(independent.rows()), ids=lambda row: row[0])
def test_each_worked_number_is_what_its_independent_reference_computes(row):
    _, result, expected, tolerance = row
    np.testing.assert_allclose(np.asarray(result, float), np.asarray(expected, float), atol=tolerance, rtol=0)


@pytest.mark.parametrize("path", compare.files(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_each_peer_computes_what_the_restated_formulas_say(path):
    rows = list(compare.rows(path))
    assert rows
    assert [row for row in rows if compare.outside(row)] == []


def test_mergekit_resolves_recipes_as_the_restated_rules_say():
    rows = list(compare.recipe_rows())
    assert len(rows) == 7
    assert [row for row in rows if compare.outside(row)] == []


def test_a_wrong_golden_value_would_be_noticed():
    row = next(row for row in compare.rows(GOLDEN / "mergekit" / "linear.safetensors") if row.case == "equal")
    assert compare.outside(row._replace(compat=(1e-5, "linear.weight")))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_golden_inputs_are_what_their_generator_draws(precision):
    stored = read_inputs(precision)
    dtype = stored["base"]["scale"].dtype
    for model, state in inputs(dtype).items():
        assert state.keys() == stored[model].keys()
        assert all(state[name].equal(stored[model][name]) for name in state)


def test_golden_cases_come_with_their_inputs_and_parameters():
    case = next(case for case in golden_cases("mergekit", "nuslerp") if case.name == "flat_base")
    assert case.parameters == {"weight": {"a": 0.6, "b": 0.2}}
    assert case.base is not None
    assert list(case.experts) == ["a", "b"]
    assert case.expected["linear.weight"].shape == (7, 5)


def test_golden_files_stay_below_two_megabytes():
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*.safetensors")) < 2_000_000
