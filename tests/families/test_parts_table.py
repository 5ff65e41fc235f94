"""The table family × part × methods in docs/families.md, against what is known of the architectures."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from fusionbench.errors import MissingPart
from fusionbench.families import family_named
from fusionbench.mixing.sites import block_linear_sites, linear_sites
from fusionbench.registry import methods, methods_that_need

SCRIPT = Path(__file__).parents[2] / "scripts" / "family_parts.py"
NO_MLP = ("encoder", "bert"), ("scene", "dilated_resnet"), ("image_classifier", "resnet")
ASKED = {linear_sites: {"linears"}, block_linear_sites: {"linears", "blocks"}}


@pytest.fixture(scope="module")
def table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("family_parts", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_knows_which_architectures_have_a_part(table: ModuleType) -> None:
    images = table.held_by("image_classifier")

    assert set(images["linears"]) == {"vit", "dinov2", "convnext"}
    assert set(images["blocks"]) == {"vit", "dinov2", "convnext", "resnet"}
    assert images["token_mask"] == []
    assert set(images["permutations"]) == {"vit", "dinov2", "convnext", "resnet"}
    assert table.held_by("scene")["mlps"] == table.held_by("encoder")["mlps"] == []
    assert table.held_by("clip")["permutations"] == ["clip"]
    assert table.held_by("scene")["permutations"] == []
    assert table.held_by("t5")["text_codec"] == ["t5"]
    assert table.held_by("gpt2")["text_codec"] == []


def test_a_part_that_only_some_architectures_have_is_shown_with_their_names(table: ModuleType) -> None:
    every = ("vit", "resnet")

    assert [table.cell(held, every) for held in (["vit", "resnet"], ["vit"], [])] == ["yes", "vit", "–"]


@pytest.mark.parametrize(("family", "kind"), NO_MLP)
def test_a_family_without_mlps_names_every_method_that_needs_them(table: ModuleType, family: str, kind: str) -> None:
    found = family_named(family)
    module = found.skeleton(table.configuration(kind))

    with pytest.raises(MissingPart) as error:
        found.mlps(module)  # type: ignore[attr-defined]

    needing = methods_that_need("mlps")
    assert {"wemoe", "efficient_wemoe"} <= set(needing)
    assert all(name in str(error.value) for name in (family, *needing))


def test_methods_whose_sites_are_linear_maps_say_so() -> None:
    rebuilding = [name for name in methods if methods[name].kind == "rebuild"]
    found = {name: ASKED.get(methods[name].load().sites, set()) for name in rebuilding}

    assert {"smile", "singular_projection", "bitdelta"} <= {name for name, parts in found.items() if parts}
    for name, parts in found.items():
        assert parts <= set((methods[name].data or {}).get("parts", ())), name
