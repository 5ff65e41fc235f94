"""Singular projection: the worked numbers, the formula, the zones, and which expert is looked at."""

import numpy as np
import pytest
import torch
from independent_mixing import singular_projection as reference
from torch import Tensor

from fusionbench.errors import ConfigError
from fusionbench.methods._one_expert import check_expert
from fusionbench.methods.singular_projection import of_expert, singular_projection
from fusionbench.mixing.sites import ModuleSite

HERE = ModuleSite("fc1", {"weight": "w"}, experts=("a",))


def project(base: Tensor, tuned: Tensor, **values: object) -> np.ndarray:
    return singular_projection(HERE, {"weight": base}, [{"weight": tuned}], **values).tensors["weight"].numpy()


@pytest.mark.parametrize(
    ("base", "zone", "expected"),
    [
        ([[2.0, 0], [0, 1]], "I", [[3, 0], [0, 1]]),
        ([[2.0, 0], [0, 1]], "II", [[2, 0], [0, 2]]),
        ([[2.0, 0, 0], [0, 1, 0]], "II", [[2, 0, 0], [0, 2, 0]]),
        ([[2.0, 0, 0], [0, 1, 0]], "II+III", [[2, 0, 0], [0, 2, 1]]),
    ],
)
def test_the_worked_examples_are_reproduced(base: list[list[float]], zone: str, expected: list[list[float]]) -> None:
    origin = torch.tensor(base)
    np.testing.assert_allclose(project(origin, origin + 1, k=1, zone=zone), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(5, 7), (7, 5), (4, 4)])
@pytest.mark.parametrize("zone", ["I", "II", "II+III"])
def test_every_zone_equals_the_independent_reference(shape: tuple[int, int], zone: str) -> None:
    base, tuned = (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    expected = reference(base.double().numpy(), tuned.double().numpy(), count=2, high=zone != "I", full="III" in zone)
    np.testing.assert_allclose(project(base, tuned, k=2, zone=zone), expected, atol=1e-5)


def test_all_directions_of_a_square_matrix_give_the_fine_tuned_one() -> None:
    base, tuned = torch.randn(4, 4), torch.randn(4, 4)
    np.testing.assert_allclose(project(base, tuned, k=4), tuned.numpy(), atol=1e-5)


def test_by_default_the_first_zone_holds_half_of_the_singular_values() -> None:
    base = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0]))
    found = project(base, base + torch.eye(4)) - base.numpy()
    np.testing.assert_allclose(found, np.diag([1, 1, 0, 0]), atol=1e-6)


def test_a_weight_that_is_stored_the_other_way_gives_the_same() -> None:
    base, tuned = torch.randn(3, 5), torch.randn(3, 5)
    turned = ModuleSite("c_fc", {}, linears={"": False}, experts=("a",))
    found = singular_projection(turned, {"weight": base.T}, [{"weight": tuned.T}], k=2).tensors["weight"]
    np.testing.assert_allclose(found.T.numpy(), project(base, tuned, k=2), atol=1e-6)


def test_biases_and_all_else_are_the_experts() -> None:
    tensors = [{"weight": torch.eye(2), "bias": torch.full((2,), float(n))} for n in range(3)]
    here = ModuleSite("fc1", experts=("a", "b"))
    found = singular_projection(here, tensors[0], tensors[1:], expert="b", k=1).tensors
    assert found["bias"].tolist() == [2, 2]
    assert of_expert(torch.zeros(1), [torch.ones(1), torch.full((1,), 5.0)], site=here, expert="b").item() == 5


def test_an_expert_must_be_named_where_there_are_several() -> None:
    check_expert(("a",), expert=None)
    with pytest.raises(ConfigError, match=r"there are 2: choose one with method\.expert=NAME"):
        check_expert(("a", "b"), expert=None)
    with pytest.raises(ConfigError, match=r"no expert 'mths'. Did you mean maths"):
        check_expert(("maths", "code"), expert="mths")


def test_more_directions_than_a_map_has_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"method\.k=3: fc1 is 2×4 and has 2 directions"):
        project(torch.ones(2, 4), torch.ones(2, 4), k=3)
