"""`mini/t5` and `mini/t5_lora`: a small T5, eight text-to-text tasks with the papers' prompts, and their experts.

Each is built once a size and seed and kept in the cache. What they are and are not: docs/suites-mini-t5.md. No torch
here until something is built.
"""

from fusionbench.suites.mini.assembly import build_key, built_here
from fusionbench.suites.mini.t5_recipe import LORA_NAME, NAME, lora_recipes, recipes
from fusionbench.suites.model import ResolvedSuite
from fusionbench.suites.registration import Progress, suite

VERSION = 1
"""Raised by whoever changes what the same recipe builds, the code of the texts included."""
PARTS = "fusionbench.suites.mini.t5_parts:PARTS"
LORA_PARTS = "fusionbench.suites.mini.t5_parts:LORA_PARTS"


@suite(NAME, version=VERSION, method_defaults=recipes()[1])
def mini_t5(*, size: str, seed: int, progress: Progress | None) -> ResolvedSuite:
    """Eight generated tasks in GLUE's columns with Flan-T5's prompts, and a T5 trained here; needs no network.

    Args:
        size: "tiny" for tests, "small", or "large": a wider and deeper model.
        seed: of texts, weights and batches.
        progress: told how a build goes on.

    Raises:
        ConfigError: where there is no such size.
        Interrupted: on Ctrl-C; what was finished is kept, and the same call goes on.
    """
    return built_here(NAME, VERSION, recipes(), PARTS, size=size, seed=seed, progress=progress, inputs={})


@suite(LORA_NAME, version=VERSION, method_defaults=lora_recipes()[1])
def mini_t5_lora(*, size: str, seed: int, progress: Progress | None) -> ResolvedSuite:
    """The tasks and the base of `mini/t5` with LoRA experts, which are fused as base + ΔW; needs no network.

    Args:
        size: "tiny", "small" or "large", that of `mini/t5`, which is built too where it is missing.
        seed: of texts, weights and batches.
        progress: told how a build goes on.

    Raises:
        ConfigError: where there is no such size.
        Interrupted: on Ctrl-C; what was finished is kept, and the same call goes on.
    """
    sizes, _ = recipes()
    base = build_key(sizes[size], VERSION, size, seed, {}) if size in sizes else ""
    inputs = {"base": base}
    return built_here(
        LORA_NAME, VERSION, lora_recipes(), LORA_PARTS, size=size, seed=seed, progress=progress, inputs=inputs
    )
