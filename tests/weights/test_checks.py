import pytest
import torch

from fusing import plan_for
from fusionbench.errors import IncompatibleModels
from fusionbench.weights.checks import fit
from fusionbench.weights.tensors import TensorSource


def model(label: str, config: dict | None = None, **tensors):
    """A model in memory; `__` in a keyword stands for the dot of a name, an integer for so many zeros."""
    state = {
        name.replace("__", "."): torch.zeros(tensor) if isinstance(tensor, int | tuple) else tensor
        for name, tensor in tensors.items()
    }
    return TensorSource(label, state, config)


def problems(reference, *, tower: str = "", **experts) -> str:
    with pytest.raises(IncompatibleModels) as error:
        fit(reference, experts, tower=tower)
    return str(error.value)


BASE = {"model__a": (2, 3), "model__b": 4, "head": (3, 2)}


def test_models_of_one_architecture_fit_without_a_word():
    found = fit(model("base", **BASE), {"x": model("x", **BASE), "y": model("y", **BASE)})
    assert found.scope == ("model.a", "model.b", "head")
    assert found.names == ({n: n for n in found.scope},) * 2
    assert found.notes == ()


def test_the_order_of_names_in_an_expert_is_no_matter():
    found = fit(model("base", **BASE), {"x": model("x", **dict(reversed(BASE.items())))})
    assert found.scope == ("model.a", "model.b", "head")


@pytest.mark.parametrize(("ours", "theirs"), [("", ""), ("bert__", ""), ("", "bert__")])
def test_norms_of_old_and_of_new_files_are_the_same_tensors(ours, theirs):
    base = {f"{ours}e__LayerNorm__beta": 2, f"{ours}e__LayerNorm__gamma": 2, f"{ours}e__w": 3}
    expert = {f"{theirs}e__LayerNorm__bias": 2, f"{theirs}e__LayerNorm__weight": 2, f"{theirs}e__w": 3}
    for one, other in ((base, expert), (expert, base)):
        found = fit(model("one", **one), {"x": model("x", **other)})
        pairs = zip(sorted(one), sorted(other), strict=True)
        assert found.names == ({n.replace("__", "."): o.replace("__", ".") for n, o in pairs},)


def test_every_difference_of_every_expert_is_told_at_once():
    x = model("hub/x", model__a=(3, 2), head=torch.zeros(3, 2, dtype=torch.int32), stranger=5)
    y = model("hub/y", {"model_type": "bert"}, **BASE)
    message = problems(model("hub/base", {"model_type": "gpt2"}, **BASE), x=x, y=y)
    assert "hub/base (5 differences)" in message
    assert "x: model.a is 3×2, in hub/base 2×3" in message
    assert "x: has no model.b" in message
    assert "x: head holds I32, in hub/base F32" in message
    assert "x: has stranger 5, which hub/base lacks" in message
    assert "y: is a 'bert' model (hub/y), hub/base is a 'gpt2'" in message
    assert "fine-tuned from one base" in message


def test_a_float_against_an_integer_is_a_difference_both_ways():
    whole, real = model("whole", a=torch.zeros(2, dtype=torch.int64)), model("real", a=2)
    assert "a holds F32, in whole I64" in problems(whole, x=real)
    assert "a holds I64, in real F32" in problems(real, x=whole)


def test_twenty_differences_are_spelled_out_and_the_rest_is_counted():
    names = [f"t{i:02}" for i in range(25)]
    message = problems(
        model("base", same=1, **dict.fromkeys(names, 2)), x=model("x", same=1, **dict.fromkeys(names, 3))
    )
    assert "25 differences" in message
    assert "t19" in message
    assert "t20" not in message
    assert "and 5 more" in message


def test_one_difference_is_counted_as_one():
    assert "(1 difference)" in problems(model("base", a=1, b=1), x=model("x", a=1))


def test_a_single_number_is_called_so():
    message = problems(model("base", a=torch.tensor(1.0)), x=model("x", a=1))
    assert "a is 1, in base a single number" in message


def test_widths_may_differ_and_are_noted():
    base = model("base", a=torch.zeros(2, dtype=torch.bfloat16), b=torch.zeros(1), c=torch.zeros(1))
    x = model("x", a=torch.zeros(2), b=torch.zeros(1, dtype=torch.float16), c=torch.zeros(1))
    (note,) = fit(base, {"x": x}).notes
    assert note.startswith("x: 2 tensors are F16, F32")


@pytest.mark.parametrize("config", [{"model_type": "clip_vision_model"}, {"model_type": "clip"}, {}])
def test_a_part_of_an_architecture_is_of_that_architecture(config):
    assert fit(model("base", {"model_type": "clip"}, **BASE), {"x": model("x", config, **BASE)}).notes == ()


def test_names_without_their_prefix_are_read_with_it():
    found = fit(model("base", model__a=1, model__b=2), {"x": model("x", a=1, b=2)})
    assert found.names == ({"model.a": "a", "model.b": "b"},)
    assert found.notes == ("x: its names were read with the prefix 'model.'",)


def test_names_with_a_prefix_more_are_read_without_it():
    found = fit(model("base", a=1, b=2), {"x": model("x", model__a=1, model__b=2)})
    assert found.names == ({"a": "model.a", "b": "model.b"},)
    assert found.notes == ("x: its names were read without the prefix 'model.'",)


def test_differences_are_told_in_names_of_the_base_when_a_prefix_was_added():
    message = problems(model("base", model__a=1, model__b=2, model__c=3), x=model("x", a=1, b=5))
    assert "x: model.b is 5, in base 2" in message
    assert "x: has no model.c" in message
    assert "2 differences" in message


def test_a_model_with_one_tensor_renamed_is_not_read_with_a_prefix():
    message = problems(model("base", model__a=1, model__b=2), x=model("x", model__a=1, b=2))
    assert "x: has no model.b" in message
    assert "x: has b 2, which base lacks" in message


def test_a_prefix_is_never_guessed_where_two_would_do():
    x = model("x", one__a=1, two__a=1)
    assert "x: has no a" in problems(model("base", a=1), x=x)


def test_a_tower_without_its_prefix_fits_the_whole_model():
    base = model("base", text__a=4, vision__a=1, vision__b=2, scale=torch.tensor(1.0))
    found = fit(base, {"x": model("x", a=1, b=2)}, tower="vision.")
    assert found.scope == ("vision.a", "vision.b")
    assert found.names == ({"vision.a": "a", "vision.b": "b"},)


def test_what_is_outside_the_tower_comes_from_the_reference_and_is_not_compared():
    base = model("hub/base", vision__a=1, text__a=2, text__b=2)
    found = fit(base, {"x": model("x", vision__a=1, text__a=9)}, tower="vision.")
    assert found.scope == ("vision.a",)
    assert found.notes == ("1 tensors under 'vision.' are fused; the other 2 stay as the base has them",)


def test_an_expert_may_bring_a_head_of_its_own_beside_the_tower():
    base = model("base", vision__a=1, vision__b=1, text__a=2)
    found = fit(base, {"x": model("x", vision__a=1, vision__b=1, classifier=(10, 1))}, tower="vision.")
    assert found.scope == ("vision.a", "vision.b")


def test_an_expert_with_a_longer_prefix_may_bring_a_head_beside_the_tower():
    base = model("base", vision__a=1, vision__b=1, text__a=2)
    x = model("x", clip__vision__a=1, clip__vision__b=1, classifier=(10, 1), clip__text__z=3)
    found = fit(base, {"x": x}, tower="vision.")
    assert found.names == ({"vision.a": "clip.vision.a", "vision.b": "clip.vision.b"},)


def test_a_tensor_more_inside_the_tower_is_a_difference():
    base = model("base", vision__a=1, text__a=2)
    assert "x: has vision.c 1, which base lacks" in problems(
        base, x=model("x", vision__a=1, vision__c=1), tower="vision."
    )


def test_a_tower_that_is_not_there_is_an_error():
    assert "no tensor under 'vision.'" in problems(model("base", a=1), x=model("x", a=1), tower="vision.")


def test_only_tables_that_differ_in_nothing_but_rows_are_called_vocabularies():
    base = model("base", embed_tokens__weight=(3, 2), w=1)
    assert "vocabulary sizes differ: base 3; x 4" in problems(base, x=model("x", embed_tokens__weight=(4, 2), w=1))
    for other in ({"w": 1}, {"w": 1, "embed_tokens__weight": (4, 5)}):
        message = problems(base, x=model("x", **other))
        assert "vocabulary" not in message
        assert "embed_tokens.weight" in message


POSITIONS = torch.arange(4)[None]


@pytest.mark.parametrize("where", ["base", "expert"])
def test_position_ids_that_only_some_versions_save_are_no_difference(where):
    with_ids = model("with", e__w=2, e__position_ids=POSITIONS)
    without = model("without", e__w=2)
    base, expert = (with_ids, without) if where == "base" else (without, with_ids)
    assert fit(base, {"x": expert}).notes == ()


MASKS = {"h__0__attn__bias": torch.ones(1, 1, 3, 3).tril(), "h__0__attn__masked_bias": torch.tensor(-1e4)}


@pytest.mark.parametrize("where", ["base", "expert"])
@pytest.mark.parametrize("prefix", ["", "transformer__"])
def test_masks_that_the_hubs_gpt2_holds_as_floats_are_no_difference(where, prefix):
    masked, plain = {"h__0__w": 2, "wte": 3, **MASKS}, {"h__0__w": 2, "wte": 3}
    of_base, of_expert = (masked, plain) if where == "base" else (plain, masked)
    expert = {prefix + name: tensor for name, tensor in of_expert.items()}
    found = fit(model("base", **of_base), {"x": model("x", **expert)})
    assert found.scope == ("h.0.w", "wte")


def test_masks_are_copied_from_the_base():
    base = {"h.0.w": torch.zeros(2), "h.0.attn.bias": torch.ones(1, 1, 3, 3).tril()}
    plan = plan_for("task_arithmetic", base, {"x": {"h.0.w": torch.ones(2)}})
    assert {step.output.name: step.action for step in plan} == {"h.0.w": "merge", "h.0.attn.bias": "copy"}
    assert plan.notes == ()


def test_a_row_of_floats_with_the_name_of_a_mask_is_a_parameter():
    assert "has no e.attn.bias" in problems(model("base", e__w=2, e__attn__bias=3), x=model("x", e__w=2))


EMBEDDING = torch.arange(6.0).view(3, 2)
TIED = {"model_type": "gpt2", "tie_word_embeddings": True}


def tied_models(alias, config=TIED, prefix: str = ""):
    base = TensorSource("base", {"wte.weight": EMBEDDING, "h.w": torch.zeros(2)}, TIED if config is None else config)
    state = {f"{prefix}wte.weight": EMBEDDING.clone(), f"{prefix}h.w": torch.ones(2), "lm_head.weight": alias}
    return base, TensorSource("x", state, config)


@pytest.mark.parametrize(
    "config",
    [
        TIED,
        {"model_type": "gpt2"},
        {"model_type": "gemma2"},
        {"model_type": "x", "text_config": {"tie_word_embeddings": True}},
    ],
)
@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_the_second_name_of_a_tied_tensor_is_no_difference(config, prefix):
    base, expert = tied_models(EMBEDDING.clone(), config, prefix)
    assert fit(base, {"x": expert}).scope == ("wte.weight", "h.w")


def test_a_tensor_that_should_be_tied_and_is_not_is_a_difference():
    base, expert = tied_models(EMBEDDING + 1)
    assert "x: has lm_head.weight 3×2" in problems(base, x=expert)


def test_an_equal_tensor_in_a_model_that_ties_nothing_is_a_difference():
    base, expert = tied_models(EMBEDDING.clone(), {"model_type": "llama", "tie_word_embeddings": False})
    assert "x: has lm_head.weight" in problems(base, x=expert)


@pytest.mark.parametrize("prefix", ["", "transformer__"])
def test_the_head_of_an_experts_classifier_stays_with_its_task(prefix):
    expert = {f"{prefix}h__0__w": 2, "score__weight": (3, 2)}
    config = {"model_type": "gpt2"}
    found = fit(model("base", config, h__0__w=2), {"x": model("x", config, **expert)})
    assert found.scope == ("h.0.w",)
    assert found.notes[-1] == "heads (score.…) belong to their tasks and are not fused: those of x"


def test_a_language_models_own_head_is_no_head_of_a_classifier():
    config = {"model_type": "gpt2"}
    message = problems(model("base", config, h__0__w=2), x=model("x", config, h__0__w=2, lm_head__weight=(3, 2)))
    assert "x: has lm_head.weight 3×2" in message
