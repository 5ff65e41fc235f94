"""Write a checkpoint whose tensors are not known beforehand: full shards at once, the folder's name at the end."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from fusionbench.weights.partial import Partial, written_to
from fusionbench.weights.safetensors import INDEX_NAME


class ShardWriter:
    """A folder of safetensors in the making; use as a context manager, on whose clean exit it takes its final name."""

    def __init__(
        self,
        folder: Path,
        *,
        metadata: Mapping[str, str],
        shard_bytes: int = 1_000_000_000,
        finish: Callable[[Path], None] | None = None,
    ) -> None:
        """Remember where to write.

        Args:
            folder: final name; must not exist.
            metadata: free-form text that every file's header carries.
            shard_bytes: bytes of tensors that are held before they are written.
            finish: writes the other files of the folder before it is renamed.
        """
        self.folder, self._partial = folder, Partial(folder)
        self.parameters = self.bytes = 0
        self._metadata, self._limit, self._finish = {"format": "pt", **metadata}, shard_bytes, finish
        self._held: dict[str, Tensor] = {}
        self._held_bytes = 0
        self._shards: list[list[str]] = []

    def __enter__(self) -> "ShardWriter":
        self._partial.begin()
        return self

    def add(self, name: str, tensor: Tensor) -> None:
        """Take one tensor; it is written with its shard."""
        size = tensor.numel() * tensor.element_size()
        if self._held and self._held_bytes + size > self._limit:
            self._flush()
        self._held[name] = tensor.detach().cpu().contiguous()
        self._held_bytes += size
        self.parameters += tensor.numel()
        self.bytes += size

    def _flush(self) -> None:
        with written_to(self.folder):
            save_file(self._held, self._partial.path / f"{len(self._shards)}.safetensors", metadata=self._metadata)
        self._shards.append(list(self._held))
        self._held, self._held_bytes = {}, 0

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if kind is None:
                self._flush()
                with written_to(self.folder):
                    self._name_shards()
                    if self._finish is not None:
                        self._finish(self._partial.path)
                    self._partial.complete()
        finally:
            self._partial.discard()

    def _name_shards(self) -> None:
        count = len(self._shards)
        places: dict[str, str] = {}
        for number, names in enumerate(self._shards):
            file = "model.safetensors" if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors"
            os.rename(self._partial.path / f"{number}.safetensors", self._partial.path / file)
            places |= dict.fromkeys(names, file)
        if count > 1:
            index = {"metadata": {"total_size": self.bytes}, "weight_map": places}
            (self._partial.path / INDEX_NAME).write_text(json.dumps(index, indent=1) + "\n")
