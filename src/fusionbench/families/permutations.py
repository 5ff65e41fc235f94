"""Groups of axes that one permutation moves, read off a module: attention heads, hidden units, channels, streams."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from torch import nn

from fusionbench.families.base import Permutation

Axes = tuple[tuple[str, int], ...]


class Block(NamedTuple):
    """What makes units and what reads them, by names below a part of the module; a part that lacks one is passed over.

    Attributes:
        made: linear maps whose outputs are the units; the first one's say how many there are.
        read: the linear map that reads them.
        units: attention heads, each with a block of entries; None where every output is a unit.
        runs: how many rows of units lie one after the other in `made`: 3 for GPT-2's queries, keys and values.
    """

    made: tuple[str, ...]
    read: str
    units: int | None = None
    runs: int = 1


def block_groups(module: nn.Module, blocks: Sequence[Block], *, inputs_last: bool = True) -> Iterator[Permutation]:
    """Yield a group for each place of the module where all maps of a block are."""
    named = dict(module.named_modules())
    for prefix in named:
        for block in blocks:
            made = [_join(prefix, name) for name in block.made]
            read = _join(prefix, block.read)
            if not all(name in named for name in (*made, read)):
                continue
            weight = named[made[0]].weight
            units = block.units or int(weight.shape[0 if inputs_last else 1])
            produced = outputs(named, made, inputs_last=inputs_last)
            runs = {name: block.runs for name, _ in produced} if block.runs > 1 else {}
            yield Permutation(made[0], units, read, produced, ((f"{read}.weight", 1 if inputs_last else 0),), runs)


def outputs(named: Mapping[str, nn.Module], names: Iterable[str], *, inputs_last: bool = True) -> Axes:
    """Return the axes of what linear maps, convolutions or norms make: rows of weights, biases, statistics."""
    found = []
    for name in names:
        held = {*dict(named[name].named_parameters(recurse=False)), *dict(named[name].named_buffers(recurse=False))}
        weight = named[name].weight
        found += [(f"{name}.weight", 0 if inputs_last or weight.dim() == 1 else 1)] if "weight" in held else []  # type: ignore[operator]
        found += [(f"{name}.{kind}", 0) for kind in ("bias", "running_mean", "running_var") if kind in held]
    return tuple(found)


def stream_group(
    module: nn.Module, site: str, *, tables: Sequence[str], norms: Sequence[str], write: Sequence[str],
    read: Sequence[str], tied: bool = False,
) -> Permutation:  # fmt: skip
    """Return the group of a residual stream's entries.

    Args:
        module: of the family.
        site: a map that reads the stream.
        tables: embeddings that begin it, by full name.
        norms: ends of the names of norms in it.
        write: ends of the names of linear maps whose outputs are added to it.
        read: ends of the names of linear maps that read it.
        tied: whether `site` is one of the tables; else it is one more that reads.
    """
    named = dict(module.named_modules())

    def ending(ends: Sequence[str]) -> list[str]:
        return [name for name in named if name.endswith(tuple(ends)) and hasattr(named[name], "weight")]

    produced = (*((f"{name}.weight", 1) for name in tables), *outputs(named, [*ending(norms), *ending(write)]))
    readers = dict.fromkeys((*ending(read), *(() if tied else (site,))))
    units = int(named[tables[0]].weight.shape[1])
    return Permutation("stream", units, site, produced, tuple((f"{name}.weight", 1) for name in readers))


def residual_channels(module: nn.Module) -> list[Permutation]:
    """Return the channels of a ResNet of transformers: inside each block, and those that go from block to block.

    What the last stage gives stays in its order, since heads that are not fused read it.
    """
    named = dict(module.named_modules())
    stream = _Stream("embedder.embedder", ["embedder.embedder"], [])
    found: list[Permutation] = []
    done: list[_Stream] = []
    for stage in _numbered(named, "encoder.stages"):
        for block in _numbered(named, f"{stage}.layers"):
            convolutions = _numbered(named, f"{block}.layer")
            shortcut = f"{block}.shortcut"
            stream.readers.append(convolutions[0])
            if f"{shortcut}.convolution" in named:
                stream.readers.append(shortcut)
                done.append(stream)
                stream = _Stream(block, [shortcut, convolutions[-1]], [])
            else:
                stream.writers.append(convolutions[-1])
            found += [_channels(named, one, [one], [other]) for one, other in pairwise(convolutions)]
    return found + [_channels(named, one.name, one.writers, one.readers) for one in done]


class _Stream(NamedTuple):
    name: str
    writers: list[str]
    readers: list[str]


def _channels(named: Mapping[str, nn.Module], name: str, writers: Sequence[str], readers: Sequence[str]) -> Permutation:
    layers = [f"{writer}.{part}" for writer in writers for part in ("convolution", "normalization")]
    units = len(named[layers[0]].weight)  # type: ignore[arg-type]
    reads = tuple((f"{reader}.convolution.weight", 1) for reader in readers)
    return Permutation(name, units, f"{readers[0]}.convolution", outputs(named, layers), reads)


def _numbered(named: Mapping[str, nn.Module], prefix: str) -> list[str]:
    """Return a module list's members by full name, in order."""
    found = [name for name in named if name.startswith(f"{prefix}.") and name.removeprefix(f"{prefix}.").isdigit()]
    return sorted(found, key=lambda name: int(name.rpartition(".")[2]))


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
