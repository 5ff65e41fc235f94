"""Parts of a batch, weighed by what the loss is the mean of, give the loss of the whole batch."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from fusionbench.tasks.dense_kinds import KINDS
from fusionbench.tasks.terms import part_and_share, terms_in
from fusionbench.training import ALONE, Processes

PADDED = torch.tensor([[1, 2, -100, -100], [3, -100, -100, -100], [0, 1, 2, 3]])


def test_terms_by_hand():
    assert terms_in({"pixel_values": torch.zeros(5, 3)}) == 5
    assert terms_in({"x": torch.zeros(4), "labels": torch.tensor([0, 1, 0, 2])}) == 4
    assert terms_in({"labels": PADDED}) == 7
    assert terms_in({"labels": torch.tensor([[[0, -1], [3, 1]]])}) == 3
    assert terms_in({"labels": torch.tensor([[[0.0, 2.0], [0.5, 0.0]]])}) == 2
    normals = torch.zeros(1, 2, 2, 3)
    normals[0, 0, 1] = torch.tensor([0.0, 0.0, -1.0])
    assert terms_in({"labels": normals}) == 1


def test_tokens_of_texts_count_and_not_texts():
    batch = {"labels": PADDED}
    parts = [part_and_share(Processes(rank, 2), batch) for rank in range(2)]
    assert [len(part["labels"]) for part, _ in parts] == [1, 2]
    assert [share for _, share in parts] == [2 / 7, 5 / 7]
    assert part_and_share(ALONE, batch) == (batch, 1.0)


def loss_of(kind: str, maps: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    if kind == "text":
        return cross_entropy(maps.flatten(0, 1), labels.flatten(), ignore_index=-100)
    return KINDS[kind].loss(maps, labels)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("kind", ["text", *KINDS])
def test_the_parts_losses_add_up_to_the_loss(kind: str, count: int):
    generator = torch.Generator().manual_seed(0)
    shape = {"text": (5, 4, 6), "segmentation": (5, 3, 4, 4), "depth": (5, 1, 4, 4), "normals": (5, 3, 4, 4)}[kind]
    maps = torch.randn(shape, generator=generator, dtype=torch.float64)
    known = torch.rand(5, 4, 4, generator=generator) > torch.linspace(0.1, 0.9, 5)[:, None, None]
    labels = {
        "text": torch.where(known[:, 0], 2, -100),
        "segmentation": torch.where(known, 1, -1),
        "depth": known.double() * 3,
        "normals": known[..., None].double() * torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64),
    }[kind]
    batch = {"maps": maps, "labels": labels}
    parts = [part_and_share(Processes(rank, count), batch) for rank in range(count)]
    total = sum(share * loss_of(kind, part["maps"], part["labels"]) for part, share in parts if share)
    torch.testing.assert_close(total, loss_of(kind, maps, labels))
