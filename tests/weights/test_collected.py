"""Stored statistics belong to one method and one model each."""

from pathlib import Path

import pytest
import torch

from fusionbench.errors import CheckpointError, ConfigError
from fusionbench.run.whole import save_artefact
from fusionbench.weights.collected import open_statistics
from fusionbench.weights.tensors import LazyWeights, TensorSource


def test_each_experts_statistics_are_held_against_method_and_model(tmp_path: Path) -> None:
    cats, dogs = (TensorSource(name, {"w": torch.full((2,), value)}) for name, value in (("cats", 1.0), ("dogs", 2.0)))
    save_artefact(tmp_path, "cats", {"w": torch.ones(2)}, {"method": "fisher", "model": cats.fingerprint()})
    found = open_statistics(tmp_path, {"cats": cats}, "fisher")
    assert LazyWeights(found["cats"])["w"].tolist() == [1.0, 1.0]
    with pytest.raises(CheckpointError, match=r"none of the expert 'dogs'.*artefacts/statistics"):
        open_statistics(tmp_path, {"cats": cats, "dogs": dogs}, "fisher")
    with pytest.raises(ConfigError, match="for the method fisher, here it is regmean"):
        open_statistics(tmp_path, {"cats": cats}, "regmean")
    with pytest.raises(ConfigError, match=r"for the model sha256.*Leave method\.statistics out"):
        open_statistics(tmp_path, {"cats": dogs}, "fisher")
