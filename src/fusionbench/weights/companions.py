"""What stands beside a model's tensors: configuration, tokenizer, processor, templates. No torch here."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fusionbench.weights.adapters import AdapterBase
from fusionbench.weights.headers import Source
from fusionbench.weights.lock import LOCK

RECORD = "fusionbench.json"
"""How a model was made here; it says nothing of another one made of it."""
COPIED = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
NOT_COPIED = ("*.index.json", "trainer_state.json", "training_args.json", "adapter_config.json", RECORD, LOCK)
CONFIG = "config.json"
OWN = (
    CONFIG, "generation_config.json", "preprocessor_config.json", "processor_config.json",
    "video_preprocessor_config.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json",
    "added_tokens.json", "normalizer.json", "tekken.json", "chat_template.json", "*.jinja", "*.model", "*.tiktoken",
)  # fmt: skip
"""Of what lies beside a file that was named by itself: a folder of models or of anything holds other files, too."""


def copy_companions(
    source: Source, folder: Path, *, dtype: str = "base", changes: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Copy what stands beside a model's tensors; a model in memory leaves its configuration at least.

    Args:
        source: the model.
        folder: where its like is being written.
        dtype: kind of number that the configuration is to name, in torch's words; "base" leaves it.
        changes: what else the configuration says of the output, such as its number of layers.
    """
    if isinstance(source, AdapterBase):
        source.complete(folder)
    if source.folder is not None:
        for path in _companions(source.folder, alone=Path(source.label).is_file()):
            shutil.copyfile(path, folder / path.name)
    config = {**source.config, **changes}
    if dtype != "base":
        config = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
        config["dtype"] = dtype
    if source.config and (changes or dtype != "base" or not (folder / CONFIG).is_file()):
        (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _companions(folder: Path, *, alone: bool) -> list[Path]:
    """Return the files beside a model that go with it; beside one that is named `alone`, those of known names only."""
    found = [path for pattern in COPIED for path in sorted(folder.glob(pattern)) if path.is_file()]
    return [path for path in found if not _is_one_of(path, NOT_COPIED) and (not alone or _is_one_of(path, OWN))]


def _is_one_of(path: Path, patterns: Sequence[str]) -> bool:
    return any(path.match(pattern) for pattern in patterns)
