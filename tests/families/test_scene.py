import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fusionbench.errors import MissingPart
from fusionbench.families import load_module
from fusionbench.families.scene import Scene
from fusionbench.families.scene_encoder import SceneConfig, SceneEncoder
from fusionbench.weights.sources import open_source

SMALL: dict[str, Any] = {"stem_width": 8, "widths": [4, 6, 8, 10], "depths": [1, 2, 2, 1], "head_width": 8,
                         "head_rates": [1, 2, 3]}  # fmt: skip


def encoder(**changes: Any) -> SceneEncoder:
    """A random encoder whose BatchNorm layers do something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = SceneEncoder(SceneConfig(**{**SMALL, **changes})).eval()
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.running_mean, std=0.2)
                nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return module


def as_transformers_names(name: str) -> str:
    """Return the name in transformers' ResNet of a tensor with torchvision's name."""
    parts = name.split(".")
    kinds = {"conv": "convolution", "bn": "normalization"}
    if not parts[0].startswith("layer"):
        return f"embedder.embedder.{kinds[parts[0][:-1]]}.{parts[-1]}"
    block = f"encoder.stages.{int(parts[0][5:]) - 1}.layers.{parts[1]}"
    if parts[2] == "downsample":
        return f"{block}.shortcut.{('convolution', 'normalization')[int(parts[3])]}.{parts[-1]}"
    return f"{block}.layer.{int(parts[2][-1]) - 1}.{kinds[parts[2][:-1]]}.{parts[-1]}"


def test_with_an_output_stride_of_32_it_is_transformers_resnet() -> None:
    from transformers import ResNetConfig, ResNetModel

    ours = encoder(output_stride=32)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[16, 24, 32, 40], depths=[1, 2, 2, 1])
    theirs = ResNetModel(config).eval()
    theirs.load_state_dict({as_transformers_names(name): tensor for name, tensor in ours.state_dict().items()})
    pixels = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        expected = theirs(pixels).last_hidden_state
        torch.testing.assert_close(ours(pixel_values=pixels), expected, rtol=1e-4, atol=1e-5)


def test_dilation_computes_the_strided_network_at_every_place_between() -> None:
    # The à-trous algorithm (arXiv:1706.05587, §3.1): every fourth place of the dense maps is the strided network's.
    strided, dilated = encoder(output_stride=32), encoder(output_stride=8)
    dilated.load_state_dict(strided.state_dict())
    pixels = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        dense, sparse = dilated(pixel_values=pixels), strided(pixel_values=pixels)
    assert dense.shape == (1, 40, 8, 12)
    torch.testing.assert_close(dense[:, :, ::4, ::4], sparse, rtol=1e-4, atol=1e-5)


def test_the_defaults_are_resnet_50_with_output_stride_8() -> None:
    module = Scene().skeleton({})
    # ResNet-50 has 25,557,032 parameters, of which 2,049,000 are ImageNet's classifier (torchvision's figures).
    assert sum(parameter.numel() for parameter in module.parameters()) == 25_557_032 - 2_049_000
    convolutions = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d)}
    assert [convolutions[f"layer{n}.{b}.conv2"].dilation[0] for n in (2, 3, 4) for b in (0, 1)] == [1, 1, 1, 2, 2, 4]
    assert [convolutions[f"layer{n}.0.conv2"].stride[0] for n in (1, 2, 3, 4)] == [1, 2, 1, 1]


def test_released_weights_with_a_classifier_and_without_batch_counts_are_read() -> None:
    family, module = Scene(), encoder()
    released = {n: t for n, t in module.state_dict().items() if not n.endswith("num_batches_tracked")}
    released |= {"fc.weight": torch.ones(1000, 40), "fc.bias": torch.ones(1000)}
    loaded = load_module(family, released, module.config.to_dict())
    assert torch.equal(loaded.state_dict()["layer4.0.bn3.running_var"], module.state_dict()["layer4.0.bn3.running_var"])


def test_an_experts_folder_with_a_head_gives_the_encoder_alone(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    family, module = Scene(), encoder()
    module.save_pretrained(tmp_path)
    head = family.head_module(module.config.to_dict(), 13)
    state = {**module.state_dict(), **{f"head.{name}": tensor for name, tensor in head.state_dict().items()}}
    save_file(state, tmp_path / "model.safetensors")
    loaded = load_module(family, open_source(tmp_path))
    assert set(loaded.state_dict()) == set(module.state_dict())


def test_a_head_is_deeplabs() -> None:
    head = Scene().head_module({}, 13)
    # ASPP: 2048·256 + 3·(9·2048·256) + 2048·256, 1280·256; then 9·256·256; 256·13 + 13; 7 BatchNorm layers of 2·256.
    expected = 2 * 2048 * 256 + 3 * 9 * 2048 * 256 + 1280 * 256 + 9 * 256 * 256 + 256 * 13 + 13 + 7 * 512
    assert sum(parameter.numel() for parameter in head.parameters()) == expected
    rates = [layer.dilation[0] for layer in head.modules() if isinstance(layer, nn.Conv2d) and layer.dilation[0] > 1]
    assert rates == [12, 24, 36]
    assert [layer.p for layer in head.modules() if isinstance(layer, nn.Dropout)] == [0.5]


def test_a_head_maps_features_with_channels_last_to_maps_of_the_same_size() -> None:
    family, module = Scene(), encoder()
    head = family.head_module(module.config.to_dict(), 3).eval()
    with torch.inference_mode():
        features = family.features(module, {"pixel_values": torch.rand(2, 3, 32, 48)})
        assert features.shape == (2, 4, 6, family.width(module.config.to_dict()))
        assert head(features).shape == (2, 3, 4, 6)


def test_images_may_be_bytes_or_numbers_of_0_to_1_and_keep_their_size() -> None:
    bytes_ = np.full((2, 6, 3), 51, np.uint8)
    batch = Scene().collate([{"image": bytes_, "label": np.ones((2, 6), np.int8)}])
    floats = Scene().collate([{"image": np.full((2, 6, 3), 0.2)}])
    assert batch["pixel_values"].shape == (1, 3, 2, 6)
    torch.testing.assert_close(batch["pixel_values"], torch.full((1, 3, 2, 6), 0.2))
    torch.testing.assert_close(batch["pixel_values"], floats["pixel_values"])
    assert batch["labels"].shape == (1, 2, 6)
    assert set(floats) == {"pixel_values"}


def test_pixels_are_normalised_as_the_folder_says(tmp_path: Path) -> None:
    encoder().save_pretrained(tmp_path)
    assert Scene().processor(open_source(tmp_path)).mean == (0.0, 0.0, 0.0)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.25, 0], "image_std": [0.5, 0.5, 1]}')
    batch = Scene().collate([{"image": np.ones((1, 1, 3))}], Scene().processor(open_source(tmp_path)))
    torch.testing.assert_close(batch["pixel_values"].flatten(), torch.tensor([1.0, 1.5, 1.0]))


def test_it_has_blocks_and_no_linear_map_and_says_that_it_has_no_mlp() -> None:
    family, module = Scene(), encoder()
    assert family.blocks(module) == ["layer1.0", "layer2.0", "layer2.1", "layer3.0", "layer3.1", "layer4.0"]
    assert list(family.linears(module)) == []
    with pytest.raises(MissingPart, match="only convolutions"):
        family.mlps(module)
    with pytest.raises(MissingPart, match="only convolutions"):
        family.mlp_parts(module)


def test_a_base_with_imagenets_classifier_is_fused_with_experts_that_have_heads_instead(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from fusionbench.config import Recipe
    from fusionbench.merge import open_pool, plan_of

    config = {"model_type": "dilated_resnet", **SMALL}
    shapes = {name: tensor.shape for name, tensor in Scene().skeleton(config).state_dict().items()}
    for name, extra in (("base", {"fc.weight": (1000, 40)}), ("expert", {"head.4.bias": (13,)})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        save_file({n: torch.zeros(s) for n, s in {**shapes, **extra}.items()}, tmp_path / name / "model.safetensors")
    recipe = Recipe.load(
        None, [f"base={tmp_path / 'base'}", f"experts.a={tmp_path / 'expert'}", "method=simple_average"]
    )
    plan = plan_of(open_pool(recipe), recipe.method)
    actions = {step.output.name: step.action for step in plan}
    assert actions["fc.weight"] == "copy"
    assert actions["layer4.0.conv3.weight"] == "merge"
    assert actions["layer4.0.bn3.running_var"] == "batch_norm"
    assert "head.4.bias" not in actions
