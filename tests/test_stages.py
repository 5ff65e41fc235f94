"""A stage's folder is used again only where the same recipe made it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from checkpoints import save_model
from fusionbench.compat import Stage
from fusionbench.config import Recipe
from fusionbench.errors import OutputError
from fusionbench.stages import merge_stages


@pytest.mark.parametrize("header", [None, "{", "[1]", "{}", '{"identity": 3}'])
def test_a_stage_folder_of_another_make_is_refused_whatever_its_header_says(tmp_path: Path, header: str | None) -> None:
    for name, value in (("a", 1.0), ("b", 3.0)):
        save_model(tmp_path / name, {"w": torch.full((2,), value)}, {"model_type": "toy"})
    place = tmp_path / "out.stages" / "first"
    place.mkdir(parents=True)
    save_file({"w": torch.zeros(2)}, place / "model.safetensors", metadata=header and {"fusionbench": header})
    one = Recipe.load(None, [f"experts.a={tmp_path / 'a'}", f"experts.b={tmp_path / 'b'}", "method=simple_average"])
    two = Recipe.load(None, ["experts.first=first", f"experts.b={tmp_path / 'b'}", "method=simple_average"])
    stages = [Stage("first", one), Stage("", two, needs=frozenset({"first"}))]
    with pytest.raises(OutputError, match="holds another result"):
        merge_stages(stages, tmp_path / "out")
    assert not (tmp_path / "out").exists()
