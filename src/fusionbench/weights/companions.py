"""What stands beside a model's tensors: configuration, tokenizer, processor, templates. No torch here."""

import json
import shutil
from collections.abc import Mapping
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
        for pattern in COPIED:
            for path in sorted(source.folder.glob(pattern)):
                if path.is_file() and not any(path.match(skipped) for skipped in NOT_COPIED):
                    shutil.copyfile(path, folder / path.name)
    config = {**source.config, **changes}
    if dtype != "base":
        config = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
        config["dtype"] = dtype
    if source.config and (changes or dtype != "base" or not (folder / CONFIG).is_file()):
        (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
