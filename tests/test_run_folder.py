"""A run's folder: its lock holds against every later writer, and it is never made over its own inputs."""

from pathlib import Path

import pytest
import torch

from fusionbench.config import Recipe
from fusionbench.errors import ConfigError, OutputError
from fusionbench.merge import Pool
from fusionbench.run.execution import check_apart
from fusionbench.run.folder import locked
from fusionbench.run.setting import resolve
from fusionbench.weights.tensors import TensorSource


def test_a_refused_writer_does_not_let_the_next_one_in(tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        for _ in range(3):
            with pytest.raises(OutputError, match="Another process"), locked(tmp_path / "run"):
                pass
    with locked(tmp_path / "run"):
        pass


def test_a_folder_that_holds_an_input_is_refused(tmp_path: Path) -> None:
    source = TensorSource("mine", {"w": torch.zeros(1)})
    source.folder = tmp_path / "run" / "model"
    with pytest.raises(OutputError, match="mine lies in"):
        check_apart(tmp_path / "run", Pool(source, {}))
    check_apart(tmp_path / "other", Pool(source, {}))


def test_a_corruption_is_refused_not_ignored() -> None:
    recipe = Recipe.load(None, ["suite=mini/clip", "suite.size=tiny", "method=pretrained", "tasks.corruption=fog"])
    with pytest.raises(ConfigError, match=r"tasks\.corruption"):
        resolve(recipe)
