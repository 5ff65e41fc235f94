"""Each mistake that a user of the mixing methods makes is one clear error, and nothing is written."""

import json
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from clips import logits, make_pool, pets, rebuilt, recipe_of

from fusionbench import load_fused
from fusionbench.config import Recipe
from fusionbench.errors import CheckpointError, ConfigError, IncompatibleModels
from fusionbench.merge import merge
from fusionbench.mixing.mixed import open_mixed
from fusionbench.weights.sources import open_source
from tiny_clip import make_clip
from tiny_texts import make_bert

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


BUILT = {
    "smile": ("method.k=2", "method.gate_k=2", "method.top_k=2"),
    "wemoe": ("method.steps=0",),
    "efficient_wemoe": ("method.steps=0",),
    "pwe_moe": ("method.steps=0",),
    "rank_one_moe": ("method.steps=0", "method.rank_k=3", "method.select_k=4"),
    "bitdelta": ("method.expert=e0",),
}


@pytest.mark.parametrize("method", BUILT)
def test_each_key_of_a_blueprint_that_is_missing_or_of_another_kind(
    method: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """One clear error, or a key that may be left out: never a model that fails when it is asked."""
    place = tmp_path / "out" / "model"
    run_any(recipe_of(folders, method, *BUILT[method]), tmp_path / "out")
    written, task = (place / "fusion_config.json").read_text(), pets(folders["base"])
    sound = json.loads(written)
    site = next(iter(sound["sites"]))
    parents: list[tuple[str, ...]] = [(), ("sites",), ("sites", site), ("sites", site, "settings")]
    for parent in parents:
        for key in reduce(dict.__getitem__, parent, sound):
            for wrong in (None, "x", ["x"], -1):
                document = json.loads(written)
                held = reduce(dict.__getitem__, parent, document)
                if wrong is None:
                    del held[key]
                else:
                    held[key] = wrong
                (place / "fusion_config.json").write_text(json.dumps(document))
                with suppress(CheckpointError):
                    assert logits(open_mixed(open_source(place)), task).isfinite().all(), (key, wrong)


@pytest.mark.parametrize(
    ("method", "key", "value", "said"),
    [
        ("smile", "top", 3, "3 of 2 experts a token"),
        ("efficient_wemoe", "kept", "x", r"settings\.kept|kept"),
        ("rank_one_moe", "chosen", 7, "7 of 6 triples"),
    ],
)
def test_settings_that_no_module_can_have(
    method: str, key: str, value: int, said: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    place = tmp_path / "out" / "model"
    run_any(recipe_of(folders, method, *BUILT[method]), tmp_path / "out")
    written = (place / "fusion_config.json").read_text()
    (place / "fusion_config.json").write_text(_changed(written, key, value))
    with pytest.raises(CheckpointError, match=said):
        _ = open_mixed(open_source(place)).module  # type: ignore[union-attr]


def test_a_preference_of_a_saved_model_over_another_base(folders: dict[str, Path], tmp_path: Path) -> None:
    """Other families, and bases with more layers or other widths: never a model that is partly the other base."""
    from transformers import CLIPConfig, CLIPModel

    run_any(recipe_of(folders, "pwe_moe", "method.steps=0"), tmp_path / "out")
    place = tmp_path / "out" / "model"

    def asked(base: Path) -> Any:
        return load_fused(place, {"base": str(base), "e": str(base)}, preference=[0, 1])

    make_clip(tmp_path / "half", seed=0)
    CLIPModel.from_pretrained(folders["base"]).bfloat16().save_pretrained(tmp_path / "half")
    for base, kind in ((folders["base"], "F32"), (tmp_path / "half", "BF16")):
        assert {spec.dtype for spec in asked(base).specs.values() if spec.is_float} == {kind}
    make_clip(tmp_path / "deep", seed=5)
    config = CLIPConfig.from_pretrained(folders["base"])
    config.vision_config.num_hidden_layers = 3
    CLIPModel(config).save_pretrained(tmp_path / "deep")
    with pytest.raises(IncompatibleModels, match=r"lacks 16 tensors of .*deep, .*layers\.2\..* Choose its own suite"):
        asked(tmp_path / "deep")
    make_bert(tmp_path / "bert")
    with pytest.raises(ConfigError, match="is of the family 'clip', the tasks are for 'encoder'"):
        asked(tmp_path / "bert")
    with pytest.raises(ConfigError, match=r"^A preference weighs the models of pwe_moe, and this is none"):
        load_fused(folders["e0"], {name: str(path) for name, path in folders.items()}, preference=[0, 1])


def test_a_blueprint_of_other_experts_than_its_modules_have(folders: dict[str, Path], tmp_path: Path) -> None:
    run_any(recipe_of(folders, "pwe_moe", "method.steps=0"), tmp_path / "out")
    file = tmp_path / "out" / "model" / "fusion_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "experts": ["e0"]}))
    with pytest.raises(CheckpointError, match=r"names 1 experts \(e0\), and has 2 in .*mlp\. Fuse again"):
        open_mixed(open_source(file.parent))


def _changed(written: str, key: str, value: object) -> str:
    document = json.loads(written)
    next(iter(document["sites"].values()))["settings"][key] = value
    return json.dumps(document)


def run_any(recipe: Recipe, folder: Path) -> None:
    """Run a recipe that has no tasks, whatever its method's kind."""
    from fusionbench.run import run

    run(recipe, out=folder)
