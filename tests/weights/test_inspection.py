import math

import pytest
import torch

from fusionbench.errors import FusionBenchError, IncompatibleModels
from fusionbench.weights.inspection import cost, distances, facts, inspect
from fusionbench.weights.tensors import TensorSource

BASE = {"w": torch.tensor([[3.0, 4.0], [0.0, 0.0]]), "b": torch.tensor([12.0]), "ids": torch.arange(4)}
EXPERT = {"w": torch.tensor([[3.0, 4.0], [0.0, 2.0]]), "b": torch.tensor([12.0]), "ids": torch.arange(4) + 9}
CONFIG = {"model_type": "toy", "architectures": ["ToyModel"], "tie_word_embeddings": True}


def test_the_facts_of_a_model_are_those_of_its_headers():
    found = facts(TensorSource("hub/toy", BASE, CONFIG))
    assert (found.label, found.architecture, found.tied) == ("hub/toy", "ToyModel", True)
    assert (found.tensors, found.parameters, found.bytes) == (3, 9, 4 * 5 + 8 * 4)
    assert found.dtypes == {"F32": 5, "I64": 4}
    assert found.largest == "ids 4"


def test_a_model_that_says_nothing_of_itself_is_unknown():
    assert facts(TensorSource("x", {}, {})).architecture == "unknown"
    assert facts(TensorSource("x", {}, {})).largest == "none"
    assert facts(TensorSource("x", {}, {"model_type": "toy"})).architecture == "toy"


def test_models_that_fit_have_no_misfits_and_those_that_do_not_have_all():
    base, expert = TensorSource("base", BASE), TensorSource("expert", EXPERT)
    assert inspect([base, expert]).misfits == ()
    assert inspect([base]).misfits == ()
    odd = TensorSource("odd", {"w": torch.zeros(3), "ids": torch.arange(4)})
    misfits = inspect([base, expert, odd]).misfits
    assert any("odd: w is 3" in line for line in misfits)
    assert any("odd: has no b" in line for line in misfits)


def test_what_else_is_to_be_known_is_said_of_models_that_do_not_fit_too():
    narrow = {name: t.bfloat16() if t.is_floating_point() else t for name, t in EXPERT.items() if name != "b"}
    found = inspect([TensorSource("base", BASE), TensorSource("narrow", narrow)])
    assert any("narrow: has no b" in line for line in found.misfits)
    assert found.notes == ("narrow: 1 tensor is BF16, in the base of another kind; they are widened",)


def test_the_length_of_a_delta_is_its_euclidean_norm():
    found = distances(TensorSource("base", BASE), TensorSource("expert", EXPERT))
    assert found == {"delta": 2.0, "base": 13.0, "ratio": 2 / 13}


def test_lengths_are_of_the_numbers_whatever_their_width():
    base = {"w": torch.tensor([3.0], dtype=torch.bfloat16)}
    assert distances(TensorSource("b", base), TensorSource("e", {"w": torch.tensor([7.0])}))["ratio"] == 4 / 3


def test_a_base_of_zeros_has_no_ratio():
    zero = {"w": torch.zeros(2)}
    assert distances(TensorSource("b", zero), TensorSource("e", zero))["ratio"] == 0.0


def test_a_buffer_that_one_of_them_lacks_is_no_matter():
    base = {"e.w": torch.ones(1), "e.position_ids": torch.arange(3)}
    found = distances(TensorSource("b", base), TensorSource("e", {"e.w": torch.zeros(1)}))
    assert found["delta"] == 1.0


def test_only_the_tower_is_measured():
    base = {"vision.w": torch.ones(1), "text.w": torch.ones(1)}
    expert = {"w": torch.tensor([3.0])}
    found = distances(TensorSource("b", base), TensorSource("e", expert), tower="vision.")
    assert (found["delta"], found["base"]) == (2.0, 1.0)


def test_models_that_do_not_fit_are_not_measured():
    with pytest.raises(IncompatibleModels):
        distances(TensorSource("b", BASE), TensorSource("e", {"w": torch.zeros(1)}))
    double = {"w": torch.zeros(1, dtype=torch.float64)}
    with pytest.raises(FusionBenchError, match="F64"):
        distances(TensorSource("b", double), TensorSource("e", double))


def test_the_cost_of_a_merge_is_what_is_read_and_written():
    found = cost([TensorSource("b", BASE), TensorSource("e", EXPERT), TensorSource("f", EXPERT)])
    assert (found["read"], found["written"]) == (3 * 52, 52)
    assert found["seconds"] > 0
    assert math.isfinite(found["memory"])
