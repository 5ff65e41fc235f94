import hashlib
import math

import numpy as np
import pytest
import torch

from fusionbench.kernels.thin import draw
from fusionbench.methods._random import stream_key, uniform
from fusionbench.weights.plan import Site


def site(name: str = "layers.0.weight", seed: int = 3, start: int = 0, shape: tuple[int, ...] = (100,)) -> Site:
    return Site(name, shape, start, "matrix", True, "", 0, 1, ("a", "b"), seed)


def by_hand(seed: int, tensor: str, expert: str, index: int) -> float:
    """`triple32` in whole numbers of any size; its upper 24 bits as a fraction."""
    word = 2**32
    digest = hashlib.sha256(f"{seed}\0{tensor}\0{expert}".encode()).digest()
    first, second = int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")
    x = (first + index % word) % word
    x = (x ^ (x >> 17)) * 0xED5AD4BB % word
    x = ((x ^ (x >> 11)) + second + index // word * 0x9E3779B9) * 0xAC4C1B51 % word
    x = (x ^ (x >> 15)) * 0x31848BAB % word
    return ((x ^ (x >> 14)) >> 8) / 2**24


@pytest.mark.parametrize("seed", [0, 3, 2**63 - 1])
def test_numbers_are_those_of_triple32(seed):
    drawn = uniform(site(seed=seed), "a", torch.empty(50))
    assert drawn.tolist() == [by_hand(seed, "layers.0.weight", "a", i) for i in range(50)]


@pytest.mark.parametrize("start", [0, 77, 2**32 - 20, 5 * 2**32 - 1, 2**40])
def test_the_kernel_draws_the_same(start):
    numbers, key = np.empty(50, np.float32), np.uint64(stream_key(3, "layers.0.weight", "a"))
    draw(numbers, key, np.uint64(start))
    assert numbers.tolist() == [by_hand(3, "layers.0.weight", "a", start + i) for i in range(50)]
    assert numbers.tolist() == uniform(site(start=start), "a", torch.empty(50)).tolist()


def test_a_chunk_has_the_numbers_of_its_place():
    whole = uniform(site(), "a", torch.empty(100))
    for start, stop in ((0, 1), (1, 100), (37, 64), (99, 100), (50, 50)):
        assert uniform(site(start=start), "a", torch.empty(stop - start)).tolist() == whole[start:stop].tolist()


def test_places_far_into_a_large_tensor_have_numbers_too():
    start = 2**40
    assert uniform(site(start=start), "a", torch.empty(3)).tolist() == [
        by_hand(3, "layers.0.weight", "a", start + i) for i in range(3)
    ]


def test_a_shape_is_filled_row_by_row():
    flat = uniform(site(), "a", torch.empty(6))
    assert uniform(site(), "a", torch.empty(2, 3)).tolist() == flat.view(2, 3).tolist()
    assert uniform(site(), "a", torch.empty(())).item() == flat[0].item()
    assert uniform(site(), "a", torch.empty(0, 3)).shape == (0, 3)


@pytest.mark.parametrize(
    ("one", "other"),
    [((site(), "a"), (site(), "b")), ((site("x"), "a"), (site("y"), "a")), ((site(seed=1), "a"), (site(seed=2), "a"))],
)
def test_streams_of_other_names_and_seeds_have_nothing_in_common(one, other):
    like = torch.empty(5000)
    first, second = uniform(*one, like), uniform(*other, like)
    assert not torch.equal(first, second)
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1].item()) < 4 / math.sqrt(5000)


def test_keys_of_names_that_run_together_differ():
    assert stream_key(1, "ab", "c") != stream_key(1, "a", "bc")
    assert stream_key(1, "1a", "c") != stream_key(11, "a", "c")


def test_numbers_are_uniform_between_zero_and_one():
    """Mean, variance, the share below each tenth, and neighbours: within five standard errors."""
    count = 200_000
    drawn = uniform(site(), "a", torch.empty(count)).double()
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert abs(drawn.mean() - 1 / 2) < 5 * math.sqrt(1 / 12 / count)
    assert abs(drawn.var() - 1 / 12) < 5 * math.sqrt(1 / 180 / count)
    for tenth in range(1, 10):
        share = tenth / 10
        assert abs((drawn < share).double().mean() - share) < 5 * math.sqrt(share * (1 - share) / count)
    for lag in (1, 2, 64, 1024, 4096):
        assert abs(torch.corrcoef(torch.stack([drawn[:-lag], drawn[lag:]]))[0, 1]) < 5 / math.sqrt(count)


def test_the_type_and_the_device_do_not_depend_on_the_tensor():
    for dtype in (torch.float64, torch.bfloat16):
        drawn = uniform(site(), "a", torch.empty(4, dtype=dtype))
        assert drawn.dtype == torch.float32
        assert drawn.tolist() == uniform(site(), "a", torch.empty(4)).tolist()
