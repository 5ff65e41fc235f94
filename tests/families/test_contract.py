"""What every family promises, held against a tiny random Hugging Face model. A new family joins by a line in TINY."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fusionbench.families import Family, HasParts, family_for, family_named, load_module, weights_in
from fusionbench.registry import families
from fusionbench.weights.headers import Source
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights


class Tiny(NamedTuple):
    """A model as Hugging Face makes it, and five examples as they are prepared for it."""

    model: nn.Module
    examples: list[Mapping[str, Any]]


def tiny_clip() -> Tiny:
    from transformers import CLIPConfig, CLIPModel

    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=tower | {"vocab_size": 20, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 3},
        vision_config=tower | {"image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    return Tiny(CLIPModel(config), [{"image": image, "label": label} for label, image in enumerate(images)])


TINY: dict[str, Callable[[], Tiny]] = {"clip": tiny_clip}


class Case(NamedTuple):
    family: Family
    source: Source
    reference: nn.Module
    examples: list[Mapping[str, Any]]

    def load(self) -> nn.Module:
        return load_module(self.family, self.source, self.source.config)

    def features(self, module: nn.Module) -> torch.Tensor:
        with torch.inference_mode():
            return self.family.features(module, self.family.collate(self.examples))


@pytest.fixture(scope="module", params=sorted(families))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The family, and its tiny model written and read back by Hugging Face itself."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tiny = TINY[request.param]()
        for parameter in tiny.model.parameters():
            nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp(request.param) / "model"
    tiny.model.save_pretrained(folder)
    return Case(
        family_named(request.param), open_source(folder), type(tiny.model).from_pretrained(folder), tiny.examples
    )


def tower_of(case: Case) -> dict[str, torch.Tensor]:
    """Other numbers for what the family fuses, by canonical name."""
    weights = LazyWeights(case.source)
    fused = {n: weights[n] for n, s in case.source.specs.items() if n.startswith(case.family.tower) and s.is_float}
    return {name: tensor * 0.5 + 0.1 for name, tensor in fused.items()}


def test_the_family_is_found_by_the_configuration_and_refuses_others(case: Case) -> None:
    assert family_for(case.source.config).name == case.family.name
    assert case.family.matches(case.source.config)
    assert not case.family.matches({"model_type": "nonesuch"})


def test_the_index_knows_tower_and_model_types(case: Case) -> None:
    data = families[case.family.name].data
    assert data is not None
    assert data["tower"] == case.family.tower
    assert case.source.config["model_type"] in data["model_types"]
    assert families[case.family.name].version == case.family.version


def test_a_skeleton_has_parameters_without_memory_real_buffers_and_is_in_eval_mode(case: Case) -> None:
    before = torch.get_rng_state()
    skeleton = case.family.skeleton(case.source.config)
    assert {parameter.device.type for parameter in skeleton.parameters()} == {"meta"}
    assert all(buffer.device.type == "cpu" for buffer in skeleton.buffers())
    assert not any(part.training for part in skeleton.modules())
    assert torch.equal(before, torch.get_rng_state())


def test_names_lead_one_to_one_to_all_tensors_of_the_module(case: Case) -> None:
    names = case.family.names(case.source.specs)
    reached = list(names.values())
    assert len(set(reached)) == len(reached)
    state = case.reference.state_dict(keep_vars=True)
    assert {id(state[own]) for own in reached} == {
        id(tensor) for tensor in state.values()
    }  # a tied tensor has one name


def test_the_tower_holds_some_tensors_of_the_file(case: Case) -> None:
    assert any(name.startswith(case.family.tower) for name in case.source.specs)


def test_a_loaded_module_computes_bit_for_bit_what_from_pretrained_computes(case: Case) -> None:
    assert torch.equal(case.features(case.load()), case.features(case.reference))


def test_features_are_rows_that_do_not_depend_on_their_neighbours(case: Case) -> None:
    module = case.load()
    together = case.features(module)
    assert len(together) == len(case.examples)
    for row, example in zip(together, case.examples, strict=True):
        with torch.inference_mode():
            (alone,) = case.family.features(module, case.family.collate([example]))
        torch.testing.assert_close(alone, row, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(together[0], together[1])


def test_features_have_the_width_that_the_family_states(case: Case) -> None:
    assert isinstance(case.family, HasParts)
    assert case.features(case.load()).shape[-1] == case.family.width(case.source.config)


def test_every_named_linear_map_is_reached_by_a_forward_and_lies_in_the_tower(case: Case) -> None:
    assert isinstance(case.family, HasParts)
    module = case.load()
    sites = list(case.family.linears(module))
    reached: set[str] = set()
    for site in sites:
        assert module.get_submodule(site.name) is site.module
        assert f"{site.name}.".startswith(case.family.tower)
        site.module.register_forward_hook(lambda *_, name=site.name: reached.add(name))
    case.features(module)
    assert reached == {site.name for site in sites}
    assert sites


def test_every_named_block_and_mlp_exists_and_an_mlp_is_made_of_linear_sites(case: Case) -> None:
    assert isinstance(case.family, HasParts)
    module = case.load()
    blocks, mlps = case.family.blocks(module), case.family.mlps(module)
    assert len(blocks) == len(mlps) > 1
    sites = {site.name for site in case.family.linears(module)}
    for block, mlp in zip(blocks, mlps, strict=True):
        assert mlp.startswith(f"{block}.")
        parts = [part for part in case.family.mlp_parts(module) if part is not None]
        assert {f"{mlp}.{part}" for part in parts} <= sites


def test_weights_in_lends_other_weights_and_gives_the_old_ones_back_bit_for_bit(case: Case) -> None:
    module, other = case.load(), tower_of(case)
    parameters = list(module.parameters())
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    names = case.family.names(case.source.specs)
    plain = case.features(module)
    with weights_in(module, other) as lent:
        assert all(torch.equal(lent.state_dict()[names[name]], tensor) for name, tensor in other.items())
        assert not torch.equal(case.features(lent), plain)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(old is new for old, new in zip(parameters, module.parameters(), strict=True))


def test_a_saved_tower_over_the_base_is_loaded_as_it_was_saved(case: Case, tmp_path: Path) -> None:
    other = tower_of(case)
    save_file(
        {name: other.get(name, tensor) for name, tensor in LazyWeights(case.source).items()}, tmp_path / "m.safetensors"
    )
    loaded = load_module(case.family, open_source(tmp_path / "m.safetensors"), case.source.config)
    with weights_in(case.load(), other) as lent:
        assert all(torch.equal(tensor, lent.state_dict()[name]) for name, tensor in loaded.state_dict().items())
        assert torch.equal(case.features(loaded), case.features(lent))
