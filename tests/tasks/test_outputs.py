"""What is asked of a model's outputs, by hand."""

import math

import pytest
import torch

from fusionbench.errors import NotFinite
from fusionbench.tasks.outputs import entropies, finite


def test_the_entropy_of_two_equal_choices_is_that_of_a_coin() -> None:
    logits = torch.tensor([[3.0, 3.0], [math.log(3.0), 0.0]])
    # The second has the probabilities 3/4 and 1/4.
    quarters = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    torch.testing.assert_close(entropies(logits), torch.tensor([math.log(2.0), quarters]))
    torch.testing.assert_close(entropies(logits.T, dim=0), entropies(logits))
    assert entropies(torch.tensor([1e4, 0.0])).item() == 0.0


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_outputs_that_are_no_numbers_are_refused_with_the_task(broken: float) -> None:
    outputs = torch.tensor([1.0, 2.0])
    assert finite(outputs, "signs") is outputs
    with pytest.raises(NotFinite, match=r"The model's maps for the task signs hold NaN or Inf"):
        finite(torch.tensor([1.0, broken]), "signs", "maps")
