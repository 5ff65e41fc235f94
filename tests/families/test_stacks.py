"""Blocks and linear maps by the names of the lists that they stand in."""

import pytest
from torch import nn

from fusionbench.families.stacks import blocks_in, linears_in


@pytest.fixture
def module() -> nn.Module:
    def block() -> nn.Module:
        return nn.ModuleDict({"up": nn.Linear(2, 3), "norm": nn.LayerNorm(2), "down": nn.Linear(3, 2)})

    lists = {name: nn.ModuleList([block() for _ in range(11)]) for name in ("first", "second")}
    return nn.ModuleDict({"stacks": nn.ModuleDict(lists), "head": nn.Linear(2, 2)})


def test_blocks_are_named_list_by_list_in_order_of_depth(module: nn.Module) -> None:
    expected = [f"stacks.{name}.{number}" for name in ("second", "first") for number in range(11)]
    assert blocks_in(module, "stacks.second", "stacks.first") == expected


def test_linear_maps_below_a_part_have_their_full_names(module: nn.Module) -> None:
    found = list(linears_in(module, "stacks.first.10"))
    assert [site.name for site in found] == ["stacks.first.10.up", "stacks.first.10.down"]
    assert all(site.inputs_last and site.module is module.get_submodule(site.name) for site in found)


def test_without_a_part_all_linear_maps_are_found_once() -> None:
    module = nn.ModuleDict({"body": nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "head": nn.Linear(2, 1)})
    assert [site.name for site in linears_in(module)] == ["body.0", "head"]
