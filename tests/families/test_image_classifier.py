from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fusionbench.errors import MissingPart
from fusionbench.families import MlpParts, load_module
from fusionbench.families.image_classifier import IMAGENET_MEAN, ImageClassifier
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import TensorSource

TRANSFORMER = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 8,
    "num_labels": 5,
}  # fmt: skip


def vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(ViTConfig(**TRANSFORMER, intermediate_size=32))


def dinov2() -> nn.Module:
    from transformers import Dinov2Config, Dinov2ForImageClassification

    return Dinov2ForImageClassification(Dinov2Config(**TRANSFORMER, mlp_ratio=2))


def resnet() -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    return ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic", num_labels=5)
    )


def convnext() -> nn.Module:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    return ConvNextForImageClassification(
        ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 2], num_stages=2, image_size=16, num_labels=5)
    )


MODELS: dict[str, Callable[[], nn.Module]] = {
    "vit": vit, "dinov2": dinov2, "resnet": resnet, "convnext": convnext,
}  # fmt: skip
ARCHITECTURES = pytest.mark.parametrize("kind", MODELS)


def saved(kind: str, place: Path) -> Path:
    """A random classifier, with numbers that differ from the initial ones, as Hugging Face writes it."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = MODELS[kind]()
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                nn.init.normal_(tensor, std=0.3)
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    model.save_pretrained(place)
    return place


def head_of(folder: Path, classes: int) -> nn.Module:
    """The family's head module, filled with what the file has under the family's prefix."""
    from safetensors.torch import load_file

    family, source = ImageClassifier(), open_source(folder)
    head = family.head_module(source.config, classes)
    stored = {n.removeprefix(family.head): t for n, t in load_file(folder / "model.safetensors").items()}
    head.load_state_dict({name: stored[name] for name in head.state_dict()})
    return head.eval()


@ARCHITECTURES
def test_features_and_head_give_the_logits_of_transformers_own_classifier(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForImageClassification

    folder, family = saved(kind, tmp_path / kind), ImageClassifier()
    pixels = torch.rand(3, 3, 16, 16)
    module = load_module(family, open_source(folder))
    with torch.inference_mode():
        expected = AutoModelForImageClassification.from_pretrained(folder).eval()(pixel_values=pixels).logits
        ours = head_of(folder, 5)(family.features(module, {"pixel_values": pixels}))
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@ARCHITECTURES
def test_a_live_model_of_this_version_is_read_by_its_own_names(kind: str) -> None:
    family, model = ImageClassifier(), MODELS[kind]().eval()
    source = TensorSource(kind, model)
    loaded = load_module(family, source, model.config.to_dict())
    inner = getattr(model, kind).state_dict()
    assert all(torch.equal(tensor, inner[name]) for name, tensor in loaded.state_dict().items())


@ARCHITECTURES
def test_a_file_of_the_bare_model_and_one_of_the_classifier_give_the_same_module(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModel

    folder, family = saved(kind, tmp_path / kind), ImageClassifier()
    AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "bare")
    one, other = (load_module(family, open_source(place)).state_dict() for place in (folder, tmp_path / "bare"))
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_resnet_has_blocks_and_no_linear_map_and_says_that_it_has_no_mlp() -> None:
    family, module = ImageClassifier(), resnet().resnet
    assert family.blocks(module) == [f"encoder.stages.{at}" for at in ("0.layers.0", "1.layers.0", "1.layers.1")]
    assert list(family.linears(module)) == []
    with pytest.raises(MissingPart, match="no list of MLPs"):
        family.mlps(module)
    with pytest.raises(MissingPart, match="wemoe"):
        family.mlp_parts(module)


def test_a_convnexts_mlp_lies_in_the_block_itself() -> None:
    family, module = ImageClassifier(), convnext().convnext
    assert family.mlps(module) == family.blocks(module)
    assert family.mlp_parts(module) == MlpParts(up="pwconv1", down="pwconv2")
    assert [site.name.rpartition(".")[2] for site in family.linears(module)] == ["pwconv1", "pwconv2"] * 3


def test_a_transformers_sites_are_its_attention_and_its_mlp_block_by_block() -> None:
    family, module = ImageClassifier(), vit().vit
    names = [site.name for site in family.linears(module)]
    assert len(names) == 2 * 6
    assert names[4:6] == ["layers.0.mlp.fc1", "layers.0.mlp.fc2"]


@ARCHITECTURES
def test_a_new_head_has_a_row_a_class_and_is_initialised_as_the_architecture_does(kind: str) -> None:
    model, family = MODELS[kind](), ImageClassifier()
    config = model.config.to_dict()
    own = {name.removeprefix(family.head): t for name, t in model.state_dict().items() if name.startswith(family.head)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = family.head_module(config, 5).state_dict()
    assert {name: tensor.shape for name, tensor in made.items()} == {name: tensor.shape for name, tensor in own.items()}
    for name, tensor in own.items():
        # 5 × 16 entries of two draws of one distribution: their spread agrees within a factor of two.
        assert tensor.std() / 2 <= made[name].std() <= tensor.std() * 2 or tensor.numel() == 5


@ARCHITECTURES
def test_a_folder_with_the_heads_configuration_is_loaded_as_a_classifier_with_its_labels(kind: str) -> None:
    from transformers import AutoConfig

    family, config = ImageClassifier(), MODELS[kind]().config.to_dict()
    whole = AutoConfig.for_model(**{**config, **family.head_config(config, ["cat", "dog"])})
    assert whole.num_labels == 2
    assert whole.id2label == {0: "cat", 1: "dog"}
    assert whole.architectures == [type(MODELS[kind]()).__name__]


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"do_center_crop": True, "crop_size": {"height": 8, "width": 8}, "size": {"shortest_edge": 12}}, 8),
        ({"do_center_crop": False, "crop_size": {"height": 8, "width": 8}, "size": {"height": 12, "width": 12}}, 12),
        ({"size": 20}, 20),
        ({"crop_pct": 0.875, "size": {"shortest_edge": 24}}, 24),
    ],
)
def test_the_models_size_is_what_its_processor_makes(settings: dict[str, Any], size: int, tmp_path: Path) -> None:
    import json

    folder = saved("resnet", tmp_path / "model")
    (folder / "preprocessor_config.json").write_text(json.dumps({**settings, "image_mean": [0.25] * 3}))
    processor = ImageClassifier().processor(open_source(folder))
    assert processor.size == size
    assert processor.mean == (0.25,) * 3


def test_without_settings_images_are_normalised_as_for_imagenet(tmp_path: Path) -> None:
    processor = ImageClassifier().processor(open_source(saved("vit", tmp_path / "model")))
    assert (processor.size, processor.mean) == (16, IMAGENET_MEAN)
    batch = ImageClassifier().collate([{"image": np.zeros((4, 4, 3), np.uint8), "label": 2}])
    # black in the first channel: minus mean by deviation, 0.485 to 0.229
    assert float(batch["pixel_values"][0, 0, 0, 0]) == pytest.approx(-2.11790, abs=1e-5)
    assert batch["labels"].tolist() == [2]


@ARCHITECTURES
def test_an_expert_that_is_tuned_from_the_bare_model_is_a_classifier_of_transformers(
    kind: str, cache: Path, tmp_path: Path
) -> None:
    from transformers import AutoModel, AutoModelForImageClassification

    from fusionbench.finetune.recipe import FinetuneRecipe
    from fusionbench.finetune.tune import finetune
    from fusionbench.tasks import TaskSpec, build_task

    AutoModel.from_pretrained(saved(kind, tmp_path / "whole")).save_pretrained(tmp_path / "base")
    for split in ("train", "validation", "test"):
        np.save(tmp_path / f"{split}_images.npy", np.random.default_rng(0).integers(0, 256, (6, 224, 224, 3), np.uint8))
        np.save(tmp_path / f"{split}_labels.npy", np.arange(6) % 2)
    spec = TaskSpec.read({"dataset": str(tmp_path), "kind": "image_class_arrays", "class_names": ["cat", "dog"]})
    task = build_task("pets", spec, ImageClassifier(), open_source(tmp_path / "base"))
    record = finetune(tmp_path / "base", {"pets": task}, tmp_path / "expert", FinetuneRecipe(steps=1, batch=2))
    model, loading = AutoModelForImageClassification.from_pretrained(tmp_path / "expert", output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert model.config.id2label == {0: "cat", 1: "dog"}
    batch = next(task.batches("test", size=6))
    with torch.inference_mode():
        answers = model.eval()(pixel_values=batch["pixel_values"]).logits.argmax(dim=-1)
    right = int((answers == batch["labels"]).sum())
    assert right / 6 == record["scores"]["pets"]["test"]["accuracy"]


def test_a_base_with_a_pooling_layer_and_experts_without_one_are_merged_and_the_layer_stays_the_bases(
    cache: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file
    from transformers import ViTConfig, ViTModel

    from fusionbench import fuse

    expert = saved("vit", tmp_path / "expert")
    ViTModel(ViTConfig(**TRANSFORMER, intermediate_size=32)).save_pretrained(tmp_path / "base")
    fuse("simple_average", {"base": str(tmp_path / "base"), "a": str(expert)}).save(tmp_path / "out")
    base, merged = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "out"))
    assert torch.equal(merged["pooler.dense.weight"], base["pooler.dense.weight"])
    name = "encoder.layer.1.intermediate.dense.weight"
    assert torch.equal(merged[name], load_file(expert / "model.safetensors")[f"vit.{name}"])
