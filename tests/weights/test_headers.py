import numpy as np
import pytest
import torch

from fusionbench.weights.headers import FLOATS, ITEM_BYTES, NUMPY, WORDS, TensorSpec, entries
from fusionbench.weights.tensors import TORCH, TensorSource


@pytest.mark.parametrize("kind", ITEM_BYTES)
def test_every_kind_has_the_size_that_torch_gives_it(kind):
    assert torch.empty(0, dtype=TORCH[kind]).element_size() == ITEM_BYTES[kind]
    assert np.dtype(NUMPY[kind]).itemsize == ITEM_BYTES[kind]
    assert TORCH[kind].is_floating_point == (kind in FLOATS)


def test_every_word_of_a_recipe_is_the_kind_that_torch_means_by_it():
    assert {word: getattr(torch, word) for word in WORDS} == {word: TORCH[kind] for word, kind in WORDS.items()}


@pytest.mark.parametrize(("shape", "size"), [((), 1), ((0, 4), 0), ((2, 3), 6)])
def test_sizes_follow_from_shapes(shape, size):
    spec = TensorSpec("t", "BF16", shape)
    assert (spec.size, spec.nbytes, spec.is_float) == (size, 2 * size, True)


def test_entries_of_kinds_that_numpy_lacks_are_their_bits():
    source = TensorSource("m", {"t": torch.tensor([1.0, -2.0], dtype=torch.bfloat16)})
    assert entries(source, source.specs["t"]).tolist() == [0x3F80, 0xC000]
