"""Open a reference as a source: the one door through which checkpoints come in. No torch until a pickle is opened."""

from pathlib import Path

from fusionbench.errors import CheckpointError
from fusionbench.weights.headers import Source
from fusionbench.weights.hub import resolve
from fusionbench.weights.safetensors import open_safetensors

TOGETHER = ("ensemble.json", "per_task.json", "surgery.json", "task_models.json")
"""Files that say of a folder that it holds several models, or parts of them, that answer together."""
PICKLES = ("pytorch_model.bin.index.json", "pytorch_model.bin", "pytorch_model.pt", "model.pt")


def open_source(reference: str | Path) -> Source:
    """Open a folder, a file or a hub id; headers are read and checked, tensors are not.

    Raises:
        CheckpointError: where it is missing, damaged, or in no known form.
    """
    path = resolve(reference)
    label = str(reference)
    if path.is_file() and path.suffix in (".bin", ".pt", ".pth"):
        return _open_pickled(label, [path], path.parent)
    _check_single(reference, path)
    source = open_safetensors(label, path)
    if source is not None:
        return source
    for name in PICKLES:
        if (path / name).is_file():
            return _open_pickled(label, [path / name], path)
    inside = (file.parent for pattern in ("*", "*/*") for file in path.glob(f"{pattern}/config.json"))
    models = sorted(folder for folder in inside if any(folder.glob("*.safetensors")))
    if models:
        raise CheckpointError(
            f"{reference} holds no model itself, but {len(models)} in folders of their own. Name one of them: "
            f"{', '.join(map(str, models[:8]))}{' …' if len(models) > 8 else ''}."
        )
    held = ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "nothing"
    raise CheckpointError(
        f"{reference} holds no model: it needs model.safetensors, or shards with model.safetensors.index.json. "
        f"It holds: {held}."
    )


def _check_single(reference: str | Path, path: Path) -> None:
    """Refuse a folder of what is more than one checkpoint.

    Raises:
        CheckpointError: naming what opens it.
    """
    said = next((name for name in TOGETHER if (path / name).is_file()), None)
    if said is not None and not (path / "config.json").is_file():
        raise CheckpointError(
            f"{reference} is no single checkpoint: its {said} says that several parts answer together. Score it with "
            f"fusionbench evaluate {reference} suite=NAME, or open it with fusionbench.load_fused."
        )


def _open_pickled(label: str, files: list[Path], folder: Path) -> Source:
    from fusionbench.weights.pickled import open_pickled

    return open_pickled(label, files[0], folder)
