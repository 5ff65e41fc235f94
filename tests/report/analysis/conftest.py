"""Small checkpoints whose deltas are known."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from fusionbench.merge import Pool
from fusionbench.weights.sources import open_source

MakePool = Callable[..., Pool]


@pytest.fixture
def make_pool(tmp_path: Path) -> MakePool:
    """A pool from a base's tensors and each expert's deltas."""

    def make(base: Mapping[str, object], config: Mapping[str, object] | None = None, **deltas: Mapping[str, object]):
        start = {name: np.asarray(values, np.float32) for name, values in base.items()}

        def write(name: str, tensors: Mapping[str, np.ndarray]):
            (tmp_path / name).mkdir()
            save_file(dict(tensors), tmp_path / name / "model.safetensors")
            (tmp_path / name / "config.json").write_text(json.dumps(config or {}))
            return open_source(tmp_path / name)

        experts = {
            name: write(name, {key: start[key] + np.asarray(of.get(key, 0), np.float32) for key in start})
            for name, of in deltas.items()
        }
        return Pool(write("base", start), experts)

    return make
