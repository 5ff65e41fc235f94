"""Names in checkpoints of models that consist of a body, which is fused, and a head, which belongs to a task."""

from collections.abc import Mapping

from fusionbench.weights.checks import is_buffer, modern
from fusionbench.weights.headers import TensorSpec


def names_in_body(specs: Mapping[str, TensorSpec], bodies: Mapping[str, str]) -> dict[str, str]:
    """Return the bare model's name of each of its tensors in a checkpoint; heads and masks are left out.

    Norms of the first BERT models' files, `LayerNorm.gamma` and `beta`, have the names of today.

    Args:
        specs: of the checkpoint: a bare model, or one with a head beside it.
        bodies: by model type, the prefix of the bare model where there is a head beside it.
    """
    body = next((prefix for prefix in bodies.values() if any(name.startswith(prefix) for name in specs)), "")
    return {
        name: modern(name.removeprefix(body))
        for name, spec in specs.items()
        if name.startswith(body) and not is_buffer(spec)
    }
