"""Two of mergekit's branches that its README does not name: normalised task arithmetic, and a lone model's weight."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from fusionbench.compat import load_recipe
from fusionbench.merge import merge


def merged(place: Path, recipe: str) -> list[float]:
    """Return what a mergekit recipe makes of the scalars base 1, a 2 and b 5."""
    for name, value in (("base", 1.0), ("a", 2.0), ("b", 5.0)):
        folder = place / name
        folder.mkdir()
        save_file({"w.weight": torch.tensor([[value, 0.0]])}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({}))
    document = yaml.safe_load(recipe)
    document["base_model"] = str(place / "base")
    for model in document["models"]:
        model["model"] = str(place / model["model"])
    file = place / "recipe.yml"
    file.write_text(yaml.safe_dump(document))
    read, _ = load_recipe(file)
    merge(read, place / "out")
    found: list[float] = load_file(place / "out" / "model.safetensors")["w.weight"].flatten().tolist()
    return found


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        # (1·1 + 3·4) / (1 + 3) = 3.25, twice on the base.
        ("{normalize: true, lambda: 2.0}", 7.5),
        ("{normalize: false, lambda: 2.0}", 27.0),
        # Accepted by mergekit's task_arithmetic, and without effect there.
        ("{normalize: true, lambda: 2.0, density: 0.1, rescale: true}", 7.5),
    ],
)
def test_normalised_task_arithmetic_of_mergekit_is_the_weighted_mean_of_deltas(
    tmp_path: Path, parameters: str, expected: float
) -> None:
    models = "[{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 3}}]"
    text = f"merge_method: task_arithmetic\nmodels: {models}\nparameters: {parameters}\n"
    assert merged(tmp_path, text) == [expected, 0.0]


def test_a_lone_model_of_mergekit_s_multislerp_is_handed_back_whatever_its_weight(tmp_path: Path) -> None:
    text = (
        "merge_method: multislerp\nmodels: [{model: b, parameters: {weight: [0.5, 0.25]}}]\n"
        "parameters: {normalize_weights: false}\n"
    )
    assert merged(tmp_path, text) == [5.0, 0.0]
