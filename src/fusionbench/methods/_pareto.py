"""Preferences over tasks: points of the simplex, and how a preference weighs the tasks' losses."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fusionbench.errors import ConfigError

Array = NDArray[np.float64]
BALANCED = 1e-4
"""Divergence from which the losses count as out of proportion (EPO's default)."""
TINY = np.finfo(np.float64).eps
LARGEST_GRID = 500
"""Models that one run may evaluate."""
SLACK = 1e-3
"""How far from 1 the sum of a preference may be: thirds are typed with three digits."""


def simplex_grid(count: int, points: int) -> list[tuple[float, ...]]:
    """Return every preference with entries k / (points − 1), in ascending order of the entries.

    Args:
        count: entries of a preference, T.
        points: of each edge of the simplex, 2 or more; there are C(points + T − 2, T − 1) in all.

    Raises:
        ConfigError: where they are more than one run may evaluate.
    """
    steps = points - 1
    number = math.comb(steps + count - 1, count - 1)
    if number > LARGEST_GRID:
        raise ConfigError(
            f"method.grid={points} makes {number} preferences over {count} experts; at most {LARGEST_GRID} are "
            "evaluated in a run. Lower it."
        )
    bars = itertools.combinations(range(steps + count - 1), count - 1)
    sizes = (np.diff([-1, *places, steps + count - 1]) - 1 for places in bars)
    return [tuple(float(size) / steps for size in parts) for parts in sizes]


def on_simplex(
    preference: Sequence[float], experts: Sequence[str], key: str = "method.preference"
) -> tuple[float, ...]:
    """Return a preference divided by its sum.

    Args:
        preference: one weight an expert, none negative, that sum to 1.
        experts: their names.
        key: what the preference was given as, for messages.

    Raises:
        ConfigError: where it has another length, or is off the simplex.
    """
    said = f"{key}={list(preference)}"
    numbers = [item for item in preference if isinstance(item, int | float) and not isinstance(item, bool)]
    if len(preference) != len(experts) or len(numbers) != len(preference):
        raise ConfigError(f"{said}: expected {len(experts)} numbers, one an expert: {', '.join(experts)}.")
    total = math.fsum(numbers)
    if not (min(numbers) >= 0 and abs(total - 1) <= SLACK):
        raise ConfigError(
            f"{said} sums to {total:g} and its smallest entry is {min(numbers):g}: a preference has no negative entry "
            "and sums to 1."
        )
    return tuple(number / total for number in numbers)


def exact_pareto_weights(ray: Array, losses: Array, gram: Array) -> Array:
    """Return the weights α of the losses' gradients, on the simplex, of exact Pareto optimal search (EPO).

    With ℓ = r∘L, p = ℓ/Σℓ, μ = Σ p·ln(T·p), a = r∘(ln(T·p) − μ) and C the Gram matrix of the gradients: while μ is
    above 10⁻⁴, α maximises αᵀCa with (Cα)ⱼ ≥ 0 for the largest ℓ and ≥ (Ca)ⱼ where that is not positive; else α
    maximises Σ (Cα)ⱼ with αᵀCa ≥ min(max Ca, 0) and Cα ≥ 0 (Mahapatra & Rajan 2020, as arXiv:2406.09770 uses it). A
    programme that decides nothing or has no solution gives r/Σr.

    Args:
        ray: r, `(tasks,)`, on the simplex.
        losses: L, `(tasks,)`, not negative.
        gram: C, `(tasks, tasks)`.
    """
    from scipy.optimize import linprog

    count = len(ray)
    weighed = ray * losses
    shares = weighed / max(weighed.sum(), TINY)
    logs = np.log(np.maximum(count * shares, TINY))
    divergence = float((shares * logs)[shares > TINY].sum())
    # The programme does not change with the gradients' length, and the solver's tolerances are absolute.
    gram = gram / max(np.abs(gram).max(), TINY)
    pull = gram @ (ray * (logs - divergence))
    if divergence > BALANCED and np.abs(pull).max() <= TINY:
        return np.asarray(ray / ray.sum(), dtype=np.float64)
    if divergence > BALANCED:
        bound = np.where(pull > 0, -np.inf, pull)
        bound[weighed == weighed.max()] = 0.0
        bound = bound if (pull > 0).any() else np.zeros(count)
        aim, matrix = pull, gram
    else:
        aim, matrix = gram.sum(axis=0), np.vstack([gram, pull])
        bound = np.append(np.zeros(count), min(pull.max(), 0.0))
    held = np.isfinite(bound)
    found = linprog(-aim, -matrix[held], -bound[held], np.ones((1, count)), [1.0], method="highs")
    weights: Array = np.maximum(found.x, 0.0) if found.success else ray
    return np.asarray(weights / weights.sum(), dtype=np.float64)
