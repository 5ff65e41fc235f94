"""The whole of TIES: the compiled kernel and the torch function leave the same bits, on any models."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from values import numbers

from fusing import fuse
from fusionbench.kernels import tiles
from fusionbench.kernels.compiled_tiles import bits_of
from fusionbench.kernels.consensus import COMBINE, CONSENSUS, merge_agreeing
from fusionbench.kernels.passes import WHOLE, Cut, Thresholds
from fusionbench.registry import methods
from fusionbench.weights import engine

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@st.composite
def models(draw):
    """A base and experts of mixed kinds: few different magnitudes, so that ties and exact cancellations are common."""
    count = draw(st.integers(1, 4))
    shapes = draw(st.dictionaries(st.sampled_from("abcd"), st.sampled_from([(), (0,), (1, 1), (3,), (4, 5), (33,)]),
                                  min_size=1, max_size=3))  # fmt: skip

    def state(dtype):
        tensors = {}
        for name, shape in shapes.items():
            size = int(np.prod(shape))
            values = draw(st.lists(numbers, min_size=size, max_size=size))
            tensor = torch.tensor(values, dtype=torch.float32).reshape(shape)
            tensors[name] = tensor.clamp(-1e3, 1e3).to(dtype)
        return tensors

    base = state(draw(st.sampled_from(DTYPES)))
    experts = {f"e{i}": state(draw(st.sampled_from(DTYPES))) for i in range(count)}
    still = draw(st.sampled_from([None, *shapes]))
    if still is not None:
        for expert in experts.values():
            expert[still] = base[still].clone()
    return base, experts


parameters = st.fixed_dictionaries(
    {
        "density": st.sampled_from([0.1, 0.29, 0.5, 0.9, 1.0]),
        "scale": st.sampled_from([1.0, 0.3, -0.5]),
        "scope": st.sampled_from(["model", "tensor", "changed"]),
        "combine": st.sampled_from(list(COMBINE)),
        "elect_on": st.sampled_from(["weighted", "unweighted"]),
        "keep": st.sampled_from(["exact", "official", "at_least_one"]),
        "zero_sign": st.sampled_from(["zero", "positive"]),
    }
)


def bits(state) -> dict[str, bytes]:
    return {name: bytes(tensor.contiguous().view(-1).view(torch.uint8).numpy()) for name, tensor in state.items()}


def both(monkeypatch, method, base, experts, values, **options):
    """What the kernel gives, and what the torch function gives for the same plan."""
    compiled = fuse(method, base, experts, values, **options)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "kernel_for", lambda *arguments: None)
        plain = fuse(method, base, experts, values, **options)
    return bits(compiled), bits(plain)


@settings(max_examples=150)
@given(models=models(), values=parameters, data=st.data())
def test_the_kernel_of_ties_equals_torch(models, values, data):
    base, experts = models
    weights = data.draw(st.lists(st.sampled_from([1.0, 0.5, -1.0, 0.0, 1 / 3]), min_size=len(experts),
                                 max_size=len(experts)))  # fmt: skip
    with pytest.MonkeyPatch.context() as monkeypatch:
        compiled, plain = both(monkeypatch, "ties", base, experts, {**values, "weights": weights})
    assert compiled == plain


@given(models=models(), method=st.sampled_from(["simple_average", "weighted_average", "task_arithmetic"]))
def test_the_kernels_of_sums_equal_torch_on_mixed_kinds(models, method):
    base, experts = models
    with pytest.MonkeyPatch.context() as monkeypatch:
        compiled, plain = both(monkeypatch, method, base, experts, {})
    assert compiled == plain


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("method", ["simple_average", "task_arithmetic", "ties"])
def test_kernel_and_torch_agree_on_tensors_of_several_blocks(method, dtype, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    size = tiles.TILE * 2 + 17
    base = {"w": torch.randn(size, generator=generator).bfloat16()}
    experts = {
        f"e{i}": {"w": (base["w"].float() + torch.randn(size, generator=generator) / 8).bfloat16()} for i in range(3)
    }
    compiled, plain = both(monkeypatch, method, base, experts, {}, dtype=dtype)
    assert compiled == plain


def test_every_kernel_in_the_registry_is_imported_without_torch_and_names_its_inputs():
    kernels = {name: methods[name].kernel for name in methods if methods[name].kernel}
    assert {"simple_average", "weighted_average", "task_arithmetic", "ties"} <= set(kernels)
    assert all(location.startswith("fusionbench.kernels.") for location in kernels.values())


@pytest.mark.parametrize(
    ("trim", "zero_sign", "served"),
    [("magnitude", "zero", True), ("magnitude", "positive", True), ("random", "zero", False),
     ("magnitude", "majority", False)],
)  # fmt: skip
def test_the_kernel_leaves_what_it_cannot_do_to_torch(trim, zero_sign, served):
    assert CONSENSUS.serves({"trim": trim, "zero_sign": zero_sign}) is served


@pytest.mark.parametrize(
    ("combine", "expected"),
    # Columns: both plus, plus wins, an exact tie, one zero, both minus, all zero.
    [("mean", [3.0, 3.0, 0.0, 5.0, -1.5, 0.0]), ("sum", [6.0, 3.0, 0.0, 5.0, -3.0, 0.0]),
     ("max", [4.0, 3.0, 0.0, 5.0, -2.0, 0.0])],
)  # fmt: skip
def test_entries_that_agree_are_merged_by_hand(combine, expected):
    deltas = np.array([[2, 3, 1, 5, -1, 0], [4, -1, -1, 0, -2, 0]], np.float32)
    out = np.empty(6, np.float32)
    merge_agreeing(out, deltas, np.ones(2, np.float32), True, False, COMBINE[combine])
    assert out.tolist() == expected


def test_an_exact_tie_may_elect_plus():
    deltas = np.array([[1.0, -2.0], [-1.0, 2.0]], np.float32)
    out = np.empty(2, np.float32)
    merge_agreeing(out, deltas, np.ones(2, np.float32), True, True, COMBINE["sum"])
    assert out.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(("weighted", "expected"), [(True, -2.0), (False, 0.75)])
def test_weights_may_vote_or_only_weigh(weighted, expected):
    """3 against -2, weighed 1/4 and 1: the weighted vote elects minus, the unweighted one plus."""
    deltas = np.array([[3.0], [-2.0]], np.float32)
    out = np.empty(1, np.float32)
    merge_agreeing(out, deltas, np.array([0.25, 1.0], np.float32), weighted, False, COMBINE["sum"])
    assert out.tolist() == [expected]


def test_results_do_not_depend_on_where_a_strip_ends():
    generator = np.random.default_rng(3)
    deltas = generator.integers(-3, 4, (3, 5000)).astype(np.float32)
    weights = np.array([1.0, 0.5, 2.0], np.float32)
    whole = np.empty(5000, np.float32)
    merge_agreeing(whole, deltas, weights, True, False, 0)
    for first in (0, 1, 1023, 1024, 4999):
        part = np.empty(min(1500, 5000 - first), np.float32)
        merge_agreeing(part, np.ascontiguousarray(deltas[:, first : first + len(part)]), weights, True, False, 0)
        assert part.tobytes() == whole[first : first + len(part)].tobytes()


def test_what_first_passes_found_is_left_as_it_is_and_serves_again():
    cuts = Thresholds({WHOLE: Cut(np.array([2.0], np.float32).view(np.uint32), np.array([1]))}, {})
    values = {"density": (0.5,), "weights": (1.0,), "scale": 1.0, "scope": "model", "combine": "sum",
              "elect_on": "weighted", "trim": "magnitude", "keep": "exact", "zero_sign": "zero"}  # fmt: skip
    base, expert = np.array([1, 1, 1, 1], np.float32), np.array([3, 3, 4, -1], np.float32)
    for _ in range(2):
        out = np.empty(4, np.float32)
        assert CONSENSUS.direct(out, bits_of([base, expert], "F32"), ("w", 0), cuts, **values)
        # The deltas 2, 2, 3 and -2: of those equal to the cut the first stays.
        assert out.tolist() == [3, 1, 4, 1]
