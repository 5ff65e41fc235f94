"""A stand-in of the hub's local cache: models and data sets under published ids, as the hub's own libraries lay it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

__all__ = ["HubCache"]
COMMIT = "a" * 40


class HubCache:
    """A cache folder that the libraries of this process read while offline."""

    def __init__(self, root: Path) -> None:
        self.models, self.data = root / "hub", root / "datasets"

    def use(self, monkeypatch: pytest.MonkeyPatch) -> "HubCache":
        """Let this process read it."""
        import datasets
        from huggingface_hub import constants

        # Both libraries read their environment when they are imported.
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(self.models))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", self.data)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        return self

    def model(self, repository: str) -> Path:
        """Return the folder of a repository's only revision, `main`, to be filled."""
        place = self.models / f"models--{repository.replace('/', '--')}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text(COMMIT)
        snapshot = place / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        return snapshot

    def dataset(self, repository: str, splits: Mapping[str, Any], config: str = "default") -> None:
        """Add a data set of `datasets.Dataset`s by split name."""
        from datasets import DatasetInfo, SplitDict, SplitInfo
        from datasets.arrow_writer import ArrowWriter
        from datasets.naming import camelcase_to_snakecase

        owner, _, name = repository.rpartition("/")
        name = camelcase_to_snakecase(name)
        place = self.data / f"{owner}___{name}" / config / "0.0.0" / COMMIT
        place.mkdir(parents=True)
        found = SplitDict(dataset_name=name)
        for split, held in splits.items():
            with ArrowWriter(path=str(place / f"{name}-{split}.arrow"), features=held.features) as writer:
                for row in held:
                    writer.write(row)
                count, size = writer.finalize()
            found.add(SplitInfo(split, num_bytes=size, num_examples=count, dataset_name=name))
        features = next(iter(splits.values())).features
        DatasetInfo(
            builder_name="parquet", dataset_name=name, config_name=config, version="0.0.0", features=features,
            splits=found,
        ).write_to_directory(str(place))  # fmt: skip
        written = json.loads((place / "dataset_info.json").read_text())
        (place / "dataset_info.json").write_text(json.dumps({**written, "config_name": config}))
