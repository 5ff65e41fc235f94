import pytest
import torch
from torch import Tensor, nn

from fusionbench.families import batch_norms, reestimate


class Runs:
    """A family that calls the module, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def features(self, module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        self.calls += 1
        return module(batch["x"])


def test_statistics_become_the_plain_means_over_the_batches() -> None:
    layer = nn.BatchNorm1d(1, momentum=0.4).eval()
    layer.num_batches_tracked.fill_(9)
    batches = [{"x": torch.tensor([[0.0], [2.0]])}, {"x": torch.tensor([[5.0], [11.0]])}]

    reestimate(layer, Runs(), batches)  # type: ignore[arg-type]

    # Means 1 and 8; unbiased variances 2 and 18.
    assert layer.state_dict()["running_mean"].tolist() == [4.5]
    assert layer.state_dict()["running_var"].tolist() == [10.0]
    assert (layer.momentum, int(layer.num_batches_tracked), layer.training) == (0.4, 9, False)


def test_a_module_without_such_layers_reads_no_batch() -> None:
    runs = Runs()
    bare = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1, track_running_stats=False))

    assert batch_norms(bare) == []
    reestimate(bare, runs, [{"x": torch.ones(2, 1)}])  # type: ignore[arg-type]

    assert runs.calls == 0


def test_layers_are_left_in_eval_mode_when_a_batch_fails() -> None:
    layer = nn.BatchNorm1d(1).eval()

    with pytest.raises(KeyError):
        reestimate(layer, Runs(), [{}])  # type: ignore[arg-type]

    assert not layer.training
    assert layer.momentum == 0.1
