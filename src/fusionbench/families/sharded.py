"""A module whose tensors lie in parts in several processes, by FSDP2: no process ever reads or holds all of them.

The architecture is made without memory, its blocks are sharded by PyTorch's `fully_shard`, and each process reads from
the checkpoint the rows of each tensor that are its own. A forward pass brings one block together at a time.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from fusionbench.errors import CheckpointError, ConfigError, IncompatibleModels
from fusionbench.families.base import Family, HasParts
from fusionbench.training import Processes
from fusionbench.weights.headers import Source, TensorSpec
from fusionbench.weights.safetensors import SafetensorsSource
from fusionbench.weights.tensors import as_tensor

SHOWN = 5


def load_sharded(family: Family, source: Source, processes: Processes) -> nn.Module:
    """Return the family's module of a checkpoint in eval mode, the rows of each tensor divided over processes.

    All processes call it, and run the module together, on the same inputs. Numbers keep the kind they are stored in.

    Args:
        family: one that names its blocks, such as that of causal language models.
        source: the checkpoint, which every process can open.
        processes: that share the tensors; at least two.

    Raises:
        ConfigError: where there is one process, or the family names no blocks.
        CheckpointError: where there is no configuration.
        IncompatibleModels: with tensors that are missing, extra or of another shape.
    """
    from torch.distributed.fsdp import fully_shard

    if processes.count == 1 or not isinstance(family, HasParts):
        raise ConfigError(
            f"{source.label}: tensors are divided over several processes, by blocks; here are {processes.count} "
            f"processes, and the family is {family.name!r}. Start more with torchrun, or load the model whole."
        )
    if not source.config:
        raise CheckpointError(f"{source.label} has no config.json, so its module cannot be built.")
    module = family.skeleton(source.config)
    # Shared tensors have to be one before they are divided.
    tie = getattr(module, "tie_weights", None)
    if tie is not None:
        tie()
    mesh = _mesh(processes)
    for name in family.blocks(module):
        fully_shard(module.get_submodule(name), mesh=mesh)
    fully_shard(module, mesh=mesh)
    _fill(module, family, source, processes, mesh)
    return module


def _mesh(processes: Processes) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    place = torch.accelerator.current_accelerator(check_available=True)
    return init_device_mesh("cpu" if place is None else place.type, (processes.count,))


def _fill(module: nn.Module, family: Family, source: Source, processes: Processes, mesh: Any) -> None:
    """Read this process's rows of every tensor, and put them in the place of the module's."""
    held, names = module.state_dict(keep_vars=True), family.names(source.specs)
    problems = [
        f"{name} {list(source.specs[name].shape)} has no such place in the module"
        for name, own in names.items()
        if own not in held or tuple(held[own].shape) != source.specs[name].shape
    ]
    filled: dict[int, nn.Parameter] = {}
    for name, own in names.items() if not problems else ():
        rows = _own_rows(source, source.specs[name], processes, mesh)
        filled[id(held[own])] = nn.Parameter(rows, requires_grad=False)
    problems += [f"{own} is missing" for own, t in held.items() if isinstance(t, DTensor) and id(t) not in filled]
    if problems:
        more = f" … and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise IncompatibleModels(
            f"The weights of {source.label} do not fit the module of the family {family.name!r}: "
            f"{'; '.join(problems[:SHOWN])}{more}. Use the configuration that belongs to these weights."
        )
    parts = {own: filled[id(tensor)] for own, tensor in held.items() if id(tensor) in filled}
    module.load_state_dict(parts, strict=False, assign=True)


def rows_of_process(rows: int, processes: Processes) -> tuple[int, int]:
    """Return the first row of a tensor that is this process's, and the first that is not: ⌈rows / processes⌉ each.

    Of few rows the last processes have fewer or none.
    """
    each = -(-rows // processes.count)
    return min(processes.rank * each, rows), min((processes.rank + 1) * each, rows)


def _own_rows(source: Source, spec: TensorSpec, processes: Processes, mesh: Any) -> DTensor:
    first, last = rows_of_process(spec.shape[0], processes)
    width = torch.Size(spec.shape[1:]).numel()
    local = as_tensor(source.read(spec.name, first * width, last * width), spec.dtype, (last - first, *spec.shape[1:]))
    if isinstance(source, SafetensorsSource):
        source.let_go(spec.name)
    whole = torch.empty(spec.shape, device="meta")
    return DTensor.from_local(
        local.to(mesh.device_type), mesh, [Shard(0)], run_check=False, shape=whole.shape, stride=whole.stride()
    )


def whole_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the module's tensors by name, each brought together on the CPU when its turn comes, to be written.

    All processes go through it together; a tensor that stands under two names is yielded under both.
    """
    for name, tensor in module.state_dict().items():
        yield name, (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu()
