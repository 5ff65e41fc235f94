"""`mini/clip`: a small CLIP, eight image tasks, eight experts, and one model trained on all of them.

It is built once a size and seed and kept in the cache. What it is and is not: docs/suites-mini-clip.md. No torch here
until something is built.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusionbench.cache import cache_folder
from fusionbench.errors import ConfigError
from fusionbench.registry import suggestion
from fusionbench.suites.building import build_once
from fusionbench.suites.load import load_suite
from fusionbench.suites.mini.recipe import MiniClipRecipe, recipes
from fusionbench.suites.model import ResolvedSuite
from fusionbench.suites.registration import Progress, suite

NAME = "mini/clip"
VERSION = 1
"""Raised by whoever changes what the same recipe builds, the images' code included."""
MANIFEST = "manifest.json"


@suite(NAME, version=VERSION, method_defaults=recipes()[1])
def mini_clip(*, size: str, seed: int, progress: Progress | None) -> ResolvedSuite:
    """Eight small image tasks, real and rendered, and a CLIP of two towers trained here; needs no network.

    Args:
        size: "tiny" for tests, "small", or "large".
        seed: of images, captions, weights and batches.
        progress: told how a build goes on.

    Raises:
        ConfigError: where there is no such size.
        Interrupted: on Ctrl-C; what was finished is kept, and the same call goes on.
    """
    sizes, method_defaults = recipes()
    if size not in sizes:
        raise ConfigError(f"The suite {NAME} has no size {size!r}. {suggestion(size, list(sizes))}")
    recipe = sizes[size]
    folder = cache_folder("suites", "mini-clip") / f"{size}-{seed}-{_key(recipe, size, seed)}"

    def make(working: Path) -> None:
        from fusionbench.suites.mini.build import build

        build(working, recipe, seed=seed, progress=progress, about={"name": NAME, "version": VERSION, "size": size})

    build_once(folder, make)
    manifest = json.loads((folder / MANIFEST).read_text())
    found = load_suite(folder / "suite.yaml").suite
    described = found.model_copy(update={"method_defaults": method_defaults})
    return ResolvedSuite(described, size, seed, manifest["build"], tuple(manifest["notes"]))


def _key(recipe: MiniClipRecipe, size: str, seed: int) -> str:
    """Return what names the build's folder before its images are made: all that decides them."""
    arrays = Path(__file__).resolve().parents[1] / "data"
    inputs = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(arrays.glob("*.npz"))}
    return digest({"version": VERSION, "size": size, "seed": seed, "recipe": recipe.model_dump(), "arrays": inputs})[
        :12
    ]


def digest(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 of plain data, as canonical JSON."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
