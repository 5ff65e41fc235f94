import pytest
import torch

from fusing import fuse
from fusionbench.errors import IncompatibleModels, NotFinite

# Three batches of two numbers each; a BatchNorm layer that has seen one of them knows its mean and its variance.
BATCHES = torch.tensor([[1.0, 3.0], [10.0, 14.0], [-6.0, -4.0]])
MEANS, VARIANCES = BATCHES.mean(1), BATCHES.var(1, correction=0)


def layer(number: int, dtype: torch.dtype = torch.float32, prefix: str = "") -> dict[str, torch.Tensor]:
    return {
        f"{prefix}bn.weight": torch.ones(1, dtype=dtype),
        f"{prefix}bn.running_mean": MEANS[number, None].to(dtype),
        f"{prefix}bn.running_var": VARIANCES[number, None].to(dtype),
        f"{prefix}bn.num_batches_tracked": torch.tensor(number),
    }


BASE = {
    "bn.weight": torch.ones(1),
    "bn.running_mean": torch.zeros(1),
    "bn.running_var": torch.ones(1),
    "bn.num_batches_tracked": torch.tensor(77),
}
EXPERTS = {f"e{i}": layer(i) for i in range(3)}


def test_the_merged_statistics_are_those_of_all_batches_together():
    merged = fuse("task_arithmetic", BASE, EXPERTS)
    assert merged["bn.running_mean"].item() == pytest.approx(BATCHES.mean().item())
    assert merged["bn.running_var"].item() == pytest.approx(BATCHES.var(correction=0).item())


def test_weights_of_the_method_weigh_the_batches():
    merged = fuse("weighted_average", BASE, EXPERTS, {"weights": [2.0, 1.0, 1.0]})
    seen = torch.cat([BATCHES[0], BATCHES[0], BATCHES[1], BATCHES[2]])
    assert merged["bn.running_mean"].item() == pytest.approx(seen.mean().item())
    assert merged["bn.running_var"].item() == pytest.approx(seen.var(correction=0).item())


@pytest.mark.parametrize("weights", [[1.0, -0.5, 0.5], [0.0, 0.0, 0.0]])
def test_weights_that_cannot_weigh_batches_count_as_equal(weights):
    merged = fuse("task_arithmetic", BASE, EXPERTS, {"weights": weights})
    assert merged["bn.running_var"].item() == pytest.approx(BATCHES.var(correction=0).item())


def test_the_scale_of_a_method_is_no_matter_to_statistics():
    merged = fuse("task_arithmetic", BASE, EXPERTS, {"scale": -3.0})
    assert merged["bn.running_var"].item() > 0
    assert merged["bn.running_mean"].item() == pytest.approx(BATCHES.mean().item())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_statistics_may_be_of_any_width(dtype):
    base = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in BASE.items()}
    merged = fuse("task_arithmetic", base, {f"e{i}": layer(i, dtype) for i in range(3)})
    assert merged["bn.running_mean"].dtype == dtype
    assert merged["bn.running_mean"].item() == pytest.approx(BATCHES.mean().item(), rel=1e-2)
    assert merged["bn.running_var"].item() == pytest.approx(BATCHES.var(correction=0).item(), rel=1e-2)


def test_a_variance_never_falls_below_zero():
    """The means agree to the last bit and are large, so that a difference of squares would be all rounding."""
    same = {**BASE, "bn.running_mean": torch.tensor([12345.678]), "bn.running_var": torch.tensor([0.0])}
    merged = fuse("task_arithmetic", same, {f"e{i}": same for i in range(3)})
    assert merged["bn.running_var"].item() == 0.0


def test_means_are_found_under_an_experts_own_prefix():
    experts = {f"e{i}": layer(i, prefix="model.") for i in range(3)}
    assert fuse("task_arithmetic", BASE, experts)["bn.running_var"].item() == pytest.approx(
        BATCHES.var(correction=0).item()
    )


def test_the_policies_keep_the_base_or_give_statistics_to_the_method():
    kept = fuse("task_arithmetic", BASE, EXPERTS, {"scale": 1.0}, batch_norm="keep_base")
    assert (kept["bn.running_mean"].item(), kept["bn.running_var"].item()) == (0.0, 1.0)
    given = fuse("task_arithmetic", BASE, EXPERTS, {"scale": 1.0}, batch_norm="as_parameters")
    assert given["bn.running_mean"].item() == pytest.approx(MEANS.sum().item())
    assert given["bn.running_var"].item() == pytest.approx(1 + (VARIANCES - 1).sum().item())


def test_the_counter_is_the_bases():
    assert fuse("task_arithmetic", BASE, EXPERTS)["bn.num_batches_tracked"].item() == 77


def test_a_variance_without_its_mean_is_an_error_that_names_both():
    lacking = {"bn.running_var": torch.ones(1)}
    with pytest.raises(IncompatibleModels, match=r"bn\.running_var, but no bn\.running_mean"):
        fuse("task_arithmetic", lacking, {"x": lacking})


@pytest.mark.parametrize("name", ["bn.running_mean", "bn.running_var"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_statistic_that_is_not_finite_is_an_error_that_names_it(name, value):
    bad = {**EXPERTS["e1"], name: torch.tensor([value])}
    with pytest.raises(NotFinite, match=f"e1: {name} holds {value}"):
        fuse("task_arithmetic", BASE, {**EXPERTS, "e1": bad})
