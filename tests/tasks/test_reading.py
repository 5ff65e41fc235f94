from collections.abc import Mapping
from types import SimpleNamespace

import pytest

from fusionbench.errors import MissingData
from fusionbench.tasks.base import Split
from fusionbench.tasks.reading import Counted, reading, split_of

DATA: Mapping[Split, Counted] = {"train": SimpleNamespace(count=5), "test": SimpleNamespace(count=3)}


def taken(count: int, limit: int | None, *, start: int = 0) -> list[list[int]]:
    order = reading("signs", "test", count, size=2, seed=None, start=start, limit=limit)
    return [indices.tolist() for indices in order]


def test_a_split_that_is_not_there_is_named_beside_those_that_are() -> None:
    assert split_of("signs", DATA, "test").count == 3
    with pytest.raises(MissingData, match=r"The task signs has no split 'validation'\. It has: train, test\."):
        split_of("signs", DATA, "validation")
    with pytest.raises(MissingData, match="It has: none"):
        split_of("signs", dict[Split, Counted](), "test")


def test_a_limit_takes_the_first_examples_and_no_more_than_there_are() -> None:
    assert taken(5, None) == [[0, 1], [2, 3], [4]]
    assert taken(5, 3) == [[0, 1], [2]]
    assert taken(5, 9, start=3) == [[3, 4]]


@pytest.mark.parametrize(("count", "limit"), [(0, None), (5, 0)])
def test_nothing_to_read_is_an_error_before_the_first_batch_is_asked_for(count: int, limit: int | None) -> None:
    with pytest.raises(MissingData, match=r"signs has no examples in the split 'test' \(limit: "):
        reading("signs", "test", count, size=2, seed=None, start=0, limit=limit)
