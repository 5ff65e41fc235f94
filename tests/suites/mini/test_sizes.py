"""Every suite that is built here has its three sizes; `large` names a network that can be made, larger than `small`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusionbench.errors import ConfigError
from fusionbench.registry import load_attribute, suites
from fusionbench.suites.load import load_suite
from fusionbench.suites.mini import assembly
from fusionbench.suites.mini.assembly import MiniRecipe, Parts

SUITES = sorted(name for name in suites if name.startswith("mini/"))
BORROWED = {"mini/t5_lora", "mini/smollm2", "mini/causal_lm_harness"}
"""Their bases are another suite's, or a package's."""


class Stopped(Exception):
    """Raised where a build would begin."""


def resolved(name: str, size: str, monkeypatch: pytest.MonkeyPatch) -> tuple[MiniRecipe, Parts]:
    """Return recipe and parts of a size, as the build would get them; nothing is built."""
    seen: list[Any] = []

    def stop(folder: Path, make: Callable[[Path], None]) -> None:
        make(folder)

    def record(working: Path, parts: Parts, recipe: MiniRecipe, **about: Any) -> None:
        seen.extend((recipe, parts))
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(assembly, "build_once", stop)
        patch.setattr("fusionbench.suites.mini.build.build", record)
        with pytest.raises(Stopped):
            load_suite(name, size=size)
    return seen[0], seen[1]


@pytest.mark.parametrize("name", SUITES)
def test_every_size_resolves_to_a_recipe_and_what_builds_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {size: resolved(name, size, monkeypatch) for size in ("tiny", "small", "large")}

    for recipe, parts in found.values():
        assert recipe.experts.steps > 0
        assert recipe.mtl.steps > 0
        assert parts.family in ("clip", "image_classifier", "encoder", "gpt2", "t5", "causal_lm", "scene")
    with pytest.raises(ConfigError, match="has no size 'huge'"):
        load_suite(name, size="huge")


def entries(network: Any) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


NETWORKS: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "mini/gpt2": ("gpt2_parts:new_gpt2", lambda new, recipe: new(recipe.transformer, 500, 1, 0)),
    "mini/image": ("image_parts:new_resnet", lambda new, recipe: new(recipe.backbone, 0)),
    "mini/scene": ("scene_parts:new_encoder", lambda new, recipe: new(recipe.encoder, 0)),
    "mini/causal_lm": ("causal_lm_parts:new_llama", lambda new, recipe: new(recipe.network, 500, 0)),
    "mini/t5": ("t5_parts:_new_model", lambda new, recipe: new(recipe.network, 500, 0)),
    "mini/clip": ("pretraining:_new_model", lambda new, recipe: new(recipe.towers, 500, 10.0, 0)),
}
PACKAGED = {"mini/encoder"}
"""Of `large` the base is a package's."""


def test_every_suite_has_a_network_here_or_borrows_one() -> None:
    assert set(SUITES) <= set(NETWORKS) | PACKAGED | BORROWED


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_of_large_can_be_made_and_is_larger(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, make = NETWORKS[name]
    new = load_attribute(f"fusionbench.suites.mini.{place}")

    small, large = (entries(make(new, resolved(name, size, monkeypatch)[0])) for size in ("small", "large"))

    assert large > 1.5 * small
