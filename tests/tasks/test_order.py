from itertools import islice

import numpy as np
import pytest

from fusionbench.tasks.order import index_batches, permutation


def drawn(count: int, batches: int, **arguments: int) -> list[int]:
    order = index_batches("digits", count, **arguments)
    return [int(index) for batch in islice(order, batches) for index in batch]


def test_without_a_seed_the_data_are_read_once_in_their_order() -> None:
    batches = [batch.tolist() for batch in index_batches("digits", 5, size=2)]
    assert batches == [[0, 1], [2, 3], [4]]


def test_without_a_seed_a_start_passes_over_examples() -> None:
    assert [batch.tolist() for batch in index_batches("digits", 5, size=2, start=3)] == [[3, 4]]
    assert list(index_batches("digits", 5, size=2, start=5)) == []


def test_every_epoch_is_another_permutation_of_all_examples() -> None:
    first, second = drawn(10, 5, size=2, seed=0), drawn(10, 10, size=2, seed=0)[10:]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_every_batch_is_full_and_epochs_join_without_a_gap() -> None:
    order = index_batches("digits", 5, size=3, seed=0)
    batches = [next(order) for _ in range(5)]
    assert [len(batch) for batch in batches] == [3] * 5
    stream = np.concatenate(batches)
    assert [sorted(stream[first : first + 5]) for first in (0, 5, 10)] == [[0, 1, 2, 3, 4]] * 3


def test_a_batch_may_be_larger_than_the_data() -> None:
    batch = drawn(3, 1, size=7, seed=0)
    assert sorted(batch[:3]) == sorted(batch[3:6]) == [0, 1, 2]
    assert len(batch) == 7


@pytest.mark.parametrize("start", [0, 1, 4, 5, 12])
def test_a_run_that_goes_on_sees_what_it_would_have_seen(start: int) -> None:
    whole = drawn(5, 9, size=2, seed=3)
    assert drawn(5, 3, size=2, seed=3, start=start) == whole[start : start + 6]


def test_the_order_depends_on_seed_task_and_epoch() -> None:
    orders = {
        tuple(permutation(task, 20, seed=seed, epoch=epoch).tolist())
        for task in ("digits", "signs")
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(orders) == 8


def test_the_order_is_the_same_on_every_machine_and_version() -> None:
    """Worked out from SHA-256 and Philox-4x64's published definition, as implemented in `philox` below."""
    assert permutation("digits", 6, seed=1, epoch=0).tolist() == sorted(
        range(6), key=philox("1/digits/0", 6).__getitem__
    )


def philox(text: str, count: int) -> list[int]:
    """Random 64-bit numbers of Philox-4x64-10 (Salmon et al., 2011), the key being the first half of SHA-256(text)."""
    import hashlib

    mask = 2**64 - 1
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
    numbers: list[int] = []
    for block in range(1, count // 4 + 2):
        counter, key = [block, 0, 0, 0], [seed & mask, seed >> 64]
        for _ in range(10):
            first, second = counter[0] * 0xD2E7470EE14C6C93, counter[2] * 0xCA5A826395121157
            counter = [
                (second >> 64) ^ counter[1] ^ key[0],
                second & mask,
                (first >> 64) ^ counter[3] ^ key[1],
                first & mask,
            ]
            key = [(key[0] + 0x9E3779B97F4A7C15) & mask, (key[1] + 0xBB67AE8584CAA73B) & mask]
        numbers += counter
    return numbers[:count]
