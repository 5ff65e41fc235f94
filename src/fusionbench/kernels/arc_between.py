"""The arc between two experts, or between what they changed: NuSLERP of whole tensors, as inner products and a sum."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fusionbench.errors import ConfigError
from fusionbench.kernels import Block, Kernel, Place, Scan, State, Visit
from fusionbench.kernels.angles import arc
from fusionbench.kernels.compiled_tiles import weighted_sum
from fusionbench.kernels.moments import products

Coefficients = Mapping[str, tuple[float, float]]


def share_between(weights: Sequence[float]) -> float:
    """Return t = w₂/(w₁+w₂), the share of the way from the first expert to the second.

    Raises:
        ConfigError: where there are not two experts, or their weights sum to zero.
    """
    if len(weights) != 2:
        raise ConfigError(f"nuslerp takes exactly two experts, got {len(weights)}; for more there is multislerp.")
    first, second = weights
    if abs(first + second) < 1e-6:
        raise ConfigError(
            f"method.weights {first} and {second} sum to zero: they give no share of the way between two."
        )
    return second / (first + second)


def _ends(inputs: Block) -> Block:
    """Return the experts' rows, less the base's where it is there; they are overwritten."""
    if len(inputs) == 3:
        np.subtract(inputs[1:], inputs[0], out=inputs[1:])
    return inputs[-2:]


def _arcs(scan: Scan, at: Mapping[str, Mapping[str, Any]], **parameters: Any) -> Coefficients:
    shares = {name: share_between(own["weights"]) for name, own in at.items()}

    def seen_from_base(visit: Visit, **_: Any) -> Iterator[State]:
        return scan(lambda state, place, inputs: visit(state, place, _ends(inputs)))

    return {
        name: arc(inner, shares[name], at[name]["zero_norm"], at[name]["straight"])
        for name, inner in products(seen_from_base).items()
    }


def _along(out: Block, base: None, inputs: Block, place: Place, prepared: Coefficients, **parameters: Any) -> None:
    """Fill `out` with the point on the arc, the base added where there is one."""
    weighted_sum(out, _ends(inputs), np.asarray(prepared[place[0]], np.float32))
    if len(inputs) == 3:
        np.add(inputs[0], out, out=out)


def _whole(parameters: dict[str, Any]) -> bool:
    return bool(parameters["mode"] == "flat")


ARC_BETWEEN = Kernel(_along, "models", prepare=_arcs, serves=_whole, compiled=True)
