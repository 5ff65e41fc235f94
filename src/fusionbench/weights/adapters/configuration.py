"""What `adapter_config.json` says, and what of it cannot be honoured here."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from fusionbench.errors import CheckpointError
from fusionbench.weights.documents import read_json

CONFIG_NAME = "adapter_config.json"
KINDS = ("LORA", "IA3")
REFUSED = {
    "target_parameters": "its low-rank updates are of bare parameters, such as stacked experts",
    "layer_replication": "it repeats layers of the base",
    "trainable_token_indices": "it replaces rows of the embedding",
    "alora_invocation_tokens": "it acts on a part of the tokens only, which no weights can",
}
"""Keys whose adapters are more than base + ΔW, and why."""
MOVES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways to begin that change the base's weights too; what is saved is then relative to weights that nobody has."""
HARMLESS = ("use_rslora", "use_dora", "loftq_config", "megatron_config", "runtime_config", "eva_config")
"""Keys of these kinds of name that change no number, or are honoured."""
FIX = "Merge it into its model with peft (merge_and_unload), save that, and name the folder instead."


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """A checked configuration."""

    folder: Path
    kind: Literal["LORA", "IA3"]
    document: dict[str, Any]

    @property
    def trained_on(self) -> str | None:
        """The base model by the adapter's own word."""
        return self.document.get("base_model_name_or_path") or None

    @property
    def swapped(self) -> bool:
        """Whether the weights of its layers are `(in, out)`, as far as the configuration knows."""
        return bool(self.document.get("fan_in_fan_out"))

    @property
    def dora(self) -> bool:
        """Whether a magnitude vector belongs to each low-rank update."""
        return bool(self.document.get("use_dora"))

    def rank(self, module: str) -> int:
        """Return r of a module."""
        return int(self._pattern("rank_pattern", module, self.document.get("r", 8)))

    def scale(self, module: str, rank: int) -> float:
        """Return the factor on B·A: α/r, or α/√r of rank-stabilised LoRA (arXiv:2312.03732, Eq. 6)."""
        alpha = float(self._pattern("alpha_pattern", module, self.document.get("lora_alpha", 8)))
        return alpha / (math.sqrt(rank) if self.document.get("use_rslora") else rank)

    def _pattern(self, key: str, module: str, default: float) -> float:
        for pattern, value in (self.document.get(key) or {}).items():
            try:
                found = re.match(rf"(.*\.)?({pattern})$", module)
            except re.error as error:
                raise CheckpointError(
                    f"{self.folder / CONFIG_NAME}: {key} {pattern!r} is no pattern: {error}."
                ) from None
            if found:
                return cast(float, value)
        return default


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Read and check a folder's `adapter_config.json`.

    Raises:
        CheckpointError: where it is missing or damaged, or the adapter is of a kind that is not base + ΔW.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise CheckpointError(f"{folder} is no adapter: it has no {CONFIG_NAME}. Name a folder that PEFT saved.")
    try:
        document = read_json(path)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}.") from None
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} should hold a JSON object, it holds a {type(document).__name__}.")
    _check_numbers(path, document)
    kind = document.get("peft_type")
    if kind not in KINDS:
        raise CheckpointError(f"{folder} is an adapter of the kind {kind!r}; {' and '.join(KINDS)} are read. {FIX}")
    reasons = [f"{key}: {reason}" for key, reason in REFUSED.items() if document.get(key)]
    start = document.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(MOVES_BASE):
        reasons.append(f"init_lora_weights={start}: training began by changing the base's own weights")
    if document.get("use_dora") and document.get("lora_bias"):
        reasons.append("lora_bias with use_dora: nothing says how the magnitude acts on the bias")
    reasons += [f"{key}: not known here" for key, value in document.items() if _is_unknown(key, value)]
    if reasons:
        raise CheckpointError(f"{folder} cannot be read as base + ΔW ({'; '.join(reasons)}). {FIX}")
    return AdapterConfig(folder, kind, document)


def _check_numbers(path: Path, document: Mapping[str, Any]) -> None:
    for key, pattern in (("r", "rank_pattern"), ("lora_alpha", "alpha_pattern")):
        patterns = document.get(pattern) or {}
        if not isinstance(patterns, dict):
            raise CheckpointError(f"{path}: {pattern} should map names to numbers, it is {patterns!r}.")
        least = 1 if key == "r" else -math.inf
        numbers = {key: document.get(key, 8), **{f"{pattern}.{name}": value for name, value in patterns.items()}}
        for name, value in numbers.items():
            if type(value) not in (int, float) or not math.isfinite(value) or value < least:
                bound = " of at least 1" if key == "r" else ""
                raise CheckpointError(f"{path}: {name} should be a number{bound}, not {value!r}.")


def _is_unknown(key: str, value: object) -> bool:
    """Tell whether a key switches on a variant that came after this was written: these are what PEFT names so."""
    return bool(value) and key not in HARMLESS and (key.startswith("use_") or key.endswith("_config"))
