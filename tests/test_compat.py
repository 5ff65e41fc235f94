"""Peers' words: what is translated, what it becomes, and what is refused by name."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fusionbench import registry
from fusionbench.compat import from_fusion_bench, from_mergekit, load_recipe, under_our_name
from fusionbench.compat.fusion_bench.algorithms import ALGORITHMS, KNOWN_AS
from fusionbench.compat.fusion_bench.pools import POOLS, TASKPOOLS
from fusionbench.compat.mergekit.words import METHODS
from fusionbench.config import MethodConfig, Recipe, parse_document
from fusionbench.errors import ConfigError
from fusionbench.merge import merge
from fusionbench.overrides import sweep
from fusionbench.parameters import Density, PerExpert, Scale
from fusionbench.registry import Entry
from fusionbench.signatures import describe

NAMES = """
pretrained individual traditional_mtl simple_average weighted_average greedy_soup task_arithmetic expo ties dare della
breadcrumbs magmax slerp nuslerp multislerp karcher model_stock sce arcee_fusion nearswap passthrough tsv_m iso_c
iso_cts wudi knots lines opcm pcb emr tall_mask consensus git_rebasin zipit fisher regmean regmean_plusplus adamerging
concrete_task_arithmetic concrete_adamerging surgery fw_merging doge_ta simple_ensemble weighted_ensemble max_model
depth_upscaling moe_upscaling moe_merging wemoe efficient_wemoe pwe_moe smile singular_projection recombination
rank_one_moe bitdelta
"""
"""The design's list of methods."""


def ties(
    *,
    density: PerExpert[Density] = 0.2,
    weights: PerExpert[float] = 1.0,
    scale: Scale = 1.0,
    combine: Literal["mean", "sum", "max"] = "mean",
) -> None:
    """Merge what agrees."""


def task_arithmetic(*, weights: PerExpert[float] = 1.0, scale: Scale = 0.3) -> None:
    """Add task vectors."""


def weighted_average(*, weights: PerExpert[float] = 1.0, normalize: bool = True) -> None:
    """Average."""


def dare(
    *, density: PerExpert[Density] = 0.9, weights: PerExpert[float] = 1.0, scale: Scale = 1.0, combine: str = "linear"
) -> None:
    """Drop and rescale."""


def opcm() -> None:
    """Project."""


def simple_average() -> None:
    """Average."""


def pretrained() -> None:
    """Return the base."""


FUNCTIONS = (ties, task_arithmetic, weighted_average, dare, opcm, simple_average, pretrained)
PEERS = {"ties": {"fusion_bench": {"combine": "sum"}, "mergekit": {}}, "dare": {"mergekit": {}}}
SUITES = {pool.suite for pool in POOLS.values()} | {"mini/clip"}


@pytest.fixture(autouse=True, scope="module")
def _registered() -> Iterator[None]:
    entries = {
        f.__name__: Entry(f.__name__, "", "no:where", parameters=describe(f), compat=PEERS.get(f.__name__))
        for f in FUNCTIONS
    }
    suites = {name: Entry(name, "", "no:where") for name in SUITES}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_built_in", lambda kind: {"method": entries, "suite": suites}.get(kind, {}))
        yield


def refusals(call: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        call()
    return str(caught.value).split("\n")


# fusion-bench

B32 = "modelpool=CLIPVisionModelPool/clip-vit-base-patch32"
TA8 = "taskpool=CLIPVisionModelTaskPool/clip-vit-classification_TA8"
TA = "method=task_arithmetic"
TIES = ["method=ties", "method.compat=fusion_bench", "method.scale=0.3", "method.density=0.2", "method.combine=sum"]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (["suite=mini/clip", "method=ties", "method.scale=0.3", "seed=1"], None),
        ([TA, "method.scaling_factor=0.3"], [TA, "method.scale=0.3"]),
        ([TA, "++method.scaling_factor=0,0.1"], [TA, "++method.scale=0,0.1"]),
        (["method.scaling_factor=range(0,3)", TA], ["method.scale=0,1,2", TA]),
        (["method.scaling_factor=choice(1)", TA], ["method.scale=choice(1)", TA]),
        (["method=ties_merging"], TIES),
        (["method.threshold=30", "method=ties_merging"], [*TIES, "method.density=0.3"]),
        (["method=ties_merging", "method.threshold=0.25"], [*TIES, "method.density=0.25"]),
        (["method=ties_merging", "method.threshold=100,1,12.5"], [*TIES, "method.density=1,1,0.125"]),
        (["method=ties_merging", "method.merge_func=mean", "method.remove_keys=[]"], [*TIES, "method.combine=mean"]),
        (["method=ties", "method.threshold=20"], ["method=ties", "method.density=0.2"]),
        (["method=ties/fusion_bench", "method.merge_func=max"], ["method=ties/fusion_bench", "method.combine=max"]),
        (["method=linear/weighted_average", "method.weights=[1,2]"],
         ["method=weighted_average", "method.weights=[0.5,0.5]", "method.normalize=true", "method.weights=[1,2]"]),
        (["method=linear/ties_merging_for_causallm", "method.show_pbar=false"], TIES),
        (["method=dare/ties_merging", "method.rescale=false", "method.sparsity_ratio=0.9"],
         ["method=dare", "method.combine=ties", "method.density=0.5", "method.rescale=inverse", "method.scale=0.5",
          "method.ties_density=0.2", "method.normalize=false", "method.rescale=none", "method.density=0.1"]),
        (["method=dare", "method.rescale=none"], None),
        (["method=dare/simple_average"],
         ["method=dare", "method.combine=linear", "method.normalize=true", "method.scale=1", "method.density=0.5",
          "method.rescale=inverse"]),
        (["method=slerp/slerp", "method.t=0.25", "method.DOT_THRESHOLD=0.9995"],
         ["method=slerp", "method.t=0.5", "method.t=0.25"]),
        (["method=dummy"], ["method=pretrained"]),
        (["fast_dev_run=true", "print_config=false", "dry_run=false", "report_save_path=null"], ["tasks.limit=128"]),
        (["fast_dev_run=False"], []),
        (["corruption=motion_blur", "fabric.accelerator=gpu", "fabric.devices=1", "fabric=auto"],
         ["tasks.corruption=motion_blur", "runtime.device=cuda"]),
        (["modelpool.models._pretrained_=org/b", "modelpool.models.svhn=org/s@v1"],
         ["base=org/b", "++experts.svhn=org/s@v1"]),
        ([f"{B32}_TA8", TA8], ["suite=clip-vit-b32/ta8"]),
        ([f"{B32}_TA8_model_only"], ["suite=clip-vit-b32/ta8"]),
        ([TA8], ["suite=clip-vit-b32/ta8"]),
        (["modelpool=CLIPVisionModelPool/clip-vit-large-patch14_TA8", f"{TA8}_L14"], ["suite=clip-vit-l14/ta8"]),
        ([f"{B32}_TA8", f"{TA8}_val"], ["suite=clip-vit-b32/ta8", "tasks.split=validation"]),
        ([f"{B32}_generalization_exp1", TA8],
         ["suite=clip-vit-b32/ta8", "suite.experts=[sun397,stanford_cars,resisc45,dtd,svhn,gtsrb]",
          "suite.unseen=[eurosat,mnist]"]),
        ([f"{B32}_TA8", "taskpool=clip-vit-base-patch32_robustness_clean"],
         ["suite=clip-vit-b32/ta8", "tasks.seen=[stanford_cars,eurosat,resisc45,gtsrb]"]),
        (["modelpool=Seq2SeqLMPool/flan-t5-base_glue_lora16", "taskpool=flan-t5_glue_text_generation"],
         ["suite=flan-t5-base/glue8-lora"]),
    ],
)  # fmt: skip
def test_keys_of_fusion_bench_become_ours_with_a_note(theirs: list[str], ours: list[str] | None) -> None:
    found, notes = from_fusion_bench(theirs)
    expected = theirs if ours is None else ours
    assert found == expected
    assert bool(notes) is (found != theirs)
    assert all(any(text.split("=")[0] in note for note in notes) for text in theirs if text not in found)


def test_the_method_of_the_recipe_s_file_tells_what_a_key_means() -> None:
    assert from_fusion_bench(["method.scaling_factor=.5"], method="task_arithmetic")[0] == ["method.scale=.5"]
    assert from_fusion_bench(["method.scaling_factor=.5"])[0] == ["method.scaling_factor=.5"]
    assert from_fusion_bench(["method.scaling_factor=.5"], method="simple_average")[0] == ["method.scaling_factor=.5"]


@pytest.mark.parametrize(
    ("theirs", "line"),
    [
        ("method=clip_task_wise_adamerging",
         "clip_task_wise_adamerging is adamerging here, with other keys; this version does not have it yet."),
        ("method=opcm/opcm_general", "opcm/opcm_general is opcm here, with other keys; see `fusionbench show opcm`."),
        ("method=clip_finetune", "fusion-bench's clip_finetune is not a method here; see `fusionbench finetune`."),
        ("method=lm_finetune/fullfinetune_sft", "is not a method here; see `fusionbench finetune`."),
        ("method=analysis/task_vector_cos_similarity", "is not a method here; see `fusionbench analyze`."),
        ("method=simple_average,ties_merging", "in a sweep use our words; ties_merging is ties here."),
        ("dry_run=true", "fusion-bench's dry_run has no equal; add --dry-run."),
        ("fast_dev_run=2", "expected true or false."),
        ("report_save_path=out/x.json", "has no equal; report.json is in the run's folder: --out DIR."),
        ("merged_model_save_path=out", "has no equal; write with --out DIR; the model is in DIR/model."),
        ("fabric.loggers.root_dir=x", "fusion-bench's fabric.loggers.root_dir has no equal; runtime.device and"),
        ("fabric.precision=16-mixed", "has no equal; sums are in float32; output.dtype sets the file's."),
        ("path.log_dir=x", "has no equal; write with --out DIR; the cache is in $FUSIONBENCH_CACHE."),
        ("~dry_run", "fusion-bench's dry_run has no equal"),
        ("modelpool.processor=x", "fusion-bench's modelpool.processor has no equal; suite.experts=[…] chooses"),
        ("~modelpool.models.svhn", "fusion-bench's modelpool.models.svhn has no equal; suite.experts=[…] chooses"),
        ("taskpool.dataloader_kwargs.batch_size=8", "has no equal"),
        (f"{B32}_TA9", "has no equal; did you mean CLIPVisionModelPool/clip-vit-base-patch32_TA8? Or give base=REF"),
        ("modelpool=foo", "has no equal; see `fusionbench list suites`. Or give base=REF and experts.NAME=REF."),
        ("taskpool=dummy", "to fuse without evaluating use `fusionbench merge`."),
        ("taskpool=LMEvalHarnessTaskPool/lm_eval", "LMEvalHarnessTaskPool/lm_eval has no equal beside modelpool="),
        (f"{TA8}_L14", "_L14 has no equal beside modelpool=CLIPVisionModelPool/clip-vit-base-patch32_TA8."),
    ],
)  # fmt: skip
def test_what_has_no_equal_is_refused_by_name(theirs: str, line: str) -> None:
    (found,) = refusals(lambda: from_fusion_bench([theirs]))
    assert found.startswith(theirs.split("=")[0] if "=" in theirs else theirs)
    assert line in found


@pytest.mark.parametrize(
    ("theirs", "line"),
    [
        (["method=ties_merging", "method.threshold=many"], "could not convert string to float: 'many'."),
        (["method=ties_merging", "method.remove_keys=[head]"], "no tensor can be left out of a merge yet."),
        (["method=linear/task_arithmetic_for_causallm", "method.merge_backbone=true"], "heads are kept apart"),
        (["suite=mini/clip", TA8], "modelpool= and taskpool= name what suite= names; give one or the other."),
        (
            [f"{B32}_svhn_and_mnist", "taskpool=clip-vit-base-patch32_robustness_clean"],
            "has no equal beside modelpool=",
        ),
    ],
)
def test_a_value_that_has_no_equal_is_refused_too(theirs: list[str], line: str) -> None:
    assert line in "\n".join(refusals(lambda: from_fusion_bench(theirs)))


def test_all_that_has_no_equal_is_named_at_once() -> None:
    assert len(refusals(lambda: from_fusion_bench(["dry_run=true", "method=clip_finetune", "taskpool=dummy"]))) == 3


def test_an_override_that_cannot_be_read_is_left_for_whoever_applies_it() -> None:
    assert from_fusion_bench(["a=[1", "seed"]) == (["a=[1", "seed"], ())


def test_a_translated_command_gives_the_recipe_of_our_own_words() -> None:
    theirs = ["method=ties_merging", f"{B32}_TA8", TA8, "method.scaling_factor=0.4", "fast_dev_run=true", "seed=3"]
    ours = ["method=ties/fusion_bench", "suite=clip-vit-b32/ta8", "method.scale=0.4", "tasks.limit=128", "seed=3"]
    recipe, notes = load_recipe(None, theirs)
    assert recipe == Recipe.load(None, ours)
    assert len(notes) == 4
    assert load_recipe(None, ours) == (recipe, ())


def test_a_swept_key_is_translated_before_it_is_expanded() -> None:
    ours, _ = from_fusion_bench(["method=task_arithmetic", "method.scaling_factor=0.1,0.2", "suite=mini/clip"])
    assert [load_recipe(None, run)[0].method.params["scale"] for run in sweep(ours)] == [0.1, 0.2]


def test_the_shipped_variant_of_ties_is_what_fusion_bench_s_own_name_becomes() -> None:
    written = {text.split("=")[0].removeprefix("method."): text.split("=")[1] for text in TIES[1:]}
    assert MethodConfig.read("ties/fusion_bench") == MethodConfig.read({"name": "ties", **written})


def test_the_tables_name_methods_of_the_design_and_mergekits_ram_only() -> None:
    named = {a.method for a in ALGORITHMS.values()} | {*KNOWN_AS.values()} | {t.method for t in METHODS.values()}
    assert named <= {*NAMES.split(), "ram"}
    assert {suite for pool in TASKPOOLS.values() for suite in pool.suites} <= SUITES
    assert all({*pool.experts} <= {*TASKPOOLS[TA8.split("=")[1]].tasks} for pool in POOLS.values())


# mergekit


def translated(text: str) -> dict[str, Any]:
    """Return the recipe of a mergekit text, the same whether values are typed or text."""
    found, notes = from_mergekit(yaml.safe_load(text))
    as_text, same_notes = from_mergekit(parse_document(text, "x.yml"))
    assert Recipe.read(found) == Recipe.read(as_text)
    assert notes == same_notes
    return Recipe.read(found).dump()


def test_a_recipe_with_scopes_filters_and_gradients_keeps_its_meaning() -> None:
    recipe = translated("""
merge_method: ties
base_model: org/base@v2
models:
  - model: org/base@v2
  - model: org/math@abc
    parameters:
      weight: 0.5
      density: [{filter: mlp, value: 0.3}, {filter: attn, value: [0.1, 0.9]}]
  - model: ./code/
    parameters:
      weight: [{filter: "*", value: [0, 0.5, 1]}, {value: 7}]
      density: {value: 0.4}
parameters: {density: 0.6, lambda: [{filter: embed, value: 2}, {value: 1.5}], normalize: false, int8_mask: true}
dtype: torch.float16
""")
    assert recipe["base"] == "org/base@v2"
    assert recipe["experts"] == {"math": "org/math@abc", "code": "./code/"}
    assert recipe["method"] == {
        "name": "ties",
        "compat": "mergekit",
        "density": {
            "math": [
                {"value": 0.3, "filter": "mlp"},
                {"value": [0.1, 0.9], "filter": "attn"},
                {"value": 0.6},
            ],
            "code": 0.4,
        },
        "weights": {"math": 0.5, "code": [{"value": [0.0, 0.5, 1.0]}]},
        "scale": [{"value": 2.0, "filter": "embed"}, {"value": 1.5}],
        "combine": "sum",
    }
    assert recipe["output"]["dtype"] == "float16"


def test_mergekit_s_defaults_are_written_out_where_ours_are_others() -> None:
    models = "base_model: b\nmodels: [{model: x, parameters: {weight: 2}}, {model: y}]\nparameters: {weight: 1}\n"
    found = translated(f"merge_method: ties\n{models}")["method"]
    assert [found[name] for name in ("density", "scale", "combine")] == [1.0, 1.0, "mean"]
    assert found["weights"] == {"x": 2.0, "y": 1.0}
    found = translated(f"merge_method: task_arithmetic\n{models}")["method"]
    assert (found["scale"], found["compat"]) == (1.0, None)


def test_a_peer_s_name_of_several_of_our_parameters_sets_them() -> None:
    models = "base_model: b\nmodels: [{model: x}]\nparameters: {weight: 1, density: 0.5, rescale: true}\n"
    for name, combine in (("dare_ties", "ties"), ("dare_linear", "linear")):
        found = translated(f"merge_method: {name}\n{models}")["method"]
        assert (found["name"], found["combine"], found["density"], found["compat"]) == (
            "dare",
            combine,
            0.5,
            "mergekit",
        )


def test_linear_merges_its_base_model_like_any_other() -> None:
    text = "merge_method: linear\nbase_model: a\nmodels: [{model: a, parameters: {weight: 1}}, {model: c}]\n"
    recipe = translated(f"{text}parameters: {{weight: 3, normalize: false}}\nout_dtype: bfloat16\n")
    assert (recipe["base"], recipe["experts"]) == ("a", {"a": "a", "c": "c"})
    assert (recipe["method"]["weights"], recipe["method"]["normalize"]) == ({"a": 1.0, "c": 3.0}, False)
    assert recipe["output"]["dtype"] == "bfloat16"
    both = translated(f"{text}parameters: {{weight: 3}}\ndtype: float32\nout_dtype: float16\n")
    assert both["output"]["dtype"] == "float16"
    unlisted = translated("merge_method: linear\nbase_model: a\nmodels: [{model: c}]\nparameters: {weight: 3}\n")
    assert (unlisted["experts"], unlisted["method"]["weights"]) == ({"c": "c", "a": "a"}, 3.0)


def test_the_first_filter_without_condition_ends_a_list_as_in_mergekit() -> None:
    recipe = translated("""
merge_method: task_arithmetic
base_model: base
models:
  - {model: a, parameters: {weight: [{filter: q_proj, value: 0.9}]}}
  - {model: b}
parameters:
  weight: [{filter: self_attn, value: [0.2, 0.4]}, {value: 0.5}]
  lambda: [{filter: down, value: .5}, {value: 1.5}]
""")
    tail = [{"value": [0.2, 0.4], "filter": "self_attn"}, {"value": 0.5}]
    assert recipe["method"]["weights"] == {"a": [{"value": 0.9, "filter": "q_proj"}, *tail], "b": tail}
    assert recipe["method"]["scale"] == [{"value": 0.5, "filter": "down"}, {"value": 1.5}]


def test_model_references_keep_revision_and_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd+name@x").mkdir()
    experts = translated("""
merge_method: task_arithmetic
base_model: {model: {path: org/base, revision: main}}
models:
  - model: org/math@v1+org/lora@v2
  - model: {model: {path: org/math, revision: v3}, lora: org/other}
  - model: odd+name@x
  - model: elsewhere/math
  - model: other/math@v1
parameters: {weight: 1}
""")["experts"]
    empty = {"task": None, "head": None}
    assert experts == {
        "math+lora": {"model": "org/math@v1", "adapter": "org/lora@v2", **empty},
        "math+other": {"model": "org/math@v3", "adapter": "org/other", **empty},
        "odd_name": "odd+name@x",
        "math": "elsewhere/math",
        "math-2": "other/math@v1",
    }


def test_notes_say_what_was_translated_and_what_has_no_effect() -> None:
    _, notes = from_mergekit(
        yaml.safe_load("""
merge_method: task_arithmetic
base_model: b
models: [{model: b, parameters: {weight: 3}}, {model: x, parameters: {density: 0.1}}]
parameters: {weight: 1, normalize: false, rescale: true}
dtype: bfloat16
""")
    )
    assert notes == (
        "merge_method: task_arithmetic → method: name: task_arithmetic",
        "dtype: mergekit calculates in it; here sums are in float32 and it is the output's dtype.",
        "models[0].parameters.weight: the base has no delta to weigh; left out.",
        "parameters.density: it changes no number in mergekit's task_arithmetic; left out.",
        "parameters.rescale: it changes no number in mergekit's task_arithmetic; left out.",
    )


def test_every_key_that_is_not_followed_is_refused_at_once() -> None:
    document = yaml.safe_load("""
merge_method: passthru
dtpye: float16
chat_template: chatlm
tokenizer_source: union
base_model: {model: b, lora: l, override_architecture: X}
models:
  - {model: a, weight: 1}
  - {mdl: c}
  - {model: a}
  - {model: a+b+c}
  - {model: {model: {path: p, revison: r}}, parameters: 3}
parameters: [1]
out_dtype: int8
""")
    assert refusals(lambda: from_mergekit(document)) == [
        "dtpye is not a key of a mergekit recipe; did you mean dtype? It has: merge_method, models, slices, "
        "base_model, parameters, dtype, out_dtype, tokenizer_source, tokenizer, chat_template, modules, name.",
        "merge_method: mergekit has no 'passthru'. Did you mean passthrough?",
        "base_model.override_architecture: tensors are known by their own names here; leave it out.",
        "base_model: the base is whole here, without the adapter l. Make it first, and name its folder: fusionbench "
        "merge experts.base={model: b, adapter: l} method=passthrough --out FOLDER",
        "chat_template: expected auto, one of alpaca, chatml, exaone, llama3, mistral, or the text of a Jinja "
        "template; got 'chatlm'.",
        "out_dtype: expected one of float64, float32, float16, bfloat16; got 'int8'.",
        "models[0].weight is not a key of models[0]; it has: model, parameters.",
        "models[1]: expected {model: REF, parameters: {…}}, got {'mdl': 'c'}.",
        "models[2].model: a is there twice.",
        "models[3].model: expected path[@revision][+adapter[@revision]], got 'a+b+c'.",
        "models[4].model.model.revison is not a key of models[4].model.model; did you mean revision? "
        "It has: path, revision.",
        "models[4].parameters: expected a mapping such as {weight: 0.5}, got 3.",
    ]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("merge_method: slerp\nbase_model: b\nmodels: [{model: x}]\nparameters: {t: 0.5}",
         ["merge_method: slerp is our slerp, which this version does not have yet."]),
        ("merge_method: ties\nmodels: [{model: x}]\nparameters: {weight: 1}",
         ["base_model is missing: ties needs it."]),
        ("merge_method: ties\nbase_model: b\nmodels: [{model: b}]", ["models: there is none beside the base."]),
        ("merge_method: ties\nbase_model: b", ["models: expected a list such as [{model: REF}], got None."]),
        ("merge_method: ties\nbase_model: b\nmodels: [{model: x}, {model: y, parameters: {weight: 1}}]",
         ["models[0].parameters.weight is missing: ties needs one for every model."]),
        ("merge_method: ties\nbase_model: b\nmodels: [{model: x, parameters: {weight: [{filter: mlp, value: 1}]}}]",
         ["models[0].parameters.weight has no value for tensors that no filter names: "
          "ties needs one for every model."]),
        ("merge_method: ties\nbase_model: b\nmodels: [{model: x, parameters: {weight: 1, lambda: 2, wieght: 3}}]",
         ["models[0].parameters.lambda: mergekit ignores it there; move it to the recipe's parameters.",
          "models[0].parameters.wieght is not a key of mergekit's ties; did you mean weight? "
          "It has: weight, density, lambda, int8_mask, normalize, rescale."]),
        ("merge_method: ties\nbase_model: b\nmodels: [{model: x}]\nparameters: {weight: 1, rescale: true}",
         ["merge_method: ties is our breadcrumbs, which this version does not have yet."]),
        ("merge_method: ties\nbase_model: b\nmodels: [{model: x}]\nparameters: {weight: 1, normalize: maybe}",
         ["parameters.normalize: expected true or false, got 'maybe'."]),
        ("merge_method: ties\nbase_model: b\nmodels: [{model: x}]\n"
         "parameters: {weight: [{filter: a, valeu: 1}, {value: 2}]}",
         ["parameters.weight[0]: expected {value: …, filter: …}, got {'filter': 'a', 'valeu': 1}."]),
        ("merge_method: linear\nbase_model: a\nmodels: [{model: c, parameters: {weight: 3}}]",
         ["base_model.parameters.weight is missing: linear needs one for every model."]),
    ],
)  # fmt: skip
def test_a_key_that_would_be_lost_in_silence_is_refused(text: str, lines: list[str]) -> None:
    assert refusals(lambda: from_mergekit(yaml.safe_load(text))) == lines


def test_a_mergekit_file_loads_like_a_recipe_of_ours(tmp_path: Path) -> None:
    file = tmp_path / "theirs.yml"
    file.write_text("merge_method: ties\nbase_model: b\nmodels: [{model: x}]\nparameters: {weight: 1}\n")
    recipe, notes = load_recipe(file, ["method.density=0.3", "method.merge_func=max", "base=c"])
    assert (recipe.base, recipe.method.compat) == ("c", "mergekit")
    assert [recipe.method.params[name] for name in ("density", "combine")] == [0.3, "max"]
    assert notes[0].startswith("merge_method: ties")
    assert notes[-1] == "method.merge_func=max → method.combine=max"
    file.write_text("merge_method: ties\nmodles: []\n")
    with pytest.raises(
        ConfigError, match=r"theirs\.yml is a mergekit recipe that cannot be followed:\n  modles is not"
    ):
        load_recipe(file)


def test_a_class_path_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "method.yaml"
    file.write_text("_target_: fusion_bench.method.TiesMergingAlgorithm\n")
    with pytest.raises(ConfigError, match="nothing is built from a class path"):
        load_recipe(file)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("ab/@+.", max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["model", "lora", "path", "value", "filter", "weight", "parameters"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(
    st.sampled_from([*METHODS, "x"]),
    st.dictionaries(st.sampled_from(["models", "base_model", "parameters", "dtype", "slices", "x"]), anything),
    st.lists(st.fixed_dictionaries({"model": anything}, optional={"parameters": anything}), max_size=2),
)
def test_any_mergekit_document_is_followed_or_refused_in_words(
    method: str, document: dict[str, Any], models: Sequence[Any]
) -> None:
    for tried in (document, {"models": models, **document}):
        try:
            recipe, _ = from_mergekit({"merge_method": method, **tried})
        except ConfigError:
            continue
        assert {*recipe} - {"slices"} == {"base", "experts", "method", "output"}
        assert recipe["experts"]


# the real index


@pytest.fixture
def _real_index(monkeypatch: pytest.MonkeyPatch) -> None:
    index = json.loads(registry.INDEX.read_text())
    real = {name: registry.entry_from_json(name, fields) for name, fields in index["method"].items()}
    monkeypatch.setattr(registry, "_built_in", lambda kind: real if kind == "method" else {})


SPARSE = "weight: 0.5, density: 0.25, lambda: 2"
THINNED = {"weights": 0.5, "density": 0.25, "scale": 2.0}


@pytest.mark.usefixtures("_real_index")
@pytest.mark.parametrize(
    ("name", "theirs", "ours"),
    [
        ("linear", "weight: 0.5, normalize: false", {"weights": 0.5, "normalize": False}),
        ("linear", "weight: 1", {"normalize": True}),
        ("task_arithmetic", "weight: 0.5, lambda: 2", {"weights": 0.5, "scale": 2.0}),
        ("ties", f"{SPARSE}, normalize: false", {**THINNED, "combine": "sum", "scope": "tensor"}),
        ("ties", "weight: 1", {"combine": "mean", "density": 1.0, "scale": 1.0, "zero_sign": "positive"}),
        ("dare_linear", f"{SPARSE}, normalize: true, rescale: false",
         {**THINNED, "combine": "linear", "normalize": True, "rescale": "none"}),
        ("dare_ties", SPARSE,
         {**THINNED, "combine": "ties", "normalize": False, "rescale": "norm", "ties_density": 1.0}),
        ("breadcrumbs", f"{SPARSE}, gamma: 0.05, rescale: true",
         {**THINNED, "combine": "linear", "top_drop": 0.05, "bottom_drop": None, "rescale": "norm"}),
        ("breadcrumbs_ties", "weight: 1", {"combine": "ties", "density": 1.0, "top_drop": 0.01, "rescale": "none"}),
        ("della", f"{SPARSE}, epsilon: 0.1",
         {**THINNED, "combine": "ties", "epsilon": 0.1, "normalize": True, "rescale": "norm"}),
        ("della_linear", "weight: 1", {"combine": "linear", "epsilon": 0.15, "normalize": False, "density": 1.0}),
        ("slerp", "t: 0.25", {"t": 0.25, "zero_norm": "arc"}),
        ("nuslerp", "weight: 0.5, nuslerp_flatten: false", {"weights": 0.5, "mode": "row"}),
        ("nuslerp", "weight: 1, nuslerp_flatten: false, nuslerp_row_wise: true", {"mode": "column"}),
        ("nuslerp", "weight: 1", {"mode": "flat"}),
        ("nuslerp", "weight: 1, nuslerp_row_wise: true", {"mode": "flat"}),
        ("multislerp", "weight: 0.5, normalize_weights: false, eps: 1.0e-8", {"weights": 0.5, "normalize": False}),
        ("karcher", "max_iter: 7, tol: 0.001", {"max_iterations": 7, "tolerance": 0.001}),
        ("model_stock", "filter_wise: true", {"granularity": "row", "clamp": False}),
        ("sce", "select_topk: 0.1, int8_mask: true", {"select_topk": 0.1, "thresholds": "absolute"}),
        ("nearswap", "t: 0.002", {"t": 0.002}),
        ("arcee_fusion", "", {"at_zero": "all"}),
    ],
)  # fmt: skip
def test_a_mergekit_method_reads_against_the_real_index(name: str, theirs: str, ours: dict[str, Any]) -> None:
    text = f"merge_method: {name}\nbase_model: b\nmodels: [{{model: x}}, {{model: y}}]\nparameters: {{{theirs}}}\n"
    method = translated(text)["method"]
    assert method["name"] == METHODS[name].method
    assert {key: method[key] for key in ours} == ours


@pytest.mark.usefixtures("_real_index")
def test_a_base_that_may_be_left_out_is_no_expert_where_it_is_listed() -> None:
    text = "merge_method: nuslerp\nmodels: [{model: b}, {model: x}, {model: y}]\nparameters: {weight: 1}\n"
    with_base, without = translated(f"{text}base_model: b\n"), translated(text)
    assert (with_base["base"], [*with_base["experts"]]) == ("b", ["x", "y"])
    assert (without["base"], [*without["experts"]]) == (None, ["b", "x", "y"])


@pytest.mark.usefixtures("_real_index")
@pytest.mark.parametrize("theirs", sorted(ALGORITHMS))
def test_every_translated_method_of_fusion_bench_reads_against_the_real_index(theirs: str) -> None:
    algorithm = ALGORITHMS[theirs]
    recipe, notes = load_recipe(None, [f"method={theirs}", "experts.a=x"])
    assert recipe.method.name == algorithm.method
    assert len(notes) == (algorithm.method != theirs)
    ours = {key.ours.removeprefix("method.") for key in algorithm.keys.values() if key.ours}
    assert ours <= {*recipe.method.params}
    assert {*algorithm.defaults} <= {*algorithm.keys}


# mergekit's own output

GOLDEN = Path(__file__).parent / "reference" / "golden" / "mergekit_recipes"


def golden(name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the tensors of a golden file, `folder/tensor` → tensor, and what its header says."""
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.mark.usefixtures("_real_index")
def test_translated_recipes_merge_to_what_mergekit_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tensors, about = golden("inputs")
    for model in {key.split("/")[0] for key in tensors}:
        Path(model).mkdir()
        own = {key.partition("/")[2]: tensor for key, tensor in tensors.items() if key.startswith(f"{model}/")}
        save_file(own, f"{model}/model.safetensors", {"format": "pt"})
        Path(model, "config.json").write_text(about["config"])
    expected, about = golden("outputs")
    recipes = json.loads(about["recipes"])
    assert len(recipes) == 7
    for name, text in recipes.items():
        Path(f"{name}.yml").write_text(text)
        merge(load_recipe(f"{name}.yml")[0], Path("merged", name))
        found = load_file(f"merged/{name}/model.safetensors")
        theirs = {key.partition("/")[2]: tensor for key, tensor in expected.items() if key.startswith(f"{name}/")}
        assert {*found} == {*theirs}
        for key, tensor in theirs.items():
            # with dtype: bfloat16 mergekit rounds after every operation, and we once
            largest = 2**-7 * float(tensor.abs().max()) if "\ndtype: bfloat16" in text else 2e-6
            torch.testing.assert_close(found[key], tensor, rtol=0, atol=largest, msg=f"{name}: {key}")


@pytest.mark.parametrize(
    ("method", "name", "params"),
    [
        (["method=linear", "method.weights=[1,2]"], "weighted_average", {"weights": [1.0, 2.0]}),
        (["method=dare_ties", "method.density=0.25"], "dare", {"combine": "ties", "density": 0.25}),
        (["method={name: dare_linear, scale: 0.5}"], "dare", {"combine": "linear", "scale": 0.5}),
    ],
)
def test_a_method_may_be_called_as_mergekit_calls_it(method: list[str], name: str, params: dict[str, Any]) -> None:
    recipe, notes = load_recipe(None, ["experts={a: x, b: y}", *method])
    assert recipe.method.name == name
    assert {key: recipe.method.params[key] for key in params} == params
    assert len(notes) == 1
    assert f"is mergekit's name → method: {name}" in notes[0]


def test_names_that_are_ours_too_are_ours() -> None:
    ours = [name for name in METHODS if name in registry.methods]
    assert {"ties", "task_arithmetic"} <= {*ours}
    for name in ours:
        assert under_our_name({"name": name, "x": 1}) == ({"name": name, "x": 1}, ())
    for other in (None, "linier", {"name": ["ties"]}, 3):
        assert under_our_name(other) == (other, ())


def test_what_is_no_name_of_anybody_is_missing_or_unknown_as_before() -> None:
    with pytest.raises(ConfigError, match="method is missing"):
        load_recipe(None, ["experts.a=x"])
    with pytest.raises(ConfigError, match="no method named 'linier'"):
        load_recipe(None, ["experts.a=x", "method=linier"])
