"""Fine-tuned models on disk: folders in Hugging Face form, under the names and in the kinds of number of their base."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fusionbench.families.base import Family, HasHead
from fusionbench.finetune.heads import TrainedHead
from fusionbench.training.checkpoint import CURVE
from fusionbench.weights.companions import RECORD, copy_companions
from fusionbench.weights.headers import Source, TensorSpec
from fusionbench.weights.tensors import SAFETENSORS, TORCH, as_bytes
from fusionbench.weights.writer import CheckpointWriter


def write_expert(
    out: Path,
    module: nn.Module,
    base: Source,
    family: Family,
    record: Mapping[str, Any],
    curve: Path,
    head: TrainedHead | None = None,
) -> None:
    """Write a fine-tuned model whole: tensors of the base's file, its other files, the record and the curve.

    With a head it is the folder of a classifier as plain transformers writes and loads it.

    Args:
        out: must not exist; appears when all is on disk.
        module: the family's, in whatever kind of number it was trained.
        base: what it was trained from.
        family: whose names they are.
        record: goes into `fusionbench.json`.
        curve: folder of the training, with its curve.
        head: what was trained with it, if anything was; the family has heads then.

    Raises:
        OutputError: where the folder cannot be written.
    """
    state = module.state_dict()
    names = family.names(base.specs)
    specs = [spec for spec in base.specs.values() if names.get(spec.name) in state]
    parts = {spec: state[names[spec.name]] for spec in specs}
    changes: Mapping[str, Any] = {}
    if head is not None:
        assert isinstance(family, HasHead)
        parts = _as_classifier(parts, family, base.config, head.module)
        changes = family.head_config(base.config, head.class_names)

    def finish(folder: Path) -> None:
        copy_companions(base, folder, changes=changes)
        write_training(folder, record, curve)

    metadata = {"fusionbench": json.dumps(record, sort_keys=True)}
    with CheckpointWriter(out, list(parts), metadata=metadata, finish=finish) as writer:
        for spec, tensor in parts.items():
            writer.write(spec.name, as_bytes(tensor.to(TORCH[spec.dtype])))


def write_training(folder: Path, record: Mapping[str, Any], curve: Path) -> None:
    """Write into a model's folder how it was trained: the record, and the curve where there is one."""
    if (curve / CURVE).is_file():
        shutil.copyfile(curve / CURVE, folder / CURVE)
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")


def _as_classifier(
    parts: Mapping[TensorSpec, Tensor], family: HasHead, config: Mapping[str, Any], head: nn.Module
) -> dict[TensorSpec, Tensor]:
    """Return a body's tensors under the prefix that they have in a classifier's file, and its head's."""
    body = family.bodies.get(str(config.get("model_type")), "")
    prefix = "" if any(spec.name.startswith(body) for spec in parts) else body
    classifier = {spec._replace(name=prefix + spec.name): tensor for spec, tensor in parts.items()}
    for name, tensor in head.state_dict().items():
        classifier[TensorSpec(family.head + name, SAFETENSORS[tensor.dtype], tuple(tensor.shape))] = tensor
    return classifier
