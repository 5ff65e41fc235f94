"""Open a reference as a source: the one door through which checkpoints come in. No torch until a pickle is opened."""

from pathlib import Path

from fusionbench.errors import CheckpointError
from fusionbench.weights.headers import Source
from fusionbench.weights.hub import resolve
from fusionbench.weights.safetensors import open_safetensors

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
    source = open_safetensors(label, path)
    if source is not None:
        return source
    for name in PICKLES:
        if (path / name).is_file():
            return _open_pickled(label, [path / name], path)
    held = ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "nothing"
    raise CheckpointError(
        f"{reference} holds no model: it needs model.safetensors, or shards with model.safetensors.index.json. "
        f"It holds: {held}."
    )


def _open_pickled(label: str, files: list[Path], folder: Path) -> Source:
    from fusionbench.weights.pickled import open_pickled

    return open_pickled(label, files[0], folder)
