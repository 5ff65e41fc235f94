"""Make the golden files again with the peers' own interpreters, and hold them against the stored ones.

Run: ``python tests/reference/remake.py PEERS``. PEERS is a folder with an environment ``mk`` (mergekit 0.1.5), one
called ``fb`` (fusion-bench 0.2.33, which brings hydra-core 1.3.8), and, if there is one, ``ps``, whose Python imports
promptsource 0.2.3. The scripts run in a copy of this folder, so that nothing stored is changed. A file that differs is
told with the first tensor or key that does, and the exit code is 1.
"""

# ruff: noqa: T201

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORDINGS = Path("src", "fusionbench", "presets", "wordings")
TOLERANCE = 1e-5
"""Of another processor's sums; on one machine the peers give the same bytes again."""
UNORDERED = "mergekit_vocabulary.safetensors"
"""mergekit numbers the new tokens of a union in the order of a hash map: rows are compared in an order of our own."""
SCRIPTS = {
    "mk": (
        "make_mergekit_goldens", "make_mergekit_recipe_goldens", "make_mergekit_more_recipes", "make_mergekit_names",
        "make_mergekit_vocabulary_goldens",
    ),
    "fb": (
        "make_fusion_bench_goldens", "make_fusion_bench_adaptation_goldens", "make_fusion_bench_statistics_goldens",
        "make_hydra_overrides",
    ),
    "ps": ("make_promptsource_wordings",),
}  # fmt: skip
OPTIONAL = "ps"


def difference(stored: Path, made: Path) -> str | None:
    """Return where two files differ, None where they say the same."""
    if not made.is_file():
        return "was not made"
    if stored.read_bytes() == made.read_bytes():
        return None
    if stored.suffix != ".safetensors":
        return "has other text" if stored.suffix != ".json" else _of_documents(stored, made)
    before, after = load_file(stored), load_file(made)
    if before.keys() != after.keys():
        return f"has other tensors: {sorted(before.keys() ^ after.keys())[:3]}"
    for name, tensor in before.items():
        why = _of_tensors(tensor, after[name], rows=stored.name == UNORDERED)
        if why is not None:
            return f"{name} {why}"
    return None


def _of_documents(stored: Path, made: Path) -> str | None:
    before, after = json.loads(stored.read_text()), json.loads(made.read_text())
    if before == after:
        return None
    keys = [key for key in before if key not in after or before[key] != after[key]] if isinstance(before, dict) else []
    return f"has another value of {keys[:1] or 'its list'}"


def _of_tensors(stored: Tensor, made: Tensor, *, rows: bool) -> str | None:
    if (stored.shape, stored.dtype) != (made.shape, made.dtype):
        return f"is {made.dtype} {tuple(made.shape)}, not {stored.dtype} {tuple(stored.shape)}"
    before, after = (tensor.to(torch.float64).numpy() for tensor in (stored, made))
    if rows and before.ndim == 2:
        before, after = (table[np.lexsort(table.T[::-1])] for table in (before, after))
    if np.allclose(before, after, rtol=0, atol=TOLERANCE, equal_nan=True):
        return None
    return f"is off by {np.nanmax(np.abs(before - after)):.2g}"


def made_again(place: Path, peers: Path) -> list[str]:
    """Run every script in a copy of this folder; return what failed.

    Args:
        place: the root of the copy, empty.
        peers: the environments.
    """
    copy = place / "tests" / "reference"
    shutil.copytree(HERE, copy, ignore=shutil.ignore_patterns("__pycache__", "golden"))
    shutil.copytree(HERE / "golden", copy / "golden")
    shutil.copyfile(HERE.parent / "test_overrides.py", copy.parent / "test_overrides.py")
    shutil.copytree(ROOT / WORDINGS, place / WORDINGS)
    # The inputs stay; what the scripts write must be theirs.
    for path in (copy / "golden").rglob("*.*"):
        if path.is_file() and not path.name.startswith("inputs"):
            path.unlink()
    given = {name: scripts for name, scripts in SCRIPTS.items() if name != OPTIONAL or (peers / name).is_dir()}
    runs = [(peers / name / "bin" / "python", script) for name, scripts in given.items() for script in scripts]
    return [why for run in runs if (why := _failure(copy, *run)) is not None]


def _failure(copy: Path, python: Path, script: str) -> str | None:
    print(f"{python} {script}.py", flush=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    if not python.is_file():
        return f"{script}: there is no {python}"
    command = [str(python.absolute()), f"{script}.py"]
    ended = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    return None if ended.returncode == 0 else f"{script} failed:\n{ended.stderr[-2000:]}"


def main() -> None:
    """Make all, compare all, and end with 1 where something differs."""
    peers = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    if peers is None or not peers.is_dir():
        sys.exit(f"{__doc__}\nGive a folder of environments; {peers} is none.")
    with TemporaryDirectory() as folder:
        place = Path(folder)
        wrong = made_again(place, peers)
        pairs = [(path, place / path.relative_to(ROOT)) for path in sorted((HERE / "golden").rglob("*.*"))]
        if (peers / OPTIONAL).is_dir():
            pairs += [(path, place / path.relative_to(ROOT)) for path in sorted((ROOT / WORDINGS).glob("*.yaml"))]
        else:
            print(f"left out: promptsource.json and the wordings, since {peers} has no {OPTIONAL}")
            pairs = [pair for pair in pairs if pair[0].name != "promptsource.json"]
        found = {path: difference(path, made) for path, made in pairs}
        wrong += [f"{path.relative_to(ROOT)}: {why}" for path, why in found.items() if why is not None]
        same = sum(path.read_bytes() == made.read_bytes() for path, made in pairs if made.is_file())
    print(f"{len(found)} files: {same} the same to the byte, {len(wrong)} differ")
    sys.exit("\n".join(wrong) or 0)


if __name__ == "__main__":
    main()
