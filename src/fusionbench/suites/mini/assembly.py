"""What all suites that are built here share: recipes by size, a folder in the cache, a build id. No torch here.

A suite brings its parts (data, tasks, the pretraining of its base) as `Parts` in a module of its own, which is imported
only where something has to be built.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

from fusionbench.cache import cache_folder
from fusionbench.config import Config, read_document
from fusionbench.errors import ConfigError
from fusionbench.finetune.recipe import FinetuneRecipe, Tuning
from fusionbench.registry import load_attribute, suggestion
from fusionbench.suites.building import build_once
from fusionbench.suites.load import load_suite
from fusionbench.suites.model import ResolvedSuite
from fusionbench.suites.registration import Progress

if TYPE_CHECKING:
    from fusionbench.training import Loop

MANIFEST = "manifest.json"
PRESETS = Path(__file__).resolve().parents[2] / "presets" / "suite"


class MiniRecipe(Config):
    """What the recipe of every such suite says; a suite adds what its data and its base are made of."""

    experts: FinetuneRecipe
    mtl: FinetuneRecipe


R = TypeVar("R", bound=MiniRecipe)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a suite brings to its build; `recipe` is always that of the size.

    Attributes:
        data: `(folder, recipe, seed, progress)`: writes the data of all tasks.
        describe: `(data folder) -> {task: description}`: as in a suite's YAML, paths relative to the suite's folder
            (the data are in `./data`).
        pretrain: `(folder, data folder, recipe, seed, loop)`: writes the base in Hugging Face form; it trains by
            `loop.run("pretraining", …)`, whose curve is kept.
        digests: `(data folder) -> ` a digest of each part of the data, plain data that go into the build id.
        notes: `(data folder) -> ` what a report should say of the suite.
        family: of its models.
        trained_heads: whether the tasks' heads come with the experts, so that the experts are trained first.
        tuning: "full", or which adapter the experts are.
        unseen: those of the tasks that no expert is trained on.
    """

    data: Callable[[Path, Any, int, Progress | None], None]
    describe: Callable[[Path], Mapping[str, Mapping[str, Any]]]
    pretrain: Callable[[Path, Path, Any, int, "Loop"], None]
    digests: Callable[[Path], Mapping[str, Any]]
    notes: Callable[[Path], Sequence[str]]
    family: str
    trained_heads: bool = False
    tuning: Tuning = "full"
    unseen: tuple[str, ...] = ()


def read_recipes(name: str, kind: type[R]) -> tuple[dict[str, R], dict[str, dict[str, Any]]]:
    """Return the recipe of each size of a suite, and the parameters of methods that suit it, by method.

    Both are in `presets/suite/<name>.yaml`, as `sizes` and `method_defaults`.
    """
    preset = PRESETS / f"{name}.yaml"
    document = read_document(preset)
    sizes = {size: kind.read(recipe, f"{preset.name}, size {size}") for size, recipe in document["sizes"].items()}
    return sizes, document.get("method_defaults", {})


def built_here(
    name: str,
    version: int,
    recipes: tuple[Mapping[str, MiniRecipe], Mapping[str, Mapping[str, Any]]],
    parts: str,
    *,
    size: str,
    seed: int,
    progress: Progress | None,
    inputs: Mapping[str, str],
) -> ResolvedSuite:
    """Return a suite from the cache, where it is built if it is not there.

    Args:
        name: of the suite, such as "mini/clip".
        version: raised by whoever changes what the same recipe builds.
        recipes: by size, and the parameters of methods, as `read_recipes` gives them.
        parts: where its `Parts` are, `module:attribute`.
        size: which recipe.
        seed: of data, weights and batches.
        progress: told how a build goes on.
        inputs: digests of what the package itself brings to the data, by name.

    Raises:
        ConfigError: where there is no such size.
        Interrupted: on Ctrl-C; what was finished is kept, and the same call goes on.
    """
    sizes, method_defaults = recipes
    if size not in sizes:
        raise ConfigError(f"The suite {name} has no size {size!r}. {suggestion(size, list(sizes))}")
    recipe = sizes[size]
    about = {"name": name, "version": version, "size": size}
    key = build_key(recipe, version, size, seed, inputs)
    folder = cache_folder("suites", name.replace("/", "-")) / f"{size}-{seed}-{key}"

    def make(working: Path) -> None:
        from fusionbench.suites.mini.build import build

        build(working, load_attribute(parts), recipe, seed=seed, progress=progress, about=about)

    there, before = folder.is_dir(), perf_counter()
    build_once(folder, make)
    building = 0.0 if there else perf_counter() - before
    manifest = json.loads((folder / MANIFEST).read_text())
    suite = load_suite(folder / "suite.yaml").suite
    described = suite.model_copy(update={"method_defaults": {key: dict(of) for key, of in method_defaults.items()}})
    return ResolvedSuite(described, size, seed, manifest["build"], tuple(manifest["notes"]), building)


def build_key(recipe: MiniRecipe, version: int, size: str, seed: int, inputs: Mapping[str, str]) -> str:
    """Return what names a build's folder before its data are made: all that decides them."""
    asked = {"version": version, "size": size, "seed": seed, "recipe": recipe.model_dump(), "arrays": dict(inputs)}
    return digest(asked)[:12]


def digest(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 of plain data, as canonical JSON."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digest_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
