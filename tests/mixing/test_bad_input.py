"""Each mistake that a user of the mixing methods makes is one clear error, and nothing is written."""

import json
from pathlib import Path

import pytest
from clips import make_pool, pets, rebuilt, recipe_of

from fusionbench.config import Recipe
from fusionbench.errors import CheckpointError, ConfigError, IncompatibleModels
from fusionbench.merge import merge
from fusionbench.mixing.mixed import open_mixed
from fusionbench.weights.sources import open_source
from tiny_clip import make_clip

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_pool(tmp_path_factory.mktemp("clips"))


def test_blocks_out_of_range(tmp_path: Path) -> None:
    from fusionbench.config import Recipe
    from tiny_causal_lm import make_causal_lm

    make_causal_lm(tmp_path / "model")
    recipe = Recipe.load(
        None, [f"experts.m={tmp_path / 'model'}", "method=depth_upscaling", 'method.layers=["range(0,3)"]']
    )
    with pytest.raises(ConfigError, match=r"'range\(0,3\)' is beyond the model's layers, 0 to 1"):
        merge(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (("smile", "method.k=17", "method.gate_k=2"), r"method\.k=17: .* is 16×16 and has 16 directions"),
        (("smile", "method.k=2", "method.gate_k=17"), r"method\.gate_k=17: .* has 16 directions"),
        (("smile", "method.k=2", "method.gate_k=2", "method.top_k=3"), r"method\.top_k=3 .* cannot be chosen of 2"),
        (("singular_projection", "method.k=17", "method.expert=e0"), r"method\.k=17: .* has 16 directions"),
    ],
    ids=str,
)
def test_k_larger_than_the_rank(method: tuple[str, ...], said: str, folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        rebuilt(folders, tmp_path / "out", *method)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["smile", "wemoe", "efficient_wemoe", "pwe_moe", "bitdelta", "recombination"])
def test_experts_of_different_widths(method: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """A base with twice the width in its MLPs; the message names expert, tensor and both shapes."""
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig.from_pretrained(folders["e0"])
    config.vision_config.intermediate_size = 64
    wide = tmp_path / "wide"
    make_clip(wide, seed=5)
    CLIPModel(config).save_pretrained(wide)
    mixed = {"base": folders["base"], "e0": folders["e0"], "broad": wide}
    more = {
        "smile": ["method.k=2", "method.gate_k=2"],
        "bitdelta": ["method.expert=broad"],
        "pwe_moe": ["method.steps=0"],
    }.get(method, [])
    with pytest.raises(IncompatibleModels, match=r"broad.*mlp\.fc1(.|\n)*64.*32|broad.*mlp\.fc1(.|\n)*32.*64"):
        run_any(recipe_of(mixed, method, *more), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("preference", ["[0.2,0.9]", "[1]", "[-0.1,1.1]", "[0.2,some]"])
def test_a_preference_off_the_simplex(preference: str, folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"method\.preference="):
        run_any(recipe_of(folders, "pwe_moe", "method.steps=0", f"method.preference={preference}"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["smile", "wemoe", "pwe_moe"])
def test_a_damaged_fusion_config(method: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """Whatever wrote it: no JSON, another rank or number of experts, a part that is not there."""
    more = {"smile": ["method.k=2", "method.gate_k=2"]}.get(method, ["method.steps=0"])
    place = tmp_path / "out" / "model"
    run_any(recipe_of(folders, method, *more), tmp_path / "out")
    written = (place / "fusion_config.json").read_text()
    site = next(iter(json.loads(written)["sites"].values()))["settings"]
    changes = {"experts": 3, "rank": 3} if method == "smile" else {"experts": 3, "parts": "fc1,fc9", "depth": 7}
    assert set(changes) <= set(site)
    for text in ("{", *(_changed(written, key, value) for key, value in changes.items())):
        (place / "fusion_config.json").write_text(text)
        with pytest.raises(CheckpointError) as raised:
            _ = open_mixed(open_source(place)).module  # type: ignore[union-attr]
        assert "\n\n" not in str(raised.value)
    (place / "fusion_config.json").write_text(written)
    assert open_mixed(open_source(place)).for_task(pets(folders["base"])) is not None  # type: ignore[union-attr]


def _changed(written: str, key: str, value: object) -> str:
    document = json.loads(written)
    next(iter(document["sites"].values()))["settings"][key] = value
    return json.dumps(document)


def run_any(recipe: Recipe, folder: Path) -> None:
    """Run a recipe that has no tasks, whatever its method's kind."""
    from fusionbench.run import run

    run(recipe, out=folder)
