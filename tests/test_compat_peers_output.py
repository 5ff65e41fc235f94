"""mergekit's recipes followed unchanged, against what mergekit 0.1.5 wrote; all its names, keys and templates."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fusionbench.compat import from_mergekit, load_recipe, load_stages
from fusionbench.compat.mergekit.modules import PARTS, WHOLE
from fusionbench.compat.mergekit.templates import TEMPLATES
from fusionbench.compat.mergekit.words import KEYS, METHODS, REQUIRED
from fusionbench.config import Recipe
from fusionbench.config.schema import _parameter
from fusionbench.errors import ConfigError
from fusionbench.merge import open_pool, plan_of_recipe
from fusionbench.registry import methods
from fusionbench.stages import merge_stages

GOLDEN = Path(__file__).parent / "reference" / "golden"
RECIPES = GOLDEN / "mergekit_recipes"
THEIRS: dict[str, Any] = json.loads((GOLDEN / "mergekit_names.json").read_text())
PAGE = Path(__file__).parents[1] / "docs" / "migrate" / "mergekit.md"


def read(name: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(RECIPES / f"{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


MORE, ABOUT = read("more")
T5, ABOUT_T5 = read("t5")
LLAMAS: dict[str, str] = json.loads(ABOUT["recipes"])
PARTED: dict[str, str] = json.loads(ABOUT_T5["recipes"])


def save(folder: Path, tensors: dict[str, torch.Tensor], config: str) -> None:
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(config)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    tensors, about = read("inputs")
    for model in ("base", "a", "b", "c"):
        save(root / model, under(tensors, f"{model}/"), about["config"])
        save(root / "t5" / model, under(T5, f"inputs/{model}/"), ABOUT_T5["config"])
    return root


def assert_merged(text: str, expected: dict[str, torch.Tensor], out: Path, tolerance: float = 2e-6) -> None:
    file = out.with_suffix(".yml")
    file.write_text(text)
    merge_stages(load_stages(file, ["runtime.threads=1"]), out)
    found = load_file(out / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("name", LLAMAS)
def test_a_recipe_of_each_kind_gives_what_mergekit_wrote(
    name: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(models)
    assert_merged(LLAMAS[name], under(MORE, f"{name}/"), tmp_path / "out")


@pytest.mark.parametrize("name", PARTED)
def test_a_recipe_of_several_modules_gives_what_mergekit_wrote(
    name: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(models)
    assert_merged(PARTED[name], under(T5, f"outputs/{name}/"), tmp_path / "out")


def test_every_method_and_parameter_of_mergekit_is_translated_with_its_default() -> None:
    assert {*METHODS} == {*THEIRS["methods"]}
    for name, parameters in THEIRS["methods"].items():
        ours = METHODS[name].parameters
        assert {*ours} == {*parameters}, name
        for key, about in parameters.items():
            assert (ours[key].default is REQUIRED) is (about["default"] is None), f"{name}.{key}"
            if not ours[key].inert:
                assert ours[key].each is about["each"], f"{name}.{key}"
            if about["default"] not in (None, "None") and not ours[key].inert:
                assert repr(ours[key].default) == about["default"], f"{name}.{key}"


def test_every_key_of_mergekit_has_a_line_on_the_page() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    lacking = [
        f"{place}: {key}"
        for place, keys in THEIRS["keys"].items()
        for key in keys
        if not any(f"`{place}`" in row and f"`{key}`" in row for row in rows)
    ]
    assert lacking == []
    assert {*THEIRS["keys"]["a recipe"]} == {*KEYS} - {"name"}


def test_every_module_of_mergekits_architectures_is_known() -> None:
    assert {frozenset(parts) for parts in THEIRS["modules"].values()} == {frozenset(parts) for parts in WHOLE}
    assert set().union(*WHOLE) == {*PARTS}


@pytest.mark.parametrize("name", THEIRS["templates"])
def test_a_template_that_mergekit_has_by_name_says_the_same(name: str) -> None:
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    def said(place: str) -> str | None:
        conversation, _, start = place.partition("/")
        messages = [THEIRS["conversations"][conversation]]
        words = {"add_generation_prompt": start == "start", "bos_token": "<s>", "eos_token": "</s>"}
        try:
            return render_jinja_template(messages, chat_template=TEMPLATES[name], **words)[0][0]
        except TemplateError:
            return None

    assert {place: said(place) for place in THEIRS["templates"][name]} == THEIRS["templates"][name]
    assert {*TEMPLATES} == {*THEIRS["templates"]}


def test_a_template_by_name_becomes_its_text_with_a_note() -> None:
    recipe, notes = from_mergekit(
        {"merge_method": "linear", "models": [{"model": "x", "parameters": {"weight": 1}}], "chat_template": "chatml"}
    )
    assert "<|im_start|>" in recipe["output"]["chat_template"]
    assert any(note.startswith("chat_template: chatml → a text") for note in notes)


# modules


def modules(text: str) -> dict[str, Any]:
    return yaml.safe_load(f"merge_method: {text}")


def test_what_differs_between_modules_becomes_a_schedule_of_filters() -> None:
    recipe, _ = from_mergekit(
        modules("""task_arithmetic
base_model: base
modules:
  text_decoder: {models: [{model: a, parameters: {weight: [{filter: mlp, value: [0, 1]}, {value: 2}]}}]}
  vision_tower: {models: [{model: a, parameters: {weight: 3}}]}
  multi_modal_projector: {models: [{model: a, parameters: {weight: 4}}]}
parameters: {lambda: 0.5}
""")
    )
    assert recipe["method"]["scale"] == 0.5
    assert recipe["method"]["weights"] == [
        {"value": 4, "filter": "multi_modal_projector."},
        {"value": 4, "filter": "visual.merger"},
        {"value": 3, "filter": "vision_tower."},
        {"value": 3, "filter": "visual."},
        {"value": [0, 1], "filter": "mlp"},
        {"value": 2},
    ]
    Recipe.read(recipe)


def test_modules_that_are_all_merged_alike_are_a_plain_recipe() -> None:
    recipe, _ = from_mergekit(
        modules("""slerp
base_model: a
modules:
  encoder: {models: [{model: a}, {model: b}]}
  decoder: {models: [{model: a}, {model: b}]}
parameters: {t: 0.25}
""")
    )
    assert recipe["experts"] == {"b": "b"}
    assert recipe["method"]["t"] == 0.25


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("linear\nmodules: []", "modules: expected a mapping such as {encoder: {models: [{model: REF}]}}, got []."),
        ("linear\nmodules: {encoder: {models: [{model: a}]}}",
         "modules: encoder are no whole model, and mergekit drops the rest. Whole are: encoder, decoder; encoder, "
         "decoder, shared; multi_modal_projector, vision_tower, text_decoder; multi_modal_projector, vision_model, "
         "text_decoder."),
        ("linear\nmodules: {encodr: {models: [{model: a}]}}",
         "modules.encodr is not a key of modules; did you mean encoder? It has: encoder, decoder, "
         "multi_modal_projector, vision_tower, vision_model, text_decoder, shared."),
        ("linear\nmodules: {encoder: {slices: [1]}, decoder: 3}",
         "modules.encoder.slices: layers of one part cannot be stacked here; merge it whole, with models.\n"
         "modules.decoder: expected {models: [{model: REF}]}, got 3."),
        ("slerp\nbase_model: a\nparameters: {t: 1}\n"
         "modules: {encoder: {models: [{model: a}, {model: b}]}, decoder: {models: [{model: a}, {model: c}]}}",
         "modules.encoder: slerp needs the same models in all modules; add c.\n"
         "modules.decoder: slerp needs the same models in all modules; add b."),
        ("passthrough\nmodules: {encoder: {models: [{model: a}, {model: b}]}, decoder: {models: [{model: a}]}}",
         "modules.encoder: passthrough copies exactly one model; got 2."),
        ("ties\nbase_model: x\nparameters: {weight: 1}\nmodules: {encoder: {models: [{model: a}], parameters: "
         "{normalize: true}}, decoder: {models: [{model: a}], parameters: {normalize: false}}}",
         "modules: our combine holds for the whole model, {'encoder': 'mean', 'decoder': 'sum'} differ."),
        ("linear\nmodels: [{model: a}]\nparameters: {weight: 1}\nmodules: {encoder: {models: [{model: a}]}}",
         "models and modules: a recipe has one of them."),
        ("linear\nmodels: [{model: {model: a, override_architecture: L}, parameters: {weight: 1}}]",
         "models[0].model.override_architecture: tensors are known by their own names here; leave it out."),
        ("ties\nbase_model: a+l\nmodels: [{model: b, parameters: {weight: 1}}]",
         "base_model: the base is whole here, without the adapter l. Make it first, and name its folder: fusionbench "
         "merge experts.base={model: a, adapter: l} method=passthrough --out FOLDER"),
        ("linear\nname: x\nmodels: [{model: b, parameters: {weight: 1}}]",
         "name: it tells the recipes of one file apart; a recipe that stands alone has none."),
        ("linear\nmodels: [{model: b, parameters: {weight: 1}}]\nchat_template: lama3",
         "chat_template: expected auto, one of alpaca, chatml, exaone, llama3, mistral, or the text of a Jinja "
         "template; got 'lama3'."),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_refused_by_key(text: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_mergekit(modules(text))
    assert line in str(caught.value)


def test_a_slice_may_name_several_parts_too() -> None:
    scale = [{"value": "0.5", "filter": ["layers.1.", "mlp"]}, {"value": 1}]
    sources = [{"expert": "a", "layers": [0, 2], "parameters": {"scale": scale}}]
    recipe = Recipe.read({"experts": {"a": "a"}, "method": "passthrough", "slices": [{"sources": sources}]})
    assert recipe.slices is not None
    found = recipe.slices[0].sources[0].parameters["scale"]
    assert found == [{"value": 0.5, "filter": ["layers.1.", "mlp"]}, {"value": 1.0}]


def test_the_schema_knows_filters_of_several_parts() -> None:
    (weights,) = (p for p in methods["task_arithmetic"].parameters if p.name == "scale")
    (schedule,) = (form for form in _parameter(weights)["anyOf"] if form.get("type") == "array")
    kinds = [form["type"] for form in schedule["items"]["properties"]["filter"]["anyOf"]]
    assert kinds == ["string", "array"]


def test_a_value_may_name_several_parts_of_a_tensors_name(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(models)
    schedule = "[{filter: [layers.1., mlp], value: 1}, {filter: ['*'], value: 0}]"
    recipe, _ = load_recipe(None, ["base=base", "experts.a=a", "method=task_arithmetic", f"method.scale={schedule}"])
    plan = plan_of_recipe(recipe, open_pool(recipe))
    scaled = {step.output.name for step in plan if step.parameters["scale"] == 1}
    assert scaled == {f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up", "down")}
