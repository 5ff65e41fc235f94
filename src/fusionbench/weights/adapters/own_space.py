"""(IA)³ in its own space: the vectors are the experts, ones are the base, and the result is an adapter again."""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fusionbench.errors import ConfigError, IncompatibleModels
from fusionbench.weights.adapters.configuration import CONFIG_NAME
from fusionbench.weights.adapters.matching import PREFIX
from fusionbench.weights.headers import NUMPY, Source, TensorSpec, as_buffer

ONE_BITS = {"BF16": 0x3F80, "F8_E4M3": 0x38, "F8_E5M2": 0x3C}
"""The number one in the kinds that NumPy holds as bits."""
WRAPPED = ".modules_to_save"


class AdapterBase:
    """What (IA)³ begins from: every vector is ones.

    TIES (arXiv:2306.01708) merges l − 1. What an adapter holds whole, such as a head, begins as the model's.

    Attributes:
        label: what messages call it.
        folder: the adapter whose names and configuration the result takes.
        specs: of that adapter.
    """

    label = "the identity of (IA)³"

    def __init__(self, folder: Path, adapter: Source, model: Source | None = None) -> None:
        """Take names and shapes from an adapter.

        Args:
            folder: the adapter's.
            adapter: its tensors.
            model: the pretrained model; needed where the adapter holds more than vectors.

        Raises:
            ConfigError: where it is needed and not there.
            IncompatibleModels: where it lacks what the adapter holds whole.
        """
        self.folder: Path | None = folder
        self.config: Mapping[str, Any] = {}
        self.model = model
        whole = [name for name in adapter.specs if not name.endswith(".ia3_l")]
        if whole and model is None:
            raise ConfigError(f"{adapter.label} holds {whole[0]} whole. Name the pretrained model with base=REF.")
        self._places = {name: name.removeprefix(PREFIX).replace(WRAPPED, "") for name in whole}
        lacking = [place for place in self._places.values() if model is not None and place not in model.specs]
        if lacking and model is not None:
            raise IncompatibleModels(f"{model.label} has no {', '.join(lacking)}, which {adapter.label} holds whole.")
        self.specs: Mapping[str, TensorSpec] = {
            name: model.specs[self._places[name]]._replace(name=name) if model is not None and name in whole else spec
            for name, spec in adapter.specs.items()
        }

    def read(self, name: str, start: int = 0, stop: int | None = None) -> memoryview:
        """Return the bytes of flat entries `start` to `stop`: ones, or the model's."""
        if name in self._places and self.model is not None:
            return self.model.read(self._places[name], start, stop)
        spec = self.specs[name]
        count = (spec.size if stop is None else stop) - start
        return as_buffer(np.full(count, ONE_BITS.get(spec.dtype, 1), NUMPY[spec.dtype]))

    def fingerprint(self) -> str:
        """Return a digest of names, kinds and shapes, and of the model where that is read."""
        own = repr([tuple(spec) for spec in self.specs.values()])
        model = self.model.fingerprint() if self._places and self.model is not None else ""
        return f"fp:{hashlib.sha256((own + model).encode()).hexdigest()}"

    def complete(self, folder: Path) -> None:
        """Make a folder of merged tensors one that PEFT loads: its file's name and the adapter's configuration.

        Raises:
            ConfigError: where the tensors are in several files.
        """
        name_adapter_file(folder)
        assert self.folder is not None
        shutil.copyfile(self.folder / CONFIG_NAME, folder / CONFIG_NAME)


def name_adapter_file(folder: Path) -> None:
    """Give the weights that a writer has put into a folder the name that PEFT looks for.

    Raises:
        ConfigError: where they are in several files.
    """
    file = folder / "model.safetensors"
    if not file.is_file():
        raise ConfigError("output.shard_bytes is less than this adapter, and PEFT reads adapters of one file only.")
    file.rename(folder / "adapter_model.safetensors")
