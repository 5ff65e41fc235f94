from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from fusionbench.errors import CheckpointError, MissingPart
from fusionbench.families.clip import Clip
from fusionbench.tasks import ZeroShotHead, heads, zero_shot_head
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights, TensorSource

pytestmark = pytest.mark.usefixtures("cache")
CLASSES, TEMPLATES = ("cat", "red bird", "dog"), ("a photo of a {}", "a {}")


@pytest.fixture(scope="module")
def model(clip_folder: Path) -> Any:
    from transformers import CLIPModel

    return CLIPModel.from_pretrained(clip_folder)


def test_logits_are_scaled_cosines_by_hand() -> None:
    # the feature (3, 4) has length 5: cosines 3/5 and 4/5, times 100
    head = ZeroShotHead(torch.eye(2), 100.0)
    torch.testing.assert_close(head(torch.tensor([[3.0, 4.0], [0.0, 2.0]])), torch.tensor([[60.0, 80.0], [0.0, 100.0]]))


def test_logits_of_half_precision_features_are_float32() -> None:
    assert ZeroShotHead(torch.eye(2), 1.0)(torch.ones(1, 2, dtype=torch.bfloat16)).dtype == torch.float32


def test_with_one_template_the_logits_are_hugging_faces_own(clip_folder: Path, model: Any) -> None:
    from transformers import AutoTokenizer

    head = zero_shot_head(Clip(), open_source(clip_folder), CLASSES, TEMPLATES[:1])
    tokens = AutoTokenizer.from_pretrained(clip_folder)(
        [f"a photo of a {n}" for n in CLASSES], padding=True, return_tensors="pt"
    )
    pixels = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model(pixel_values=pixels, **tokens).logits_per_image
        torch.testing.assert_close(head(Clip().features(model, {"pixel_values": pixels})), expected)


def test_templates_are_averaged_as_unit_vectors_and_made_unit_again(clip_folder: Path, model: Any) -> None:
    from transformers import AutoTokenizer

    head = zero_shot_head(Clip(), open_source(clip_folder), CLASSES, TEMPLATES)
    tokenizer = AutoTokenizer.from_pretrained(clip_folder)
    for row, name in zip(head.text, CLASSES, strict=True):
        embeddings = []
        for prompt in (f"a photo of a {name}", f"a {name}"):  # one text at a time, so without padding
            with torch.inference_mode():
                embeddings.append(model.get_text_features(**tokenizer(prompt, return_tensors="pt")).pooler_output[0])
        mean = (embeddings[0] / embeddings[0].norm() + embeddings[1] / embeddings[1].norm()) / 2
        torch.testing.assert_close(row, mean / mean.norm())
    assert head.scale == pytest.approx(float(model.logit_scale.detach().exp()))


def test_prompts_in_several_portions_make_the_same_head(
    clip_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = zero_shot_head(Clip(), open_source(clip_folder), CLASSES, TEMPLATES)
    monkeypatch.setattr(heads, "PROMPTS", 4)
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path / "other"))
    torch.testing.assert_close(zero_shot_head(Clip(), open_source(clip_folder), CLASSES, TEMPLATES).text, whole.text)


def test_a_module_loaded_by_hugging_face_makes_the_same_head_as_its_folder(
    clip_folder: Path, model: Any, cache: Path
) -> None:
    of_module = zero_shot_head(Clip(), model, CLASSES, TEMPLATES)
    (kept,) = (cache / "heads").iterdir()
    of_folder = zero_shot_head(Clip(), open_source(clip_folder), CLASSES, TEMPLATES)
    assert torch.equal(of_module.text, of_folder.text)
    assert list((cache / "heads").iterdir()) == [kept]


def test_a_head_made_before_is_read_without_loading_the_model(
    clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = zero_shot_head(Clip(), open_source(clip_folder), CLASSES, TEMPLATES)
    monkeypatch.setattr(heads, "load_module", lambda *_: pytest.fail("the model must not be loaded"))
    again = zero_shot_head(Clip(), open_source(clip_folder), CLASSES, TEMPLATES)
    assert torch.equal(first.text, again.text)
    assert first.scale == again.scale


def test_heads_of_other_words_text_towers_and_scales_are_made_anew(clip_folder: Path, cache: Path) -> None:
    source = open_source(clip_folder)
    weights = dict(LazyWeights(source))
    bias = "text_model.final_layer_norm.bias"
    for changed in ({}, {bias: weights[bias] + 1}, {"logit_scale": weights["logit_scale"] + 1}):
        base = TensorSource("base", weights | changed, source.config)
        base.folder = source.folder
        zero_shot_head(Clip(), base, CLASSES, TEMPLATES)
    zero_shot_head(Clip(), source, CLASSES[:2], TEMPLATES)
    zero_shot_head(Clip(), source, CLASSES[::-1], TEMPLATES)
    zero_shot_head(Clip(), source, CLASSES, TEMPLATES[:1])
    assert len(list((cache / "heads").iterdir())) == 6


def test_another_vision_tower_shares_the_head(clip_folder: Path, cache: Path) -> None:
    source = open_source(clip_folder)
    weights = dict(LazyWeights(source))
    weights["vision_model.post_layernorm.bias"] = weights["vision_model.post_layernorm.bias"] + 1
    other = TensorSource("expert", weights, source.config)
    other.folder = source.folder
    zero_shot_head(Clip(), source, CLASSES, TEMPLATES)
    zero_shot_head(Clip(), other, CLASSES, TEMPLATES)
    assert len(list((cache / "heads").iterdir())) == 1


@pytest.mark.parametrize("times", [1, 2], ids=["made", "from the cache"])
def test_gradients_pass_a_head(clip_folder: Path, times: int) -> None:
    for _ in range(times):
        head = zero_shot_head(Clip(), open_source(clip_folder), CLASSES, TEMPLATES)
    features = torch.ones(1, 8, requires_grad=True)
    normalize(head(features), dim=-1)[0, 0].backward()
    assert features.grad is not None
    assert features.grad.abs().sum() > 0


def test_a_family_without_text_tower_is_refused_by_name(clip_folder: Path) -> None:
    class Mute:
        name = "mute"

    with pytest.raises(MissingPart, match="The family 'mute' has no text tower"):
        zero_shot_head(Mute(), open_source(clip_folder), CLASSES, TEMPLATES)  # type: ignore[arg-type]


def test_a_base_in_memory_without_a_tokenizer_is_refused_with_the_fix(clip_folder: Path) -> None:
    source = open_source(clip_folder)
    with pytest.raises(CheckpointError, match="Save the base model's tokenizer"):
        zero_shot_head(Clip(), TensorSource("base", dict(LazyWeights(source)), source.config), CLASSES, TEMPLATES)
