"""FusionBench: fuse deep models (ensembles, merges, mixes) and benchmark the result.

    from pathlib import Path

    import fusionbench

    fused = fusionbench.fuse("ties", "mini/clip", scale=1.0)
    fused.save(Path("merged"))

Names are imported when they are used, so that `import fusionbench` costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusionbench.algorithm import Algorithm, configure, fuse, load_fused
    from fusionbench.config import Recipe
    from fusionbench.mixing.loading import load_model
    from fusionbench.run import evaluate_model
    from fusionbench.suites import ModelPool, Suite, TaskPool, load_suite

_HOMES = {
    "Algorithm": "fusionbench.algorithm",
    "ModelPool": "fusionbench.suites",
    "Recipe": "fusionbench.config",
    "Suite": "fusionbench.suites",
    "TaskPool": "fusionbench.suites",
    "configure": "fusionbench.algorithm",
    "evaluate_model": "fusionbench.run",
    "fuse": "fusionbench.algorithm",
    "load_fused": "fusionbench.algorithm",
    "load_model": "fusionbench.mixing.loading",
    "load_suite": "fusionbench.suites",
}
__all__ = [
    "Algorithm",
    "ModelPool",
    "Recipe",
    "Suite",
    "TaskPool",
    "configure",
    "evaluate_model",
    "fuse",
    "load_fused",
    "load_model",
    "load_suite",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fusionbench' has no attribute {name!r}; it has: {', '.join(__all__)}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
