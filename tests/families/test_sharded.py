"""A language model whose tensors lie in parts in two processes answers as one that lies in one."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from forked import in_processes
from fusionbench.errors import ConfigError
from fusionbench.families import family_named, load_module
from fusionbench.families.sharded import load_sharded, rows_of_process, whole_tensors
from fusionbench.training import ALONE, Processes, joined
from fusionbench.weights.headers import Source, TensorSpec
from fusionbench.weights.sources import open_source
from tiny_causal_lm import make_causal_lm

IDS = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 2]])


@dataclass
class Counted:
    """A source that counts the bytes that are read of it."""

    source: Source
    read_bytes: int = 0
    label: str = "counted"
    config: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    def __post_init__(self) -> None:
        self.config = self.source.config

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        return self.source.specs

    def read(self, name: str, start: int = 0, stop: int | None = None) -> memoryview:
        found = self.source.read(name, start, stop)
        self.read_bytes += found.nbytes
        return found


def test_rows_are_divided_as_pytorch_divides_them() -> None:
    for rows, count in ((7, 3), (2, 4), (8, 2), (1, 2)):
        expected = [len(part) for part in torch.arange(rows).chunk(count)]
        found = [rows_of_process(rows, Processes(rank, count)) for rank in range(count)]
        assert [last - first for first, last in found if last > first] == expected
        assert found[0][0] == 0
        assert found[-1][1] == rows


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("count", [2, 3])
def test_logits_are_those_of_one_process_of_which_each_holds_its_part(tmp_path: Path, tied: bool, count: int) -> None:
    make_causal_lm(tmp_path / "model", tie_word_embeddings=tied)
    family, source = family_named("causal_lm"), open_source(tmp_path / "model")
    whole = load_module(family, source)
    size = sum(parameter.nbytes for parameter in whole.parameters())
    with torch.no_grad():
        expected = whole(IDS).logits.tolist()

    def work() -> tuple[list[Any], int, int, dict[str, list[Any]]]:
        counted = Counted(source)
        module = load_sharded(family, counted, joined())
        held = sum(parameter.to_local().nbytes for parameter in module.parameters())
        again = {name: tensor.tolist() for name, tensor in whole_tensors(module)}
        with torch.no_grad():
            return module(IDS).logits.tolist(), counted.read_bytes, held, again

    found = in_processes(count, work)
    for logits, read, held, again in found:
        assert logits == expected
        assert read == held < 1.1 * size / count
        assert again == {name: tensor.tolist() for name, tensor in whole.state_dict().items()}
    assert sum(read for _, read, _, _ in found) == size


def test_weights_that_do_not_fit_are_named_in_every_process(tmp_path: Path) -> None:
    make_causal_lm(tmp_path / "model", tie_word_embeddings=False)
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.norm.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    source = open_source(tmp_path / "model")

    def work() -> None:
        load_sharded(family_named("causal_lm"), source, joined())

    for error in in_processes(2, work):
        assert error.kind == "IncompatibleModels"
        assert "model.norm.weight is missing" in str(error)
    tensors["model.norm.weight"] = torch.ones(3)
    save_file(tensors, file, metadata={"format": "pt"})
    source = open_source(tmp_path / "model")
    assert all("model.norm.weight [3] has no such place" in str(error) for error in in_processes(2, work))


def test_one_process_has_nothing_to_divide(tmp_path: Path) -> None:
    make_causal_lm(tmp_path / "model")
    source = open_source(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"here are 1 processes.*Start more with torchrun"):
        load_sharded(family_named("causal_lm"), source, ALONE)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == "llama"
