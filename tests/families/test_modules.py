from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fusionbench.errors import CheckpointError, IncompatibleModels
from fusionbench.families import as_source, load_module, weights_in
from fusionbench.families.clip import Clip
from fusionbench.weights.headers import TensorSpec
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights, TensorSource

NAME = "vision_model.post_layernorm.bias"


class TiedLanguageModel:
    """A family of the tests: GPT-2, whose output matrix is its embedding, under names without the module's prefix."""

    name: str = "tied"
    version: int = 1
    tower: str = ""
    model_types: tuple[str, ...] = ("gpt2",)

    def matches(self, config: Mapping[str, Any]) -> bool:
        return config.get("model_type") == "gpt2"

    def skeleton(self, config: Mapping[str, Any]) -> nn.Module:
        from accelerate import init_empty_weights
        from transformers import GPT2Config, GPT2LMHeadModel

        with init_empty_weights(include_buffers=False):
            return GPT2LMHeadModel(GPT2Config(**config)).eval()

    def names(self, specs: Mapping[str, TensorSpec]) -> Mapping[str, str]:
        return {name: f"transformer.{name}" for name in specs}

    def collate(self, examples: Any, processor: Any = None) -> Any:
        raise NotImplementedError

    def features(self, backbone: Any, batch: Any) -> Tensor:
        raise NotImplementedError


def a_gpt2() -> tuple[dict[str, Any], dict[str, Tensor]]:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = {"n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 12, "n_positions": 6, "bos_token_id": 0}
    config["eos_token_id"] = 0
    state = GPT2LMHeadModel(GPT2Config(**config)).state_dict()
    prefix = "transformer."
    return config, {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}


def test_a_shared_tensor_is_filled_from_its_one_name_and_tied() -> None:
    config, weights = a_gpt2()
    module = load_module(TiedLanguageModel(), weights, config)
    assert module.lm_head.weight is module.transformer.wte.weight
    assert torch.equal(module.lm_head.weight, weights["wte.weight"])


def test_other_weights_are_lent_under_the_names_of_the_family() -> None:
    config, weights = a_gpt2()
    module = load_module(TiedLanguageModel(), weights, config)
    with weights_in(module, {"wte.weight": torch.ones(12, 8)}, family=TiedLanguageModel()):
        assert (module.lm_head.weight == 1).all()
    assert torch.equal(module.lm_head.weight, weights["wte.weight"])


def test_a_module_shares_no_memory_with_tensors_it_was_filled_from(clip_folder: Path) -> None:
    weights = dict(LazyWeights(open_source(clip_folder)))
    module = load_module(Clip(), weights, open_source(clip_folder).config)
    places = {tensor.data_ptr() for tensor in weights.values()}
    assert places.isdisjoint({tensor.data_ptr() for tensor in module.state_dict().values()})


def test_each_tensor_is_read_once_and_from_the_rest_only_where_it_is_lacking(clip_folder: Path) -> None:
    source, reads = open_source(clip_folder), []
    read = source.read
    source.read = lambda name, *place: (reads.append(name), read(name, *place))[1]  # type: ignore[method-assign]
    module = load_module(Clip(), {NAME: torch.full((16,), 5.0)}, source.config, rest=source)
    assert sorted(reads) == sorted(set(source.specs) - {NAME})
    assert module.get_parameter(NAME).tolist() == [5.0] * 16
    other = "vision_model.post_layernorm.weight"
    assert torch.equal(module.get_parameter(other), LazyWeights(source)[other])


def test_numbers_keep_the_kind_they_are_stored_in(clip_folder: Path) -> None:
    source = open_source(clip_folder)
    half = {name: tensor.bfloat16() for name, tensor in LazyWeights(source).items()}
    module = load_module(Clip(), half, source.config)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}


def test_every_missing_extra_and_misshapen_tensor_is_named_at_once(clip_folder: Path) -> None:
    source = open_source(clip_folder)
    weights = dict(LazyWeights(source))
    del weights["logit_scale"]
    weights["vision_model.adapter.weight"] = torch.zeros(2)
    weights[NAME] = torch.zeros(3)
    weights["text_projection.weight"] = torch.zeros(8, 16, dtype=torch.int64)
    with pytest.raises(IncompatibleModels) as error:
        load_module(Clip(), weights, source.config)
    message = str(error.value)
    assert "logit_scale is missing" in message
    assert "vision_model.adapter.weight has no place in the module" in message
    assert f"{NAME} is [3], the module's is [16]" in message
    assert "text_projection.weight holds I64, the module's holds torch.float32" in message
    assert "(4 differences)" in message


def test_weights_without_a_configuration_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_module(Clip(), TensorSource("x", {}))


def test_weights_that_do_not_fit_leave_the_module_untouched(clip_folder: Path) -> None:
    module = load_module(Clip(), open_source(clip_folder))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    wrong = {"vision_model.pre_layrnorm.bias": torch.ones(16), NAME: torch.ones(4)}
    with pytest.raises(IncompatibleModels, match=r"is \[4\], the module's is \[16\]"), weights_in(module, wrong):
        pytest.fail("the block must not be entered")
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_old_weights_come_back_after_an_error_in_the_block_and_after_writing_in_it(clip_folder: Path) -> None:
    module = load_module(Clip(), open_source(clip_folder))
    before = module.get_parameter(NAME).detach().clone()
    before_other = module.get_parameter("logit_scale").detach().clone()

    def write_and_fail() -> None:
        with weights_in(module, {NAME: torch.ones(16)}), torch.no_grad():
            module.get_parameter(NAME).fill_(7)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert torch.equal(module.get_parameter(NAME), before)
    assert torch.equal(module.get_parameter("logit_scale"), before_other)


def test_lent_weights_are_not_changed_by_writing_into_the_module(clip_folder: Path) -> None:
    module = load_module(Clip(), open_source(clip_folder))
    lent = {NAME: torch.ones(16)}
    with weights_in(module, lent), torch.no_grad():
        module.get_parameter(NAME).fill_(7)
    assert lent[NAME].tolist() == [1.0] * 16


def test_gradients_reach_parameters_that_hold_lent_weights(clip_folder: Path) -> None:
    module = load_module(Clip(), open_source(clip_folder))
    with weights_in(module, {NAME: torch.ones(16)}):
        Clip().features(module, {"pixel_values": torch.rand(1, 3, 32, 32)}).sum().backward()
    gradient = module.get_parameter(NAME).grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_a_module_that_hugging_face_loaded_is_a_source_with_its_folder(clip_folder: Path) -> None:
    from transformers import CLIPModel

    source = as_source(CLIPModel.from_pretrained(clip_folder))
    assert source.folder == clip_folder
    assert source.config["model_type"] == "clip"
    assert set(source.specs) == set(open_source(clip_folder).specs)


def test_where_kinds_of_number_would_meet_each_tensor_has_the_kind_of_the_rest(clip_folder: Path) -> None:
    source = open_source(clip_folder)
    half = {name: tensor.bfloat16() for name, tensor in LazyWeights(source).items()}
    changed = half | {NAME: torch.full((16,), 1 + 2**-9)}
    module = load_module(Clip(), changed, source.config, rest=half)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}
    assert module.get_parameter(NAME).tolist() == [1.0] * 16
    wide = load_module(Clip(), dict(LazyWeights(source)), source.config, rest=half)
    assert {parameter.dtype for parameter in wide.parameters()} == {torch.float32}
