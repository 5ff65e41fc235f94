"""Fine-tuned models on disk: folders in Hugging Face form, under the names and in the kinds of number of their base."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from fusionbench.families.base import Family
from fusionbench.training.checkpoint import CURVE
from fusionbench.weights.headers import Source
from fusionbench.weights.tensors import TORCH, as_bytes
from fusionbench.weights.writer import CheckpointWriter

RECORD = "fusionbench.json"
"""How the model was made: its tasks, its recipe, its scores."""
COPIED = ("*.json", "*.txt", "*.model", "*.jinja")
NOT_COPIED = ("*.index.json", RECORD)


def write_expert(
    out: Path, module: nn.Module, base: Source, family: Family, record: Mapping[str, Any], curve: Path
) -> None:
    """Write a fine-tuned model whole: tensors of the base's file, its other files, the record and the curve.

    Args:
        out: must not exist; appears when all is on disk.
        module: the family's, in whatever kind of number it was trained.
        base: what it was trained from.
        family: whose names they are.
        record: goes into `fusionbench.json`.
        curve: folder of the training, with its curve.

    Raises:
        OutputError: where the folder cannot be written.
    """
    state = module.state_dict()
    names = family.names(base.specs)
    specs = [spec for spec in base.specs.values() if names.get(spec.name) in state]

    def finish(folder: Path) -> None:
        _copy_other_files(base, folder)
        if (curve / CURVE).is_file():
            shutil.copyfile(curve / CURVE, folder / CURVE)
        (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")

    metadata = {"fusionbench": json.dumps(record, sort_keys=True)}
    with CheckpointWriter(out, specs, metadata=metadata, finish=finish) as writer:
        for spec in specs:
            writer.write(spec.name, as_bytes(state[names[spec.name]].to(TORCH[spec.dtype])))


def _copy_other_files(base: Source, folder: Path) -> None:
    """Copy configuration, tokenizer and processor of the base, which training does not change."""
    if base.folder is None:
        return
    for pattern in COPIED:
        for path in sorted(base.folder.glob(pattern)):
            if not any(path.match(skipped) for skipped in NOT_COPIED):
                shutil.copyfile(path, folder / path.name)
