"""Heads that were trained with an expert: read from its checkpoint, checked against the task."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fusionbench.errors import CheckpointError, ConfigError, IncompatibleModels, MissingHead, MissingPart
from fusionbench.families import Family, HasHead
from fusionbench.weights.adapters import PREFIX, is_adapter, open_adapter_tensors
from fusionbench.weights.headers import Source
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights


def read_head(
    reference: str | Path, family: Family, config: Mapping[str, Any], class_names: Sequence[str], *, task: str
) -> nn.Module:
    """Return the head of a fine-tuned checkpoint, frozen, in eval mode, float32.

    Args:
        reference: a folder, a file or a hub id; a folder of PEFT's holds the head beside the adapter.
        family: the pool's; one that has heads.
        config: the base's `config.json`.
        class_names: the task's, in the order of its labels.
        task: its name, for messages.

    Raises:
        MissingPart: where the family has no trained heads.
        CheckpointError: where the checkpoint is not there.
        MissingHead: where it holds no head.
        ConfigError: where its labels are others than the task's.
        IncompatibleModels: where the head's shapes do not fit the base.
    """
    if not isinstance(family, HasHead):
        raise MissingPart(family.name, "trained heads")
    try:
        adapter = is_adapter(reference)
        source = open_adapter_tensors(reference) if adapter else open_source(str(reference))
    except CheckpointError as error:
        raise CheckpointError(f"The head of the task {task} cannot be read: {error}") from None
    prefix = (PREFIX if adapter else "") + family.head
    held = {name: name.removeprefix(prefix) for name in source.specs if name.startswith(prefix)}
    if not held:
        raise MissingHead(
            f"{reference} holds no head for the task {task}: no tensor under {family.head!r}.{_kinds(source, config)} "
            "Give the checkpoint of a fine-tuned classifier: head: REF in the task's description."
        )
    _check_labels(source, reference, class_names, task)
    with torch.random.fork_rng(devices=[]):
        head = family.head_module(config, len(class_names))
    _check_shapes(source, reference, held, head, task, _kinds(source, config))
    weights = LazyWeights(source)
    head.load_state_dict({own: weights[name].to(torch.float32) for name, own in held.items()})
    return head.eval().requires_grad_(False)


def _check_labels(source: Source, reference: str | Path, class_names: Sequence[str], task: str) -> None:
    """Refuse a head whose outputs mean something else; the numbers that Hugging Face gives by itself mean nothing."""
    stored = source.config.get("id2label")
    if not isinstance(stored, Mapping) or not stored:
        return
    found = [str(stored[key]) for key in sorted(stored, key=int)]
    same = len(found) == len(class_names) and all(
        _plain(one) == _plain(other) or one == f"LABEL_{number}"
        for number, (one, other) in enumerate(zip(found, class_names, strict=True))
    )
    if not same:
        raise ConfigError(
            f"The labels of {reference} are {', '.join(found)}; those of the task {task} are "
            f"{', '.join(class_names)}. Both must be the same, in one order: correct class_names of the task, or name "
            "another head."
        )


def _plain(label: str) -> str:
    return label.lower().replace("_", " ").replace("-", " ").strip()


def _kinds(source: Source, config: Mapping[str, Any]) -> str:
    """Return a sentence where a checkpoint is no model of the base's kind, which its head then cannot fit."""
    theirs, ours = source.config.get("model_type"), config.get("model_type")
    return "" if None in (theirs, ours) or theirs == ours else f" It is a {theirs!r} model, the base is a {ours!r}."


def _check_shapes(
    source: Source, reference: str | Path, held: Mapping[str, str], head: nn.Module, task: str, kinds: str
) -> None:
    state = head.state_dict()
    problems = [f"  {name} is missing" for name in state if name not in held.values()]
    for name, own in held.items():
        shape = source.specs[name].shape
        if own not in state:
            problems.append(f"  {name} has no place in the head")
        elif tuple(state[own].shape) != shape:
            problems.append(f"  {name} is {list(shape)}, the task's head is {list(state[own].shape)}")
    if problems:
        raise IncompatibleModels(
            "\n".join(
                [
                    f"The head of {reference} does not fit the task {task}.{kinds}",
                    *problems,
                    "Name the head of a model that was fine-tuned from this base on this task.",
                ]
            )
        )
