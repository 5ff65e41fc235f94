"""How much memory a job of a method's torch function takes, from what the method says of itself. No torch here."""

from collections.abc import Mapping
from typing import Any

from fusionbench.kernels.tiles import BLOCK
from fusionbench.registry import Entry, Workspace, methods
from fusionbench.weights.plan import Plan, Step

KEPT = 1.2
"""What the system's allocator keeps of freed memory, by what is in use; measured on matrices of 1000 × 1000."""


def bytes_at_work(plan: Plan, method: Entry, values: Mapping[str, Any]) -> int:
    """Return the bytes that the largest job of a method's torch function takes, inputs and result among them.

    Args:
        plan: what each output is made of.
        method: a stream method's entry.
        values: its parameters; a method that is given as `inner` takes its own room beside it.
    """
    needed = [method.workspace]
    inner = values.get("inner")
    if isinstance(inner, Mapping):
        needed.append(methods[inner["name"]].workspace)
    based = method.base != "unused"
    steps = [step for step in plan if step.action == "merge"]
    found = [_inputs(step, method.unit, based) + sum(_beside(w, step, method.unit) for w in needed) for step in steps]
    return max((_item(step) * int(KEPT * copies) for step, copies in zip(steps, found, strict=True)), default=0)


def _inputs(step: Step, unit: str, based: bool) -> int:
    """Return the entries of all that a job reads."""
    models = len(step.experts) + int(based and step.base is not None)
    return models * _entries(step.output.size, unit) + sum(place.spec.size for place in step.statistics)


def _beside(workspace: Workspace, step: Step, unit: str) -> float:
    """Return the entries that a job holds beside its inputs, in the precision that it works in."""
    experts, held = len(step.experts), _entries(step.held, unit)
    whole = (workspace.fixed + workspace.each * experts) * held
    blocks = workspace.blocks * experts * min(held, BLOCK)
    shape = step.output.shape
    if not workspace.side or len(shape) != 2 or not (step.site.role == "matrix" or step.parameters.get("embeddings")):
        return whole + blocks
    inputs = shape[-1] if step.site.inputs_last else shape[0]
    return whole + blocks + workspace.squares * (inputs if workspace.side == "inputs" else max(shape)) ** 2


def _entries(size: int, unit: str) -> int:
    return min(size, BLOCK) if unit == "element" else size


def _item(step: Step) -> int:
    """Return the bytes of an entry: methods work in the output's double precision, else in float32."""
    return 8 if step.output.dtype == "F64" else 4
