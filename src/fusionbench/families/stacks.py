"""Blocks and linear maps of modules that keep their blocks in lists: what the names of the lists say."""

from collections.abc import Iterator

from torch import nn

from fusionbench.families.base import LinearSite


def blocks_in(module: nn.Module, *stacks: str) -> list[str]:
    """Return the full names of the blocks that stand in lists of a module, list by list, in order of depth."""
    return [f"{stack}.{name}" for stack in stacks for name, _ in module.get_submodule(stack).named_children()]


def linears_in(module: nn.Module, stack: str = "") -> Iterator[LinearSite]:
    """Yield the linear maps below a part of a module, in the module's order; without a name those of all of it."""
    for name, site in module.get_submodule(stack).named_modules(prefix=stack):
        if isinstance(site, nn.Linear):
            yield LinearSite(name, site)
