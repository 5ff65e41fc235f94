"""Adapters in fine-tuning: LoRA, linearised LoRA and (IA)³, put into a module by PEFT and written in PEFT's format."""

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fusionbench.errors import ConfigError, MissingPart
from fusionbench.families import Family, HasHead, HasParts
from fusionbench.finetune.folder import write_training
from fusionbench.finetune.heads import TrainedHead
from fusionbench.finetune.recipe import AdapterRecipe, FinetuneRecipe, Tuning
from fusionbench.registry import suggestion
from fusionbench.weights.adapters.configuration import CONFIG_NAME
from fusionbench.weights.adapters.matching import PREFIX
from fusionbench.weights.adapters.own_space import name_adapter_file
from fusionbench.weights.headers import Source, TensorSpec
from fusionbench.weights.tensors import SAFETENSORS, as_bytes
from fusionbench.weights.writer import CheckpointWriter

NAME = "default"
"""What PEFT calls the one adapter in a module; it is not part of the names in files."""


class Targets(NamedTuple):
    """Ends of the names of linear maps that are adapted; (IA)³ scales the inputs of those in `feedforward`."""

    lora: tuple[str, ...]
    ia3: tuple[str, ...]
    feedforward: tuple[str, ...]


UNKNOWN_TO_PEFT: Mapping[str, Targets] = {
    **dict.fromkeys(("clip", "vit", "dinov2"), Targets(("q_proj", "v_proj"), ("k_proj", "v_proj", "fc2"), ("fc2",))),
    "xlm-roberta": Targets(("query", "value"), ("key", "value", "output.dense"), ("output.dense",)),
}
"""By model type, where PEFT names none: CLIP's are those of FusionBench's LoRA models, and their like of (IA)³ and of
other vision transformers; XLM-RoBERTa's are what PEFT has for RoBERTa."""


class Adapted(NamedTuple):
    """An adapter in a module.

    Attributes:
        model: PEFT's view of the module, which was changed in place.
        config: PEFT's.
    """

    model: Any
    config: Any


def adapt(
    module: nn.Module, family: Family, base: Source, tuning: Tuning, settings: AdapterRecipe, *, seed: int
) -> Adapted:
    """Put a new adapter into a module in place; its parameters, and no others, ask for gradients.

    `lora` (arXiv:2106.09685) adds α/r·B·A to a map, B zero and A random. `ia3` (arXiv:2205.05638) scales outputs of
    maps, or inputs of the feed-forward network's last, by vectors of ones. `l_lora` (arXiv:2310.04742) is LoRA whose
    layers are replaced by their first-order Taylor expansion in (A, B) at their start (A₀, 0):
    W·x + α/r·(B₀·A₀ + (B − B₀)·A₀ + B₀·(A − A₀))·x = W·x + α/r·B·A₀·x. So A stays A₀, and B alone is trained; stored is
    an ordinary LoRA adapter of A₀ and B, which any reader of PEFT's format reads, and in which models are linear in
    what was trained: merging by coefficients is exact.

    Args:
        module: the family's.
        family: only maps in its tower are adapted.
        base: what the module was loaded from.
        tuning: which kind; not "full".
        settings: rank, scale, dropout, targets.
        seed: of A.

    Raises:
        ConfigError: where no targets are known for the architecture, or one does not exist.
        MissingPart: where the family names no linear maps.
    """
    from peft import get_peft_model

    wanted, feedforward = _targets(tuning, str(base.config.get("model_type")), settings)
    maps = _maps(module, family)
    for target in (*wanted, *feedforward):
        if not any(_ends(name, target) for name in maps):
            ends = sorted({name.rpartition(".")[2] for name in maps})
            raise ConfigError(
                f"recipe.adapter: no linear map of the fused part is called {target!r}. {suggestion(target, ends)}"
            )
    config = _config(tuning, settings, wanted, feedforward, family.tower, swapped=not all(maps.values()))
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT warns of tied weights even where none of them is adapted.
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = get_peft_model(module, config, adapter_name=NAME)
    if tuning == "l_lora":
        for name, parameter in model.named_parameters():
            if f".lora_A.{NAME}." in name:
                parameter.requires_grad_(False)
    return Adapted(model, config)


def settled(recipe: FinetuneRecipe, tuning: Tuning) -> FinetuneRecipe:
    """Return the recipe with its adapter spelled out where the tuning trains one.

    Raises:
        ConfigError: where it says something of an adapter that this tuning does not have.
    """
    if tuning == "full":
        if recipe.adapter is not None:
            raise ConfigError("tuning=full trains no adapter. Leave recipe.adapter out, or choose tuning=lora.")
        return recipe
    settings, usual = recipe.adapter or AdapterRecipe(), AdapterRecipe()
    others = ("r", "alpha", "dropout") if tuning == "ia3" else ("feedforward",)
    for key in others:
        if getattr(settings, key) != getattr(usual, key):
            raise ConfigError(f"tuning={tuning} has no {key}. Leave recipe.adapter.{key} out.")
    return recipe.model_copy(update={"adapter": settings})


def _targets(tuning: Tuning, model_type: str, settings: AdapterRecipe) -> tuple[Sequence[str], Sequence[str]]:
    """Return the ends of names to adapt, and those of them whose inputs are scaled."""
    from peft.utils import constants

    known = UNKNOWN_TO_PEFT.get(model_type)
    lora = known.lora if known else constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model_type)
    ia3 = known.ia3 if known else constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING.get(model_type)
    inputs = (
        known.feedforward if known else constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING.get(model_type)
    )
    wanted = settings.targets or (ia3 if tuning == "ia3" else lora)
    if wanted is None:
        raise ConfigError(
            f"Which linear maps {tuning} adapts in a {model_type!r} model is not known. Name them: "
            "recipe.adapter.targets=[query,value]."
        )
    if tuning != "ia3":
        return tuple(wanted), ()
    feedforward = settings.feedforward if settings.feedforward is not None else inputs or ()
    if settings.targets is not None and settings.feedforward is None:
        feedforward = [name for name in feedforward if name in wanted]
    outside = [name for name in feedforward if name not in wanted]
    if outside:
        raise ConfigError(f"recipe.adapter.feedforward: {', '.join(outside)} is not among the targets {list(wanted)}.")
    return tuple(wanted), tuple(feedforward)


def _maps(module: nn.Module, family: Family) -> dict[str, bool]:
    """Return the linear maps of the fused part by name: whether their weights are `(out, in)`."""
    if not isinstance(family, HasParts):
        raise MissingPart(family.name, "list of linear maps, which adapters change")
    return {site.name: site.inputs_last for site in family.linears(module)}


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _config(
    tuning: Tuning,
    settings: AdapterRecipe,
    wanted: Sequence[str],
    feedforward: Sequence[str],
    tower: str,
    *,
    swapped: bool,
) -> Any:
    from peft import IA3Config, LoraConfig

    if tuning == "ia3":
        return IA3Config(
            target_modules=_pattern(tower, wanted),
            feedforward_modules=_pattern(tower, feedforward) if feedforward else [],
            fan_in_fan_out=swapped,
        )
    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=_pattern(tower, wanted),
        fan_in_fan_out=swapped,
        bias="none",
    )


def _pattern(tower: str, ends: Sequence[str]) -> str | list[str]:
    """Return what PEFT matches names with: their ends, or a pattern that also begins with the tower's prefix."""
    if not tower:
        return sorted(ends)
    return rf"{re.escape(tower)}(.*\.)?({'|'.join(re.escape(end) for end in sorted(ends))})"


def write_adapter(
    out: Path,
    adapted: Adapted,
    reference: str,
    family: Family,
    record: Mapping[str, Any],
    curve: Path,
    head: TrainedHead | None = None,
) -> None:
    """Write an adapter as a folder that PEFT loads, with the record and the curve of its training.

    A head that was trained with it is held whole, as PEFT holds modules to save; names are then those of the whole
    classifier.

    Args:
        out: must not exist; appears when all is on disk.
        adapted: what was trained.
        reference: of the base, as PEFT is to find it.
        family: whose model it is; it has heads where one was trained.
        record: goes into `fusionbench.json`.
        curve: folder of the training, with its curve.
        head: what was trained with it, if anything was.

    Raises:
        OutputError: where the folder cannot be written.
    """
    document = adapted.config.to_dict() | {"base_model_name_or_path": reference, "inference_mode": True}
    state = _state(adapted)
    if head is not None and isinstance(family, HasHead):
        state, document = _as_classifier(state, document, adapted, head, family)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(state.items())}
    specs = [TensorSpec(name, SAFETENSORS[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()]

    def finish(folder: Path) -> None:
        name_adapter_file(folder)
        text = json.dumps(document, indent=2, sort_keys=True, default=_plain) + "\n"
        (folder / CONFIG_NAME).write_text(text)
        write_training(folder, record, curve)

    metadata = {"format": "pt", "fusionbench": json.dumps(record, sort_keys=True)}
    with CheckpointWriter(out, specs, metadata=metadata, finish=finish) as writer:
        for name, tensor in tensors.items():
            writer.write(name, as_bytes(tensor))


def _state(adapted: Adapted) -> dict[str, Tensor]:
    """Return an adapter's tensors under the names that PEFT gives them in files."""
    from peft import get_peft_model_state_dict

    state: dict[str, Tensor] = get_peft_model_state_dict(adapted.model, adapter_name=NAME, save_embedding_layers=False)
    return state


def _as_classifier(
    state: Mapping[str, Tensor], document: Mapping[str, Any], adapted: Adapted, head: TrainedHead, family: HasHead
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return an adapter of the bare model and its head as an adapter of the classifier that holds both."""
    kind = adapted.model.base_model.model.config.model_type
    body = PREFIX + family.bodies.get(kind, "")
    renamed = {body + name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
    for name, tensor in head.module.state_dict().items():
        renamed[PREFIX + family.head + name] = tensor
    whole = {"modules_to_save": [family.head.partition(".")[0]], "task_type": "SEQ_CLS"}
    return renamed, {**document, **whole}


def _plain(value: object) -> object:
    """Return what JSON has no word for as what it has one for."""
    return sorted(value) if isinstance(value, set) else str(value)
