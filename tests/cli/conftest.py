"""The command line in this process: exit code, standard output and standard error."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from safetensors.numpy import save_file

from fusionbench.cli import main


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    def call(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["fusionbench", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "160")
        with pytest.raises(SystemExit) as exited:
            main()
        streams = capsys.readouterr()
        return Said(int(exited.value.code or 0), streams.out, streams.err)

    return call


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Write a small model: `checkpoint("name", w=array, ...)`; None leaves a tensor out."""

    def write(name: str, config: dict[str, Any] | None = None, **changes: Any) -> Path:
        tensors = {
            "layers.0.w": np.arange(12, dtype=np.float32).reshape(3, 4),
            "layers.0.b": np.ones(3, dtype=np.float32),
            "count": np.array([3], dtype=np.int64),
        }
        for key, value in changes.items():
            tensors[{"w": "layers.0.w", "b": "layers.0.b"}.get(key, key)] = value
        folder = tmp_path / name
        folder.mkdir()
        save_file({key: value for key, value in tensors.items() if value is not None}, folder / "model.safetensors")
        import json

        (folder / "config.json").write_text(json.dumps({"model_type": "toy", **(config or {})}))
        return folder

    return write
