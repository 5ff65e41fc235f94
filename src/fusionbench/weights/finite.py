"""What is said of entries that are not finite, and of results that their kind cannot hold. No torch here."""

import numpy as np

from fusionbench.errors import NotFinite
from fusionbench.weights.headers import WORDS, TensorSpec


def bad_input(label: str, spec: TensorSpec, index: int, value: object) -> NotFinite:
    """Return the error for the entry at a flat index of a model's tensor."""
    place = ", ".join(str(i) for i in np.unravel_index(index, spec.shape))
    return NotFinite(f"{label}: {spec.name} holds {value} at [{place}]. Nothing was written.")


def bad_result(output: TensorSpec, *, finite: bool) -> NotFinite:
    """Return the error for a result that holds NaN or Inf, or that is `finite` and beyond what its kind can hold."""
    if not finite:
        return NotFinite(f"The result for {output.name} holds NaN or Inf. Nothing was written.")
    word = {kind: word for word, kind in WORDS.items()}[output.dtype]
    return NotFinite(
        f"The result for {output.name} holds numbers too large for {word}. Nothing was written. "
        "Choose a wider output.dtype, such as float32."
    )
