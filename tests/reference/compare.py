"""Hold the peers' golden outputs against the independent float64 references and print where they part.

``python compare.py`` prints one line a case: the largest difference to the paper's arithmetic and to the restated
peer's arithmetic, with the tensor it occurs in. It fails if a float32 golden leaves the restated arithmetic by more
than ``TOLERANCE``: then the specification's account of that peer is wrong, or the golden file is.
"""

# ruff: noqa: T201

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).parent))

from compare_fusion_bench import fusion_bench_references
from compare_mergekit import mergekit_references
from compare_recipes import recipe_result
from independent_models import Array, named

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = 2e-6
TOLERANCES = {"wudi": 5e-6, "doge_ta": 2e-5}  # hundreds of float32 Adam steps
FREQUENCY_TOLERANCE = 0.05  # more than four standard errors of 2000 draws
# Where rounding, not a formula, decides what the peer gives.
UNSTABLE = {
    (
        "fusion_bench",
        "doge_ta",
        "subspace_1_K_30",
    ): "singular vectors of singular value 0 enter the shared basis: arbitrary",
    ("fusion_bench", "model_stock", "three"): "one.bias: mean angle of 120 degrees makes the denominator 1e-8",
    ("fusion_bench", "model_stock", "ignored"): "one.bias: mean angle of 120 degrees makes the denominator 1e-8",
    ("fusion_bench", "wudi", "zero_delta"): "frozen.weight: 0 / 0, the whole matrix is NaN",
}
State = dict[str, Array]
REFERENCES = {"mergekit": mergekit_references, "fusion_bench": fusion_bench_references}


class Row(NamedTuple):
    """One case of one peer: differences to the paper's and to the peer's own arithmetic (None: not defined)."""

    peer: str
    method: str
    case: str
    paper: tuple[float, str] | None
    compat: tuple[float, str] | None
    loose: bool
    note: str


def read(path: Path) -> tuple[State, dict[str, str]]:
    """Read a golden file as float64 arrays and its metadata."""
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key).double().numpy() for key in file.keys()}, file.metadata()  # noqa: SIM118


def grouped(tensors: State) -> dict[str, State]:
    """Split names at the first slash: model (or recipe) -> name -> array."""
    groups: dict[str, State] = {}
    for key, array in tensors.items():
        group, name = key.split("/", 1)
        groups.setdefault(group, {})[name] = array
    return groups


def inputs(precision: str) -> dict[str, State]:
    """Read the inputs as model -> name -> array."""
    return grouped(read(GOLDEN / f"inputs_{precision}.safetensors")[0])


def farthest(peer: State, reference: State | None) -> tuple[float, str] | None:
    """Return the largest difference and its tensor; NaN in the peer counts as infinite."""
    if not reference:
        return None
    worst = (0.0, "")
    for name, array in named(reference).items():
        if name not in peer:
            continue
        if array.shape != peer[name].shape:
            return float("inf"), f"{name}: shape {peer[name].shape} instead of {array.shape}"
        gap = float(np.nan_to_num(np.abs(array - peer[name]), nan=np.inf).max(initial=0.0))
        worst = max(worst, (gap, name), key=lambda item: item[0])
    return worst


def files() -> list[Path]:
    """Every golden file that holds one method of one peer."""
    return [path for peer in REFERENCES for path in sorted((GOLDEN / peer).glob("*.safetensors"))]


def rows(path: Path) -> Iterator[Row]:
    """Yield every case of one golden file."""
    peer, method = path.parent.name, path.stem
    tensors, metadata = read(path)
    for case, note in sorted(json.loads(metadata["cases"]).items()):
        refused = note.get("refused")
        words = "" if refused is None else f"refused: {list(refused) if isinstance(refused, dict) else refused}"
        result = {key[len(case) + 1 :]: t for key, t in tensors.items() if key.startswith(case + "/")}
        if not result:
            yield Row(peer, method, case, None, None, True, words)
            continue
        paper, compat = REFERENCES[peer](method, case, note, inputs(note["inputs"]), result)
        unstable = UNSTABLE.get((peer, method, case))
        loose = note["inputs"] == "bf16" or unstable is not None
        yield Row(peer, method, case, farthest(result, paper), farthest(result, compat), loose, unstable or words)


def recipe_rows() -> Iterator[Row]:
    """Yield every golden recipe."""
    models = grouped(read(GOLDEN / "mergekit_recipes" / "inputs.safetensors")[0])
    tensors, metadata = read(GOLDEN / "mergekit_recipes" / "outputs.safetensors")
    results = grouped(tensors)
    for name, text in json.loads(metadata["recipes"]).items():
        gap = farthest(results[name], recipe_result(yaml.safe_load(text), models))
        yield Row(
            "mergekit", "recipe", name, None, gap, "bfloat16" in text, "bfloat16 output" if "bfloat16" in text else ""
        )


def show(gap: tuple[float, str] | None) -> str:
    """Format a difference."""
    return "-" if gap is None else f"{gap[0]:.1e} {gap[1] if gap[0] > 1e-7 else ''}".strip()


def outside(row: Row) -> bool:
    """Say whether a case is farther from the restated peer (a frequency: from its expectation) than it may be."""
    if row.case == "frequency":
        return row.paper is None or row.paper[0] > FREQUENCY_TOLERANCE
    return row.compat is not None and not row.loose and not row.compat[0] <= TOLERANCES.get(row.method, TOLERANCE)


def main() -> int:
    """Print the table; return the number of cases outside the tolerance."""
    bad = 0
    print("| peer | method | case | to the paper's arithmetic | to the restated peer | note |")
    print("|---|---|---|---|---|---|")
    for row in (*(row for path in files() for row in rows(path)), *recipe_rows()):
        wrong = outside(row)
        bad += wrong
        mark = " **outside tolerance**" if wrong else ""
        print(f"| {row.peer} | {row.method} | {row.case} | {show(row.paper)} | {show(row.compat)}{mark} | {row.note} |")
    print(f"{bad} cases outside {TOLERANCE}")
    return bad


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
