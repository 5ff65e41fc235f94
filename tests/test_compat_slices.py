"""mergekit's slices and files of several recipes: what they become here, and what is refused by key."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fusionbench.compat import Stage, from_mergekit, load_stages, to_yaml
from fusionbench.config import Recipe
from fusionbench.errors import ConfigError, OutputError
from fusionbench.merge import merge
from fusionbench.stages import merge_stages

GOLDEN = Path(__file__).parent / "reference" / "golden" / "mergekit_recipes"


def translated(text: str) -> dict[str, Any]:
    return from_mergekit(yaml.safe_load(text))[0]


def refusals(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        translated(text)
    return str(caught.value).split("\n")


def test_a_stack_of_layers_becomes_slices_with_each_sources_own_parameters() -> None:
    found = translated("""
merge_method: passthrough
slices:
  - sources: [{model: org/a@v1, layer_range: [0, 24]}]
  - sources: [{model: org/b, layer_range: [8, 32], parameters: {scale: [{filter: o_proj, value: 0.0}, {value: 1.0}]}}]
dtype: bfloat16
""")
    scale = [{"value": 0.0, "filter": "o_proj"}, {"value": 1.0}]
    assert found == {
        "base": None,
        "experts": {"a": "org/a@v1", "b": "org/b"},
        "method": {"name": "passthrough"},
        "slices": [
            {"sources": [{"expert": "a", "layers": [0, 24], "parameters": {"scale": 1.0}}]},
            {"sources": [{"expert": "b", "layers": [8, 32], "parameters": {"scale": scale}}]},
        ],
        "output": {"dtype": "bfloat16"},
    }
    Recipe.read(found)


def test_the_base_among_the_sources_is_called_base_and_what_all_slices_share_stays_with_the_method() -> None:
    found = translated("""
merge_method: slerp
base_model: a
slices:
  - sources: [{model: a, layer_range: [0, 4]}, {model: b, layer_range: [0, 4]}]
  - sources: [{model: b, layer_range: [4, 8]}, {model: a, layer_range: [4, 8]}]
parameters: {t: [{filter: mlp, value: [0, 1]}, {value: 0.5}]}
""")
    assert (found["base"], found["experts"]) == ("a", {"b": "b"})
    assert found["method"]["t"] == [{"value": [0, 1], "filter": "mlp"}, {"value": 0.5}]
    assert found["slices"][1] == {"sources": [{"expert": "b", "layers": [4, 8]}, {"expert": "base", "layers": [4, 8]}]}
    Recipe.read(found)


def test_a_slices_own_parameters_and_base_win_over_the_recipes() -> None:
    found = translated("""
merge_method: task_arithmetic
base_model: m
slices:
  - sources: [{model: m, layer_range: [0, 2]}, {model: x, layer_range: [0, 2], parameters: {weight: 3}}]
    parameters: {weight: 2, lambda: 0.5}
  - sources: [{model: x, layer_range: [2, 4]}, {model: y, layer_range: [2, 4]}]
    base_model: x
    residual_weight: 1
parameters: {weight: 1}
""")
    assert found["experts"] == {"x": "x", "y": "y"}
    assert "scale" not in found["method"]
    assert [part["parameters"] for part in found["slices"]] == [{"scale": 0.5}, {"scale": 1.0}]
    first, second = found["slices"]
    assert first["sources"][1] == {"expert": "x", "layers": [0, 2], "parameters": {"weights": 3}}
    assert second["base"] == "x"
    assert second["sources"] == [
        {"expert": "x", "layers": [2, 4]},
        {"expert": "y", "layers": [2, 4], "parameters": {"weights": 1}},
    ]
    Recipe.read(found)


def test_a_model_that_is_called_base_but_is_none_gets_another_name() -> None:
    found = translated("merge_method: passthrough\nslices: [{sources: [{model: ./base, layer_range: [0, 1]}]}]")
    assert found["experts"] == {"base-2": "./base"}


SLICE = "{sources: [{model: b, layer_range: [0, 1]}, {model: x, layer_range: [0, 1]}]"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("merge_method: passthrough\nslices: []",
         ["slices: expected a list such as [{sources: [{model: REF, layer_range: [0, 16]}]}], got []."]),
        ("merge_method: passthrough\nslices: [{source: [x]}]",
         ["slices[0]: expected {sources: [{model: REF, layer_range: [0, 16]}]}, got {'source': ['x']}."]),
        ("merge_method: passthrough\nmodels: [{model: x}]\nslices: [{sources: [{model: x, layer_range: [0, 1]}]}]",
         ["models and slices: a recipe has one of them."]),
        ("merge_method: passthrough\nslices: [{sources: [{model: x, layers: [0, 1]}], weight: 1}]",
         ["slices[0].weight is not a key of slices[0]; it has: sources, base_model, parameters, residual_weight.",
          "slices[0].sources[0].layers is not a key of slices[0].sources[0]; "
          "it has: model, layer_range, parameters.",
          "slices[0].sources[0].layer_range: expected [first, one after the last], got None."]),
        (f"merge_method: slerp\nbase_model: b\nslices: [{SLICE}}}]",
         ["slices[0].sources[1].parameters.t is missing: slerp needs one for every model."]),
        ("merge_method: task_arithmetic\nbase_model: b\nparameters: {weight: 1}\n"
         "slices: [{sources: [{model: x, layer_range: [0, 1]}]}]",
         ["slices[0]: task_arithmetic needs the base among the sources: add b."]),
        (f"merge_method: ties\nbase_model: b\nparameters: {{weight: 1}}\n"
         f"slices: [{SLICE}, parameters: {{normalize: true}}}}, {SLICE}, parameters: {{normalize: false}}}}]",
         ["slices[0].parameters: our combine holds for the whole model, ['mean', 'sum'] differ."]),
        ("merge_method: passthrough\nslices: [{sources: [{model: x, layer_range: [0, 1]}, "
         "{model: x, layer_range: [1, 2]}]}]",
         ["slices[0].sources[1].model: x is there twice."]),
        ("merge_method: passthrough\nmodels: [{model: x}]\ntokenizer_source: y\nchat_template: short",
         ["chat_template: expected auto, one of alpaca, chatml, exaone, llama3, mistral, or the text of a Jinja "
          "template; got 'short'.",
          "tokenizer_source: y is none of the recipe's models."]),
        ("merge_method: passthrough\nmodels: [{model: x}]\ntokenizer_source: x\ntokenizer: {source: x}",
         ["tokenizer: a recipe has tokenizer or tokenizer_source, not both."]),
        ("merge_method: passthrough\nmodels: [{model: x}]\ntokenizer: x",
         ["tokenizer: expected a mapping such as {source: base}, got 'x'."]),
        ("merge_method: passthrough\nmodels: [{model: x}]\ntokenizer: {tokens: {a: 1, b: {sorce: x}}}",
         ["tokenizer.tokens.a: expected a mapping such as {source: REF}, got 1.",
          "tokenizer.tokens.b.sorce is not a key of tokenizer.tokens.b; did you mean source? It has: source, force."]),
        ("merge_method: passthrough\nmodels: [{model: x}]\ntokenizer_source: base",
         ["tokenizer_source: there is no base_model whose tokenizer could be taken."]),
        ("merge_method: passthrough\nbase_model: x\nmodels: [{model: x}]\n"
         "tokenizer: {source: base, tokens: {}, pad_to_multiple_of: 8, sorce: x}",
         ["tokenizer.sorce is not a key of tokenizer; did you mean source? "
          "It has: source, tokens, pad_to_multiple_of."]),
        ("merge_method: passthrough\nmodules: {text: {models: [{model: x}]}}",
         ["modules.text is not a key of modules; it has: encoder, decoder, multi_modal_projector, vision_tower, "
          "vision_model, text_decoder, shared."]),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_refused_by_key(text: str, lines: list[str]) -> None:
    assert refusals(text) == lines


def test_the_bases_tokenizer_and_a_number_without_effect_are_noted() -> None:
    _, notes = from_mergekit(
        yaml.safe_load(f"merge_method: slerp\nbase_model: b\nparameters: {{t: 0.5}}\ntokenizer_source: base\n"
                       f"slices: [{SLICE}, residual_weight: 0.3}}]")
    )  # fmt: skip
    assert "slices[0].residual_weight: mergekit reads it and does nothing with it; left out." in notes
    assert (
        "tokenizer_source: base → vocabulary: rows of embeddings are brought together by token, one row a token."
        in notes
    )


# on disk


@pytest.fixture
def _models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The golden recipes' models base, a, b, c: a Llama of four layers."""
    monkeypatch.chdir(tmp_path)
    with safe_open(GOLDEN / "inputs.safetensors", "pt") as file:
        tensors, about = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    for model in ("base", "a", "b", "c"):
        Path(model).mkdir()
        own = {key.partition("/")[2]: tensor for key, tensor in tensors.items() if key.startswith(f"{model}/")}
        save_file(own, f"{model}/model.safetensors", {"format": "pt"})
        Path(model, "config.json").write_text(about["config"])


def stages(text: str, *overrides: str) -> tuple[Stage, ...]:
    Path("theirs.yml").write_text(text)
    return load_stages("theirs.yml", ["runtime.threads=1", *overrides])


STACK = """
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 3]}]
  - sources: [{model: b, layer_range: [1, 4]}]
"""
SEVERAL = f"""
merge_method: linear
models: [{{model: tall}}, {{model: other}}]
parameters: {{weight: 0.5}}
---
name: tall
{STACK}
---
name: other
merge_method: passthrough
slices:
  - sources: [{{model: c, layer_range: [0, 4]}}]
  - sources: [{{model: c, layer_range: [2, 4]}}]
"""


@pytest.mark.usefixtures("_models")
def test_a_stack_of_layers_runs_in_transformers() -> None:
    from transformers import AutoModelForCausalLM

    merge(stages(STACK)[0].recipe, Path("out"))
    model = AutoModelForCausalLM.from_pretrained("out")
    assert len(model.model.layers) == 6
    torch.testing.assert_close(
        model.model.layers[3].mlp.up_proj.weight.data,
        load_file("b/model.safetensors")["model.layers.1.mlp.up_proj.weight"],
    )
    with torch.no_grad():
        logits = model(torch.tensor([[1, 2, 3]])).logits
    assert logits.shape == (1, 3, 16)
    assert bool(logits.isfinite().all())


@pytest.mark.usefixtures("_models")
def test_a_later_recipe_takes_the_results_of_those_it_names_whatever_their_order_in_the_file() -> None:
    found = stages(SEVERAL)
    assert [stage.name for stage in found] == ["tall", "other", ""]
    _, reused = merge_stages(found, Path("out"))
    assert reused == ()
    first, second, last = (load_file(Path(place, "model.safetensors")) for place in ("a", "c", "out"))
    name = "model.layers.{}.mlp.up_proj.weight"
    torch.testing.assert_close(last[name.format(0)], (first[name.format(0)] + second[name.format(0)]) / 2)
    torch.testing.assert_close(
        last[name.format(5)], (load_file("b/model.safetensors")[name.format(3)] + second[name.format(3)]) / 2
    )
    assert sorted(path.name for path in Path("out.stages").iterdir()) == ["other", "tall"]
    assert json.loads(Path("out/config.json").read_text())["num_hidden_layers"] == 6


@pytest.mark.usefixtures("_models")
def test_a_finished_stage_is_used_again_and_one_of_another_recipe_is_refused() -> None:
    merge_stages(stages(SEVERAL), Path("out"))
    written = Path("out.stages/tall/model.safetensors").stat().st_mtime_ns
    Path("out").rename("first")
    _, reused = merge_stages(stages(SEVERAL, "runtime.threads=2"), Path("out"))
    assert [note.partition(" ")[0] for note in reused] == ["out.stages/tall", "out.stages/other"]
    assert Path("out.stages/tall/model.safetensors").stat().st_mtime_ns == written
    assert Path("out/model.safetensors").read_bytes() == Path("first/model.safetensors").read_bytes()
    with pytest.raises(OutputError, match="out exists"):
        merge_stages(stages(SEVERAL), Path("out"))
    Path("out").rename("second")
    with pytest.raises(
        OutputError, match=r"out\.stages/tall holds another result: its recipe or its models have changed"
    ):
        merge_stages(stages(SEVERAL.replace("[1, 4]", "[0, 3]")), Path("out"))
    assert not Path("out").exists()


@pytest.mark.usefixtures("_models")
def test_several_recipes_read_back_from_what_is_written_of_them() -> None:
    found = stages(SEVERAL)
    ours = stages(to_yaml(found))
    assert [(stage.name, stage.recipe, stage.needs) for stage in ours] == [
        (stage.name, stage.recipe, stage.needs) for stage in found
    ]


ONE = "merge_method: passthrough\nmodels: [{{model: {}}}]\n"


@pytest.mark.usefixtures("_models")
def test_the_last_recipe_is_the_output_where_all_have_a_name_and_takes_the_overrides() -> None:
    found = stages(f"name: one\n{ONE.format('a')}---\nname: two\n{ONE.format('one')}", "method.scale=0.5")
    assert [(stage.name, stage.recipe.method.params["scale"]) for stage in found] == [("one", 1.0), ("two", 0.5)]
    assert [stage.recipe.runtime.threads for stage in found] == [1, 1]


@pytest.mark.usefixtures("_models")
@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            (("one", "two"), ("two", "one"), ("", "two")),
            r"need each other's results in a circle: one \(two\), two \(one\)",
        ),
        ((("one", "one"), ("", "a")), r"in a circle: one \(one\)"),
        ((("one", "a"), ("one", "b")), "two recipes have the name one"),
        ((("", "a"), ("", "b")), "two recipes have the name no name"),
        ((("one", "two"), ("two", "a")), "one needs the result of two, the output; put it last"),
        ((("../one", "a"), ("", "b")), r"'\.\./one' cannot be one"),
    ],
)
def test_recipes_that_do_not_fit_together_are_refused(names: tuple[tuple[str, str], ...], said: str) -> None:
    text = "---\n".join((f"name: {name}\n" if name else "") + ONE.format(model) for name, model in names)
    with pytest.raises(ConfigError, match=said):
        stages(text)


def test_a_lone_model_of_a_slice_is_handed_back_by_multislerp_whatever_its_weight() -> None:
    found = translated("""
merge_method: multislerp
slices:
  - sources: [{model: a, layer_range: [0, 1], parameters: {weight: 0.5}}]
  - sources:
      - {model: a, layer_range: [1, 2], parameters: {weight: 0.5}}
      - {model: b, layer_range: [1, 2], parameters: {weight: 0.25}}
parameters: {normalize_weights: false}
""")
    alone, both = ([source["parameters"]["weights"] for source in part["sources"]] for part in found["slices"])
    assert alone == [1.0]
    assert both == [0.5, 0.25]
