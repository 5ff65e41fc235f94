import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fusionbench.errors import CheckpointError
from fusionbench.families import MlpParts, family_named, load_module, weights_in
from fusionbench.families.clip import Clip
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights, TensorSource


@pytest.fixture(scope="module")
def model(clip_folder: Path) -> Any:
    from transformers import CLIPModel

    return CLIPModel.from_pretrained(clip_folder)


def test_text_features_are_those_of_hugging_faces_tokenizer_and_model(clip_folder: Path, model: Any) -> None:
    from transformers import AutoTokenizer

    source, clip = open_source(clip_folder), Clip()
    texts = ["a photo of a cat", "red"]
    tokens = clip.tokenize(source, texts)
    expected = AutoTokenizer.from_pretrained(clip_folder)(texts, padding=True, return_tensors="pt")
    assert tokens["input_ids"].tolist() == expected["input_ids"].tolist()
    with torch.inference_mode():
        ours = clip.text_features(load_module(clip, source), tokens)
        assert torch.equal(ours, model.get_text_features(**expected).pooler_output)


def test_a_text_longer_than_the_tower_is_cut_and_still_ends(clip_folder: Path) -> None:
    tokens = Clip().tokenize(open_source(clip_folder), ["a red bird of a red bird of a red bird"])
    assert tokens["input_ids"].shape == (1, 8)
    assert tokens["input_ids"][0, -1] == 3


def test_features_take_a_callable_in_place_of_a_module(model: Any) -> None:
    batch = {"pixel_values": torch.rand(2, 3, 32, 32)}
    with torch.inference_mode():
        direct = Clip().features(model, batch)
        assert torch.equal(Clip().features(lambda **inputs: model.get_image_features(**inputs), batch), direct)


def test_collate_stacks_images_and_labels_and_leaves_absent_labels_out() -> None:
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    batch = Clip().collate([{"image": black, "label": 4}, {"image": white, "label": 1}])
    assert batch["pixel_values"].shape == (2, 3, 2, 2)
    # OpenAI's first channel: (0 - 0.48145466) / 0.26862954 and (1 - 0.48145466) / 0.26862954
    torch.testing.assert_close(batch["pixel_values"][:, 0, 0, 0], torch.tensor([-1.79226, 1.93033]), atol=1e-5, rtol=0)
    assert batch["labels"].tolist() == [4, 1]
    assert set(Clip().collate([{"image": black}])) == {"pixel_values"}


def test_parts_are_named_in_order_of_depth(clip_folder: Path) -> None:
    clip = Clip()
    module = load_module(clip, open_source(clip_folder))
    block = "vision_model.encoder.layers."
    assert clip.blocks(module) == [f"{block}0", f"{block}1"]
    assert clip.mlps(module) == [f"{block}0.mlp", f"{block}1.mlp"]
    assert clip.mlp_parts(module) == MlpParts(up="fc1", down="fc2")
    names = [site.name.removeprefix(block) for site in clip.linears(module)]
    parts = ["self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2"]
    assert names == [f"{depth}.{part}" for depth in range(2) for part in parts]


def test_a_file_of_the_vision_tower_alone_is_read_with_and_without_the_prefix(
    clip_folder: Path, model: Any, tmp_path: Path
) -> None:
    model.vision_model.save_pretrained(tmp_path)
    flattened = LazyWeights(open_source(tmp_path))
    assert "pre_layrnorm.weight" in flattened  # transformers 5 writes no prefix
    module = load_module(family_named("clip"), open_source(clip_folder))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.mul_(0 if name.startswith("vision_model.") else 1)
    for weights in (flattened, {f"vision_model.{name}": tensor for name, tensor in flattened.items()}):
        with weights_in(module, weights):
            assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_position_ids_that_older_versions_wrote_are_passed_over(clip_folder: Path) -> None:
    source = open_source(clip_folder)
    old = dict(LazyWeights(source)) | {"vision_model.embeddings.position_ids": torch.arange(17)[None]}
    module = load_module(Clip(), old, source.config)
    assert isinstance(module, nn.Module)
    with weights_in(module, old):
        pass


def test_a_folder_without_tokenizer_is_refused_with_the_fix(clip_folder: Path, tmp_path: Path) -> None:
    shutil.copy(clip_folder / "model.safetensors", tmp_path)
    shutil.copy(clip_folder / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match=r"holds no tokenizer .* Save the base model's tokenizer"):
        Clip().tokenize(open_source(tmp_path), ["a cat"])
    with pytest.raises(CheckpointError, match="in memory holds no tokenizer"):
        Clip().tokenize(TensorSource("in memory", {}), ["a cat"])


def test_a_tokenizer_that_does_not_end_texts_is_refused_with_the_token(clip_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(clip_folder, tmp_path / "base")
    place = tmp_path / "base" / "config.json"
    config = json.loads(place.read_text())
    config["text_config"]["eos_token_id"] = 11
    place.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="does not end texts with token 11"):
        Clip().tokenize(open_source(tmp_path / "base"), ["a cat"])


def test_permutations_move_heads_and_hidden_units_and_nothing_that_the_model_computes(clip_folder: Path) -> None:
    source, clip = open_source(clip_folder), Clip()
    groups = clip.permutations(source.config)
    assert [(group.name.rpartition(".")[2], group.units) for group in groups] == [("self_attn", 2), ("mlp", 32)] * 2
    module = load_module(clip, source).double()
    batch = {"pixel_values": torch.rand(2, 3, 32, 32, dtype=torch.float64)}
    state = module.state_dict()
    with torch.inference_mode():
        before = clip.features(module, batch)
        for group in groups:
            order = torch.arange(group.units).flip(0)
            for name, axis in (*group.produced, *group.read):
                moved = state[name].movedim(axis, 0)
                blocks = moved.reshape(group.units, -1, *moved.shape[1:])[order]
                state[name].copy_(blocks.reshape(moved.shape).movedim(0, axis).clone())
        torch.testing.assert_close(clip.features(module, batch), before)
        state["vision_model.encoder.layers.0.mlp.fc1.bias"].copy_(
            state["vision_model.encoder.layers.0.mlp.fc1.bias"].flip(0).clone()
        )
        assert not torch.allclose(clip.features(module, batch), before)
