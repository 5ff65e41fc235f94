"""Scores of answers that the harness's own metrics do not give; it imports this file by its place."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def mass_on_the_right(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """Return the right answer's share of the answers' probabilities, as TruthfulQA's mc2 (arXiv:2109.07958).

    Args:
        doc: with "label", the index of the right answer.
        results: (log-probability, whether it is the greedy one) of each answer.
    """
    probabilities = np.exp([score for score, _ in results])
    return {"acc": float(probabilities[doc["label"]] / probabilities.sum())}
