"""DARE's kernel equals its torch function bit for bit, through the engine, whatever the parameters."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fusing import plan_for
from fusionbench.kernels.thin import THIN
from fusionbench.methods._random import uniform
from fusionbench.parameters import check
from fusionbench.registry import methods
from fusionbench.weights.engine import run_plan
from fusionbench.weights.tensors import MemorySink, TorchWorker


def both(base, experts, parameters):
    """The kernel's result and the torch function's."""
    entry = methods["dare"]
    plan = plan_for("dare", base, experts, parameters, seed=3)
    values = check("dare", entry.parameters, parameters)
    assert THIN.serves(values)
    outputs = [step.output for step in plan]
    fast, plain = MemorySink(outputs), MemorySink(outputs)
    run_plan(plan, entry, fast, values=values, threads=2)
    import dataclasses

    run_plan(plan, dataclasses.replace(entry, kernel=""), plain, values=values, threads=1)
    return fast.weights, plain.weights


@given(
    seed=st.integers(0, 99), size=st.integers(0, 40), count=st.integers(1, 4), normalize=st.booleans(),
    combine=st.sampled_from(["linear", "ties"]), rescale=st.sampled_from(["inverse", "none"]),
    density=st.sampled_from([0.05, 0.5, 0.9, 1.0]), zero_sign=st.sampled_from(["zero", "positive"]),
    kind=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)  # fmt: skip
def test_the_kernel_equals_torch(seed, size, count, combine, rescale, normalize, density, zero_sign, kind) -> None:
    generator = torch.Generator().manual_seed(seed)
    base = {"w": torch.randn(size, generator=generator).to(kind), "b": torch.randn(3, generator=generator).to(kind)}
    experts = {
        f"e{i}": {name: (t + 0.1 * torch.randn(t.shape, generator=generator)).to(kind) for name, t in base.items()}
        for i in range(count)
    }
    fast, plain = both(
        base, experts,
        {"combine": combine, "rescale": rescale, "normalize": normalize, "density": density, "zero_sign": zero_sign,
         "weights": [0.5 + i for i in range(count)], "min_entries": 4},
    )  # fmt: skip
    for name in base:
        assert torch.equal(fast[name], plain[name]), name


def test_blocks_beyond_the_first_count_on() -> None:
    size = (1 << 20) + 77
    base = {"w": torch.zeros(size)}
    fast, plain = both(base, {"e": {"w": torch.ones(size)}}, {"density": 0.25, "scale": 1.0})
    assert torch.equal(fast["w"], plain["w"])
    assert float((fast["w"] != 0).float().mean()) == pytest.approx(0.25, abs=0.002)


def test_by_hand() -> None:
    """A share of 1 keeps all, a share of almost nothing drops all, and what is kept is divided by the share."""
    base = {"w": torch.zeros(1000)}
    ones = {"e": {"w": torch.ones(1000)}}
    assert set(both(base, ones, {"density": 0.5, "scale": 1.0})[0]["w"].tolist()) == {0.0, 2.0}
    assert not both(base, ones, {"density": 1e-30, "scale": 1.0})[0]["w"].any()
    assert both(base, ones, {"density": 1.0, "scale": 1.0})[0]["w"].all()


def test_an_entry_stays_where_the_share_is_just_above_its_number_and_not_where_it_is_the_number() -> None:
    base, ones = {"w": torch.zeros(50)}, {"e": {"w": torch.ones(50)}}
    numbers = uniform(plan_for("dare", base, ones, seed=3).steps[0].site, "e", base["w"])
    # Below a half, float32 has numbers between two words' 24 bits.
    place = int(torch.where(numbers < 0.5, numbers, 0.0).argmax())
    number = numbers[place]
    for share, stays in ((number, False), (torch.nextafter(number, torch.tensor(1.0)), True)):
        for found in both(base, ones, {"density": float(share), "rescale": "none", "scale": 1.0}):
            assert bool(found["w"][place]) is stays


def test_it_leaves_the_rest_to_torch() -> None:
    defaults = check("dare", methods["dare"].parameters, {})
    assert THIN.serves(defaults)
    assert not THIN.serves({**defaults, "rescale": "norm"})
    assert not THIN.serves({**defaults, "combine": "ties", "zero_sign": "majority"})
    assert not THIN.serves({**defaults, "combine": "ties", "ties_density": 0.2})


def test_models_of_one_kind_are_read_from_their_bits_and_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    direct = []
    original = THIN.direct
    kernel = THIN._replace(direct=lambda *a, **k: (direct.append(1), original(*a, **k))[1])
    monkeypatch.setattr("fusionbench.kernels.thin.THIN", kernel)
    generator = torch.Generator().manual_seed(0)
    base, expert = ({"w": torch.randn(5000, generator=generator)} for _ in range(2))
    same, plain = both(base, {"e": expert}, {"density": 0.4, "combine": "ties"})
    assert direct == [1]
    assert torch.equal(same["w"], plain["w"])
    mixed, plain = both(base, {"e": {"w": expert["w"].bfloat16()}}, {"density": 0.4, "combine": "ties"})
    assert direct == [1]
    assert torch.equal(mixed["w"], plain["w"])


def test_torch_is_what_the_comparison_ran_on(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    original = TorchWorker.merge
    monkeypatch.setattr(TorchWorker, "merge", lambda self, *a: (called.append(1), original(self, *a))[1])
    both({"w": torch.zeros(4)}, {"e": {"w": torch.ones(4)}}, {})
    assert called == [1]
