"""Fusing from Python, with methods that look at data too: the command line's weights, bit for bit."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fusionbench import Algorithm, ModelPool, TaskPool, configure, fuse, load_suite
from fusionbench.config import Recipe, RuntimeConfig, read_document
from fusionbench.errors import ConfigError, NotAdaptable
from fusionbench.merge import merge
from fusionbench.mixing import FusedWeights
from fusionbench.mixing.ensemble import Ensemble
from fusionbench.run import run
from fusionbench.run.rebuild import rebuild_to
from fusionbench.suites.tasks import open_tasks
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights
from tiny_causal_lm import make_causal_lm

Make = Callable[..., Recipe]
FEW = {"steps": 2, "batch": 4, "batches": 1, "adapt_split": "validation"}
WHOLE: dict[str, dict[str, Any]] = {
    "greedy_soup": {},
    "adamerging": FEW,
    "regmean_plusplus": {"examples": 4, "batch": 4},
    "fisher": {"examples": 4},
    "regmean": {"examples": 4},
}


def written(recipe: Make, folder: Path, method: str) -> dict[str, Tensor]:
    """What the command line's run of a method writes."""
    run(recipe(method, *(f"method.{key}={value}" for key, value in WHOLE[method].items())), out=folder)
    return dict(LazyWeights(open_source(folder / "model")))


def same(fused: Any, expected: Mapping[str, Tensor]) -> bool:
    assert isinstance(fused, FusedWeights)
    return {*fused.weights} <= {*expected} and all(torch.equal(fused.weights[n], expected[n]) for n in fused.weights)


@pytest.mark.parametrize("method", list(WHOLE))
def test_python_gives_the_command_lines_bits(recipe: Make, suite: Path, tmp_path: Path, method: str) -> None:
    expected = written(recipe, tmp_path / "run", method)
    assert same(fuse(method, suite, **WHOLE[method]), expected)
    algorithm = configure(method, **WHOLE[method])
    assert same(Algorithm.from_yaml(algorithm.to_yaml())(load_suite(suite).suite), expected)


def test_a_pool_and_its_tasks_may_be_given_apart(recipe: Make, suite: Path, tmp_path: Path) -> None:
    expected = written(recipe, tmp_path / "run", "greedy_soup")
    whole = load_suite(suite).suite
    document = read_document(suite)
    folders = {"base": suite.parent / "base", "cats": suite.parent / "cats", "dogs": suite.parent / "dogs"}
    pools: list[Any] = [whole.pool, ModelPool.model_validate(whole.pool.model_dump()), folders]
    tasks: list[Any] = [whole.tasks, TaskPool(tasks=document["tasks"]), document["tasks"], open_tasks(whole)]
    for pool in pools:
        assert same(fuse("greedy_soup", pool, whole.tasks), expected)
    for each in tasks:
        assert same(fuse("greedy_soup", whole.pool, each), expected)


def test_other_tasks_than_the_suites_own_may_be_named(suite: Path) -> None:
    whole = load_suite(suite).suite
    with pytest.raises(NotAdaptable, match="no tasks"):
        fuse("adamerging", whole, {"birds": whole.tasks.tasks["cats"]}, **FEW)


def test_live_models_need_no_tasks_where_nothing_is_looked_at(suite: Path) -> None:
    models = {name: dict(LazyWeights(open_source(suite.parent / name))) for name in ("base", "cats", "dogs")}
    with pytest.raises(ConfigError, match="validation data"):
        fuse("greedy_soup", whole_of(suite))
    fused = fuse("weighted_ensemble", whole_of(suite), weights={"dogs": 3, "cats": 1})
    assert isinstance(fused, Ensemble)
    assert [member.name for member in fused.members] == ["cats", "dogs"]
    merged = fuse("simple_average", models)
    name = next(iter(models["base"]))
    assert merged.weights[name].shape == models["base"][name].shape  # type: ignore[attr-defined]


def whole_of(suite: Path) -> ModelPool:
    """The suite's models without its tasks."""
    return load_suite(suite).suite.pool


def test_a_folder_keeps_what_a_method_left_and_without_one_nothing_is(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    first = fuse("adamerging", suite, **FEW)
    assert list(scratch.iterdir()) == []
    kept = fuse("adamerging", suite, folder=tmp_path / "kept", **FEW)
    assert same(kept, first.weights)  # type: ignore[attr-defined]
    learned = tmp_path / "kept" / "artefacts" / "coefficients"
    again = fuse("adamerging", suite, coefficients=str(learned), **FEW)
    assert same(again, first.weights)  # type: ignore[attr-defined]


def test_a_suites_defaults_of_a_method_count_from_python_too(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_suite(suite).suite
    tuned = whole.model_copy(update={"method_defaults": {"task_arithmetic": {"scale": "0"}}})
    base = dict(LazyWeights(open_source(suite.parent / "base")))
    assert same(fuse("task_arithmetic", tuned), base)
    assert not same(fuse("task_arithmetic", tuned, scale=0.5), base)
    assert not same(fuse("task_arithmetic", whole), base)


def test_a_device_is_asked_for_as_in_a_recipe(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    for method in ("pretrained", "slerp", "greedy_soup"):
        with pytest.raises(ConfigError, match=r"runtime\.device=cuda:1"):
            fuse(method, suite, runtime=RuntimeConfig(device="cuda:1"))


def test_an_algorithm_says_its_category_and_what_it_requires() -> None:
    assert (configure("ties").category, configure("ties").requirement) == ("merge", ("base",))
    assert configure("regmean").requirement == ("unlabelled",)
    assert (configure("smile").category, configure("smile").requirement) == ("mix", ("base",))


def test_mergekits_names_are_read_as_on_the_command_line() -> None:
    assert configure("dare_ties", density=0.5) == configure("dare", combine="ties", density=0.5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("method: ties\nseed: many", r"seed: expected a whole number"),
        ("method: ties\nbatch_norm: avrage", r"batch_norm: expected .*average"),
        ("method: ties\nsead: 1", r"sead"),
        ("seed: 1", r"method is missing"),
        ("method: {name: ties, density: 2}", r"method\.density"),
    ],
)
def test_what_is_wrong_with_an_algorithm_is_named(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Algorithm.from_yaml(text)
    with pytest.raises(ConfigError, match="batch_norm"):
        configure("ties", batch_norm="avrage")


@pytest.mark.parametrize(
    ("method", "values", "names"),
    [
        ("depth_upscaling", {"layers": ["range(0,2)", "range(1,2)"]}, ("a",)),
        ("moe_upscaling", {"copies": 2}, ("base",)),
        ("moe_merging", {}, ("base", "a", "b")),
    ],
)
def test_a_model_of_another_form_is_the_command_lines_and_is_saved_as_what_it_is(
    method: str, values: dict[str, Any], names: tuple[str, ...], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    for seed, name in enumerate(("base", "a", "b")):
        make_causal_lm(tmp_path / name, seed)
    places = {name: str(tmp_path / name) for name in names}
    if names == ("base",):
        places["a"] = places["base"]
    model: Any = fuse(method, places, **values)
    model.save(tmp_path / "made")
    said = [f"base={p}" if name == "base" else f"experts.{name}={p}" for name, p in places.items()]
    asked = [f"method.{key}={value}" for key, value in values.items()]
    recipe = Recipe.load(None, [*said, f"method={method}", *asked])
    (merge if method == "depth_upscaling" else rebuild_to)(recipe, tmp_path / "out")
    first, second = (open_source(tmp_path / place) for place in ("made", "out"))
    assert first.config == second.config
    assert first.specs.keys() == second.specs.keys()
    assert all(first.read(name) == second.read(name) for name in first.specs)
    assert (tmp_path / "made" / "tokenizer.json").read_bytes() == (tmp_path / "a" / "tokenizer.json").read_bytes()
    plain, found = AutoModelForCausalLM.from_pretrained(tmp_path / "made", output_loading_info=True)
    assert not any(found[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        answers = [module(torch.tensor([[5, 7, 3]])).logits for module in (plain, model.module)]
    torch.testing.assert_close(*answers, atol=1e-5, rtol=1e-5)
