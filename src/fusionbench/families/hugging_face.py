"""What a folder holds for transformers, read without the code that may lie beside it."""

from pathlib import Path
from typing import Any

from fusionbench.errors import CheckpointError


def loaded(kind: Any, folder: Path, **options: Any) -> Any:
    """Return what one of transformers' `Auto…` classes reads from a folder; Python files in it are never run.

    Left to itself transformers asks on the terminal whether it may run them, and whatever answers decides.

    Args:
        kind: such as `AutoTokenizer`.
        folder: of a model.
        options: of its `from_pretrained`.

    Raises:
        CheckpointError: where the folder needs code of its own, or cannot be read.
    """
    try:
        return kind.from_pretrained(folder, trust_remote_code=False, **options)
    except (ValueError, OSError) as error:
        if "trust_remote_code" in str(error):
            raise CheckpointError(
                f"{folder} needs Python code of its own for its {kind.__name__.removeprefix('Auto').lower()}, which is "
                "never run here. Save the model with classes that transformers has (no auto_map in its JSON files)."
            ) from None
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{folder}: {kind.__name__} cannot read it: {why}") from None
