import pytest
import torch
from safetensors.torch import save_file

from fusionbench.errors import CheckpointError, IncompatibleModels, MissingPart
from fusionbench.families import family_named
from fusionbench.tasks import build_task
from fusionbench.tasks.frozen_heads import read_normalised_head
from fusionbench.weights.sources import open_source
from tiny_clip import noise
from tiny_open_clip import ClassificationHead, make_encoder, write_module


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path / "cache"))


def test_a_head_of_the_release_multiplies_the_normalised_features(tmp_path):
    # By hand: (3, 4) / 5 = (0.6, 0.8); rows of length 100 along the axes give 60 and 80.
    write_module(ClassificationHead(torch.tensor([[100.0, 0.0], [0.0, 100.0]])), tmp_path / "head_MNIST.pt")
    head = read_normalised_head(tmp_path / "head_MNIST.pt", classes=2, width=2, task="mnist")
    torch.testing.assert_close(head(torch.tensor([[3.0, 4.0]])), torch.tensor([[60.0, 80.0]]))


def test_a_bias_is_added_and_may_be_missing(tmp_path):
    save_file({"weight": torch.eye(2), "bias": torch.tensor([1.0, 2.0])}, tmp_path / "a.safetensors")
    save_file({"weight": torch.eye(2)}, tmp_path / "b.safetensors")
    biased, plain = (read_normalised_head(tmp_path / name, classes=2, width=2, task="t") for name in
                     ("a.safetensors", "b.safetensors"))  # fmt: skip
    features = torch.tensor([[0.0, 2.0]])
    torch.testing.assert_close(biased(features), torch.tensor([[1.0, 3.0]]))
    torch.testing.assert_close(plain(features), torch.tensor([[0.0, 1.0]]))


def test_a_head_of_other_classes_or_features_is_refused(tmp_path):
    save_file({"weight": torch.ones(3, 2)}, tmp_path / "head.safetensors")
    for wrong in ({"classes": 2, "width": 2}, {"classes": 3, "width": 4}):
        with pytest.raises(IncompatibleModels, match=r"its weight is \[3, 2\], expected"):
            read_normalised_head(tmp_path / "head.safetensors", **wrong, task="mnist")


def test_what_is_no_head_is_refused_with_what_it_holds(tmp_path):
    save_file({"proj": torch.ones(3, 2)}, tmp_path / "head.safetensors")
    with pytest.raises(CheckpointError, match="it holds proj"):
        read_normalised_head(tmp_path / "head.safetensors", classes=3, width=2, task="mnist")
    with pytest.raises(CheckpointError, match="head of the task mnist cannot be read"):
        read_normalised_head(tmp_path / "absent.pt", classes=3, width=2, task="mnist")


def test_a_head_may_be_made_by_the_text_tower_of_another_clip(tmp_path, clip_folder):
    import datasets
    from PIL import Image

    images = [Image.fromarray(image) for image in noise(2)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    held = datasets.Dataset.from_dict({"image": images, "label": [0, 1]}, features=features)
    datasets.DatasetDict({"test": held}).save_to_disk(tmp_path / "pets")
    write_module(make_encoder(0), tmp_path / "zeroshot.pt")
    base, clip = open_source(tmp_path / "zeroshot.pt"), open_source(clip_folder)
    document = {"dataset": str(tmp_path / "pets"), "templates": ["a photo of a {}", "a {}"]}
    options = {"options": {"text_model": str(clip_folder)}}
    made = build_task("pets", document | options, family_named("open_clip"), base)
    theirs = build_task("pets", document, family_named("clip"), clip)
    features_of = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(made.head(features_of), theirs.head(features_of))
    with pytest.raises(MissingPart, match="text tower"):
        build_task("pets", document, family_named("open_clip"), base)
