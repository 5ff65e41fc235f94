"""Every mixing method on every family: evaluated, saved, opened to the same scores; or one error with the reason."""

import hashlib
import importlib
from pathlib import Path
from typing import Any

import pytest
import test_build
import test_mini_image
import test_mini_scene
import test_mini_t5
import test_text_suites

from fusionbench import Recipe, load_suite
from fusionbench.config import SuiteConfig, TasksConfig
from fusionbench.errors import MissingPart
from fusionbench.run import evaluate_model, run
from fusionbench.suites.mini.assembly import read_recipes
from fusionbench.suites.mini.causal_lm_recipe import MiniCausalLmRecipe
from tiny_causal_lm import MICRO

SIZES: dict[str, Any] = {
    "clip": test_build.MICRO,
    "image": test_mini_image.MICRO,
    "encoder": test_text_suites.MICRO,
    "gpt2": test_text_suites.MICRO,
    "t5": test_mini_t5.MICRO,
    "causal_lm": MiniCausalLmRecipe.read(MICRO),
    "scene": test_mini_scene.MICRO,
}
QUICK = ("method.steps=1", "method.batch=2", "method.depth=1")
METHODS: dict[str, tuple[str, ...]] = {
    "simple_ensemble": ("method.over=probabilities",),
    "weighted_ensemble": ("method.trials=2",),
    "max_model": (),
    "recombination": (),
    "wemoe": QUICK,
    "efficient_wemoe": QUICK,
    "pwe_moe": (*QUICK[:2], "method.grid=2"),
    "pwe_moe preferred": (*QUICK[:2], "method.parts=mlp_attention", "method.preference=[0.25,0.75]"),
    "smile": ("method.gate_k=2", "method.k=4"),
    "singular_projection": ("method.k=4",),
    "bitdelta": (),
}
ONE_EXPERT = ("singular_projection", "bitdelta")
ROUTED = ("wemoe", "efficient_wemoe")
WRITING = ("t5", "causal_lm")
REFUSED: dict[str, dict[str, str]] = {
    "encoder": dict.fromkeys((*ROUTED, "pwe_moe", "pwe_moe preferred"), "no MLP as one module"),
    "image": {
        **dict.fromkeys((*ROUTED, "pwe_moe", "pwe_moe preferred"), "no list of MLPs"),
        **dict.fromkeys(("smile", *ONE_EXPERT), "no linear map"),
    },
    "scene": {
        **dict.fromkeys((*ROUTED, "pwe_moe", "pwe_moe preferred"), "no list of MLPs"),
        **dict.fromkeys(("smile", *ONE_EXPERT), "no linear map"),
    },
}
"""Why a method does not run on a family's suite; mini/image has ResNets, tests/mixing/test_families.py a ViT."""


@pytest.fixture(scope="module", params=SIZES)
def suite(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A family's name and two of its experts, its suite built in the place of the size tiny."""
    name, folder = request.param, tmp_path_factory.mktemp("suites")
    module = importlib.import_module(f"fusionbench.suites.mini.{name}")
    found = ({"tiny": SIZES[name]}, read_recipes(f"mini/{name}", type(SIZES[name]))[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "recipes" if hasattr(module, "recipes") else "read_recipes", lambda *_: found)
        patch.setenv("FUSIONBENCH_CACHE", str(folder))
        yield name, list(load_suite(f"mini/{name}", size="tiny").suite.pool.experts)[:2], folder


def digests(folder: Path) -> dict[str, str]:
    """What every model of the suite holds."""
    files = sorted(folder.rglob("*.safetensors"))
    found = {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files if "suites" in file.parts}
    assert len(found) >= 3
    return found


@pytest.mark.parametrize("method", METHODS)
def test_a_method_runs_on_a_family_or_says_what_is_missing(method: str, suite: Any, tmp_path: Path) -> None:
    name, experts, folder = suite
    before = digests(folder)
    more = [f"method.expert={experts[0]}"] if method in ONE_EXPERT else []
    more += ["method.route=token"] if method in ROUTED and name in WRITING else []
    chosen = [f"suite=mini/{name}", "suite.size=tiny", f"suite.experts=[{','.join(experts)}]", "tasks.limit=4"]
    recipe = Recipe.load(None, [*chosen, f"method={method.split()[0]}", *METHODS[method], *more])
    reason = REFUSED.get(name, {}).get(method)
    if reason is not None:
        with pytest.raises(MissingPart, match=reason):
            run(recipe, out=tmp_path / "out")
        assert not (tmp_path / "out" / "model").exists()
        return
    result = run(recipe, out=tmp_path / "out")
    assert digests(folder) == before
    first = result.report.variants[0]
    assert set(first.tasks) | set(result.report.skipped) >= set(experts)
    assert first.model is not None
    if first.model.kind in ("weights", "module") and method != "recombination":
        config = SuiteConfig.read({"name": f"mini/{name}", "size": "tiny", "experts": experts}, "the suite")
        again = evaluate_model(str(tmp_path / "out" / "model"), config, TasksConfig(limit=4))
        assert again.tasks == first.tasks
        assert (tmp_path / "out" / "model" / "fusion_config.json").exists() is (first.model.kind == "module")
