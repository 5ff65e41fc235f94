"""Greedy decoding of a model that is a table: after each token, the next."""

import torch

from fusionbench.families.decoding import greedy

END, PAD = 1, 0


def table(following: dict[int, int], size: int = 8):
    """Return the logits of the token that follows the last one."""
    seen = []

    def logits(written: torch.Tensor) -> torch.Tensor:
        seen.append(written.shape[1])
        found = torch.zeros(len(written), size)
        for row, last in zip(found, written[:, -1].tolist(), strict=True):
            row[following.get(last, END)] = 1.0
        return found

    return logits, seen


def test_each_text_goes_on_until_its_end_and_is_padded_after_it():
    logits, seen = table({2: 5, 5: 6, 6: END, 3: END, PAD: 7})
    written = greedy(logits, torch.tensor([[2], [3]]), 10, end=END, pad=PAD)
    assert written.tolist() == [[5, 6, END], [END, PAD, PAD]]
    assert seen == [1, 2, 3]


def test_no_more_tokens_are_written_than_allowed():
    logits, _ = table({2: 3, 3: 2})
    assert greedy(logits, torch.tensor([[2]]), 4, end=END, pad=PAD).tolist() == [[3, 2, 3, 2]]


def test_what_was_given_is_read_and_not_returned():
    logits, seen = table({4: 5})
    assert greedy(logits, torch.tensor([[2, 3, 4]]), 1, end=END, pad=PAD).tolist() == [[5]]
    assert seen == [3]


def test_of_equal_logits_the_first_token_is_taken():
    assert greedy(lambda _: torch.zeros(1, 3), torch.tensor([[2]]), 2, end=END, pad=PAD).tolist() == [[0, 0]]
