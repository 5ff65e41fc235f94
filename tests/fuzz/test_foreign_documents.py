"""Adapter configurations, blueprints, experiments, suites, recipes of peers: whatever is there is read or refused."""

import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from spoiling import JUNK, read_or_refused, spoiled

from adapted import adapt, llama
from fusionbench.compat import load_recipe, load_stages
from fusionbench.config import Recipe
from fusionbench.experiments.model import load_experiment, points
from fusionbench.mixing.blueprint import FUSION_CONFIG, read_blueprint
from fusionbench.mixing.mixed import MixedModel, open_mixed
from fusionbench.run.rebuild import rebuild_to
from fusionbench.suites import load_suite
from fusionbench.weights.adapters import open_adapter
from fusionbench.weights.adapters.configuration import CONFIG_NAME, read_adapter_config
from fusionbench.weights.sources import open_source
from tiny_clip import make_clip


def write(path: Path, document: object) -> Path:
    """Write a document as JSON, which is YAML too, whatever stands in it."""
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and a LoRA adapter on it; its configuration is overwritten."""
    folder = tmp_path_factory.mktemp("adapter")
    adapt(folder, llama(), peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"]))
    return folder


LORA = {
    "peft_type": "LORA", "base_model_name_or_path": "base", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"],
    "fan_in_fan_out": False, "bias": "none", "use_rslora": False, "use_dora": False, "modules_to_save": None,
    "rank_pattern": {"k_proj": 3}, "alpha_pattern": {}, "init_lora_weights": True, "lora_dropout": 0.0,
    "task_type": "CAUSAL_LM", "inference_mode": True,
}  # fmt: skip


@settings(max_examples=200)
@given(spoiled(LORA) | JUNK)
def test_any_configuration_of_an_adapter_is_read_or_refused(adapter: Path, document: object) -> None:
    write(adapter / "adapter1" / CONFIG_NAME, document)
    read_or_refused(read_adapter_config, adapter / "adapter1")

    def open_whole() -> None:
        source = open_adapter(adapter / "adapter1", open_source(adapter / "base"), "dense")
        source.read("model.layers.0.self_attn.q_proj.weight")

    read_or_refused(open_whole)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP with SMILE maps, as written by the method; its blueprint is overwritten."""
    folder = tmp_path_factory.mktemp("mixed")
    for seed, name in enumerate(("base", "cats", "dogs")):
        make_clip(folder / name, seed)
    named = [f"experts.{name}={folder / name}" for name in ("cats", "dogs")]
    asked = ["method=smile", "method.gate_k=2", "method.k=4", "runtime.threads=1"]
    rebuild_to(Recipe.load(None, [f"base={folder / 'base'}", *named, *asked]), folder / "model")
    shutil.copy(folder / "model" / FUSION_CONFIG, folder / "true.json")
    return folder


@settings(max_examples=100)
@given(data=st.data())
def test_any_blueprint_is_built_or_refused(mixed: Path, data: st.DataObject) -> None:
    true = json.loads((mixed / "true.json").read_text())
    few = {**true, "sites": dict(list(true["sites"].items())[:2])}
    write(mixed / "model" / FUSION_CONFIG, data.draw(spoiled(few) | spoiled(true) | JUNK))
    read_or_refused(read_blueprint, mixed / "model")

    def build() -> None:
        model = open_mixed(open_source(mixed / "model"))
        assert isinstance(model, MixedModel)
        assert isinstance(model.module, torch.nn.Module)

    read_or_refused(build)


EXPERIMENT = {
    "title": "T", "paper": "arXiv:2406.03280", "kind": "table", "published": ["a.csv"], "figures": ["f"],
    "suite": {"name": "clip-vit-b32/ta8"}, "stand_in": {"name": "mini/clip", "size": "tiny"},
    "rows": [
        {"label": "a", "method": {"name": "ties"}, "printed": {"method": "ties", "variant": {"x": "y"}}},
        {"label": "b", "method": {"name": "task_arithmetic"}, "select": {"method.scale": [0.1, 0.2]}},
    ],
    "vary": {"method.scale": [0.1, 0.3]}, "variant": {"method.scale": "scaling"},
    "claims": [{"text": "a is better.", "higher": "a", "lower": "b"}], "notes": ["n"], "tasks": {"MNIST": "mnist"},
    "shorter": {"quick": {"ties": {"density": 0.1}}}, "fewer": {"quick": {"method.scale": [0.1]}},
}  # fmt: skip


@settings(max_examples=200)
@given(spoiled(EXPERIMENT) | JUNK)
def test_any_experiment_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, document: object) -> None:
    path = write(tmp_path_factory.getbasetemp() / "experiment.yaml", document)

    def load() -> None:
        experiment = load_experiment(str(path))
        for stand_in in (True, False):
            for point in points(experiment, stand_in=stand_in, profile=next(iter(experiment.shorter), None)):
                point.load()

    read_or_refused(load)


SUITE = {
    "name": "mine",
    "pool": {"base": "./base", "experts": {"a": "./a", "b": {"model": "./b", "task": "b"}}, "family": "auto"},
    "tasks": {
        "a": {"dataset": "./a-data", "class_names": ["x", "y"], "templates": ["a {}"], "splits": {"test": "test"}},
        "b": {"dataset": "./b-data", "class_names": ["x", "y"]},
    },
    "method_defaults": {"ties": {"density": 0.2}},
}


@settings(max_examples=200)
@given(spoiled(SUITE) | JUNK)
def test_any_suite_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, document: object) -> None:
    path = write(tmp_path_factory.getbasetemp() / "suite.yaml", document)
    read_or_refused(load_suite, path)
    if isinstance(document, dict):
        read_or_refused(load_suite, document)


MERGEKIT = [
    {
        "models": [
            {"model": "./a", "parameters": {"weight": 0.5, "density": [0.1, 0.9]}},
            {"model": "./b", "parameters": {"weight": [{"filter": "mlp", "value": 0.3}, {"value": 1}]}},
        ],
        "base_model": "./base", "merge_method": "ties", "parameters": {"normalize": True, "lambda": 0.7},
        "dtype": "bfloat16", "tokenizer_source": "union", "chat_template": "auto",
    },
    {
        "slices": [
            {"sources": [{"model": "./a", "layer_range": [0, 4]}, {"model": "./b", "layer_range": [0, 4]}]},
            {"sources": [{"model": "./a", "layer_range": [4, 8]}, {"model": "./b", "layer_range": [4, 8]}]},
        ],
        "base_model": "./a", "merge_method": "slerp",
        "parameters": {"t": [{"filter": "x", "value": [0, 1]}, {"value": 0}]},
    },
    {"base_model": "./a", "gate_mode": "hidden", "experts": [{"source_model": "./a", "positive_prompts": ["p"]}]},
]  # fmt: skip


@settings(max_examples=200)
@given(st.sampled_from(MERGEKIT).flatmap(spoiled), st.integers(0, 1))
def test_any_recipe_of_a_peer_is_translated_or_refused(
    tmp_path_factory: pytest.TempPathFactory, document: object, twice: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "peer.yml"
    text = yaml.safe_dump(json.loads(json.dumps(document)), allow_unicode=True)
    path.write_text("---\n".join([text] * (1 + twice)), encoding="utf-8", errors="surrogatepass")
    read_or_refused(load_recipe, path)
    read_or_refused(load_stages, path)


PEERS_WORDS = ["method=ties_merging", "method.scaling_factor=0.3", "method.threshold=20", "experts.a=./a", "base=./b"]
SAID = st.builds(
    "{}{}={}".format,
    st.sampled_from(["", "+", "~"]),
    st.sampled_from(
        ["method", "method.scaling_factor", "method.threshold", "method.name", "modelpool", "modelpool.models.a",
         "taskpool", "fabric", "method.weights", "_recursive_"]
    ),
    st.text(max_size=12) | st.sampled_from(["ties_merging", "clip-vit-base-patch32_TA8", "{a: [}", "${x}", "null"]),
)  # fmt: skip


@settings(max_examples=200)
@given(st.lists(SAID, max_size=3), st.integers(0, len(PEERS_WORDS)))
def test_any_words_of_fusion_bench_are_translated_or_refused(more: list[str], kept: int) -> None:
    read_or_refused(load_recipe, None, [*PEERS_WORDS[:kept], *more])


def test_what_is_spoiled_was_good(adapter: Path, mixed: Path, tmp_path: Path) -> None:
    """Else every document above would be refused at its first key."""
    write(adapter / "adapter1" / CONFIG_NAME, LORA)
    assert open_adapter(adapter / "adapter1", open_source(adapter / "base"), "dense").specs
    shutil.copy(mixed / "true.json", mixed / "model" / FUSION_CONFIG)
    model = open_mixed(open_source(mixed / "model"))
    assert model is not None
    assert sum(parameter.numel() for parameter in model.module.parameters()) > 0
    experiment = load_experiment(str(write(tmp_path / "experiment.yaml", EXPERIMENT)))
    assert len(list(points(experiment, stand_in=True))) == 4
    assert list(load_suite(SUITE).suite.pool.experts) == ["a", "b"]
    for document, method in zip(MERGEKIT[:2], ("ties", "slerp"), strict=True):
        assert load_recipe(write(tmp_path / "peer.yml", document))[0].method.name == method
    assert load_recipe(None, PEERS_WORDS)[0].method.name == "ties"
