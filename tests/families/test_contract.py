"""What every family promises, held against a tiny random Hugging Face model. A new family joins by a line in TINY."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fusionbench.errors import MissingPart
from fusionbench.families import Family, HasParts, family_for, family_named, load_module, weights_in
from fusionbench.registry import families
from fusionbench.weights.headers import Source
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights


class Tiny(NamedTuple):
    """A model as Hugging Face makes it, and five examples as they are prepared for it."""

    model: nn.Module
    examples: list[Mapping[str, Any]]


def tiny_t5() -> Tiny:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"vocab_size": 20, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    config = T5Config(**sizes, decoder_start_token_id=0, feed_forward_proj="gated-gelu")
    texts = [[5, 6, 7, 1], [8, 1], [9, 10, 11, 12, 13, 1], [14, 15, 1], [16, 17, 18, 19, 1]]
    return Tiny(T5ForConditionalGeneration(config), [{"input_ids": text, "label": text[:2]} for text in texts])


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


def tiny_texts() -> list[Mapping[str, Any]]:
    random = np.random.default_rng(0)
    return [{"input_ids": random.integers(2, 20, 4 + 2 * label), "label": label} for label in range(5)]


def tiny_gpt2() -> Tiny:
    from transformers import GPT2Config, GPT2Model

    config = GPT2Config(vocab_size=20, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=1)
    return Tiny(GPT2Model(config), tiny_texts())


def tiny_encoder() -> Tiny:
    from transformers import BertConfig, BertModel

    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return Tiny(BertModel(BertConfig(vocab_size=20, max_position_embeddings=16, **size)), tiny_texts())


def tiny_images(side: int = 16) -> list[Mapping[str, Any]]:
    images = np.random.default_rng(0).integers(0, 256, (5, side, side, 3), dtype=np.uint8)
    return [{"image": image, "label": label} for label, image in enumerate(images)]


def tiny_vit() -> Tiny:
    from transformers import ViTConfig, ViTModel

    class Plain(ViTModel):
        """As inside ViT's classifier: without the pooling layer."""

        def __init__(self, config: ViTConfig) -> None:
            super().__init__(config, add_pooling_layer=False)

    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return Tiny(Plain(ViTConfig(image_size=16, patch_size=8, **size)), tiny_images())


def tiny_dinov2() -> Tiny:
    from transformers import Dinov2Config, Dinov2Model

    size = {"hidden_size": 16, "mlp_ratio": 2, "num_hidden_layers": 2, "num_attention_heads": 2}
    return Tiny(Dinov2Model(Dinov2Config(image_size=16, patch_size=8, **size)), tiny_images())


def tiny_resnet() -> Tiny:
    from transformers import ResNetConfig, ResNetModel

    return Tiny(ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2])), tiny_images())


def tiny_convnext() -> Tiny:
    from transformers import ConvNextConfig, ConvNextModel

    return Tiny(ConvNextModel(ConvNextConfig(num_stages=2, hidden_sizes=[8, 16], depths=[1, 2])), tiny_images())


def tiny_scene() -> Tiny:
    from fusionbench.families.scene_encoder import SceneConfig, SceneEncoder

    config = SceneConfig(stem_width=8, widths=[4, 4, 4, 4], depths=[1, 1, 2, 1])
    return Tiny(SceneEncoder(config), tiny_images(24))


def tiny_open_clip() -> Tiny:
    from fusionbench.families.open_clip_encoder import OpenClipConfig, OpenClipEncoder

    config = OpenClipConfig(
        prefix="", image_size=16, patch_size=8, width=16, layers=2, heads=2, mlp_width=32, projection_dim=8,
        others={"logit_scale": [], "token_embedding.weight": [5, 8]},
    )  # fmt: skip
    with torch.no_grad():
        model = OpenClipEncoder(config)
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape))
    return Tiny(model, tiny_images())


def tiny_causal_lm(kind: str) -> Callable[[], Tiny]:
    from transformers import AutoConfig, AutoModelForCausalLM

    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    size |= {"vocab_size": 20, "num_key_value_heads": 2, "head_dim": 4, "pad_token_id": 0, "eos_token_id": 1}
    size |= {"num_local_experts": 3} if kind == "mixtral" else {}

    def make() -> Tiny:
        config = AutoConfig.for_model(kind, **size, tie_word_embeddings=kind not in ("mistral", "mixtral"))
        texts = [{"input_ids": text["input_ids"], "label": [2, 3]} for text in tiny_texts()]
        return Tiny(AutoModelForCausalLM.from_config(config), texts)

    return make


TINY: dict[str, Callable[[], Tiny]] = {"encoder": tiny_encoder, "gpt2": tiny_gpt2, "t5": tiny_t5, "clip": tiny_clip}
TINY |= {"open_clip": tiny_open_clip}
TINY |= {"image_classifier/vit": tiny_vit, "image_classifier/dinov2": tiny_dinov2}
TINY |= {"image_classifier/resnet": tiny_resnet, "image_classifier/convnext": tiny_convnext, "scene": tiny_scene}
TINY |= {
    f"causal_lm/{kind}": tiny_causal_lm(kind) for kind in ("llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma2")
}
"""By family; by family and architecture where one serves several."""

WITHOUT_MLPS = {"bert", "mixtral", "resnet", "dilated_resnet"}
"""Model types whose blocks do not hold an MLP as one module; they say so."""
REARRANGED = {"mixtral"}
"""Model types whose files and whose transformers modules cut the same weights differently; ours follows the file."""


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


@pytest.fixture(scope="module", params=sorted(TINY))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The family, and its tiny model written and read back by Hugging Face itself."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tiny = TINY[request.param]()
        for parameter in tiny.model.parameters():
            nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp(request.param.replace("/", "-")) / "model"
    tiny.model.save_pretrained(folder)
    return Case(
        family_named(request.param.split("/")[0]),
        open_source(folder),
        type(tiny.model).from_pretrained(folder),
        tiny.examples,
    )


def tower_of(case: Case) -> dict[str, torch.Tensor]:
    """Other numbers for what the family fuses, by canonical name."""
    weights = LazyWeights(case.source)
    fused = {n: weights[n] for n, s in case.source.specs.items() if n.startswith(case.family.tower) and s.is_float}
    return {name: tensor * 0.5 + 0.1 for name, tensor in fused.items()}


def test_every_family_is_held_against_the_contract() -> None:
    assert {name.split("/")[0] for name in TINY} >= set(families)


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
    if case.source.config["model_type"] in REARRANGED:
        assert set(reached) == set(case.load().state_dict())
        return
    state = case.reference.state_dict(keep_vars=True)
    assert {id(state[own]) for own in reached} == {
        id(tensor) for tensor in state.values()
    }  # a tied tensor has one name


def test_the_tower_holds_some_tensors_of_the_file(case: Case) -> None:
    assert any(name.startswith(case.family.tower) for name in case.source.specs)


def test_a_loaded_module_computes_bit_for_bit_what_from_pretrained_computes(case: Case) -> None:
    ours, theirs = case.features(case.load()), case.features(case.reference)
    if case.source.config["model_type"] in REARRANGED:
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    else:
        assert torch.equal(ours, theirs)


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
    assert sites or not any(isinstance(part, nn.Linear) for part in module.modules())


def test_every_named_block_and_mlp_exists_and_an_mlp_is_made_of_linear_sites(case: Case) -> None:
    assert isinstance(case.family, HasParts)
    module = case.load()
    blocks = case.family.blocks(module)
    if case.source.config["model_type"] in WITHOUT_MLPS:
        with pytest.raises(MissingPart, match="MLP"):
            case.family.mlps(module)
        assert len(blocks) > 1
        return
    mlps = case.family.mlps(module)
    assert len(blocks) == len(mlps) > 1
    sites = {site.name for site in case.family.linears(module)}
    for block, mlp in zip(blocks, mlps, strict=True):
        assert f"{mlp}.".startswith(f"{block}.")
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
