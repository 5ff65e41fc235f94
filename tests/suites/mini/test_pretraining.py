import numpy as np
import pytest
import torch

from fusionbench.suites.mini.pretraining import _loss_of, pretrain
from fusionbench.suites.mini.recipe import Pretraining, Towers
from fusionbench.training import Loop
from tiny_clip import noise

TOWERS = Towers(width=16, depth=1, mlp=16, heads=2, projection=4, text_width=16)
TRAINING = Pretraining(steps=2, batch=4, warmup=1, learning_rate=1e-3)


class FixedEmbeddings:
    """Stands for a CLIP whose towers give what they are told."""

    def __init__(self, images: torch.Tensor, texts: torch.Tensor, scale: float) -> None:
        pooled = type("Pooled", (), {})
        seen, read = pooled(), pooled()
        seen.pooler_output, read.pooler_output = images, texts
        self.vision_model = lambda pixel_values: seen
        self.text_model = lambda input_ids, attention_mask: read
        self.visual_projection = self.text_projection = lambda features: features
        self.logit_scale = torch.tensor(scale).log()


def test_the_loss_by_hand_with_two_images_of_one_caption():
    """Three images, two captions; images 0 and 1 say caption 0. Unit vectors along the axes, scale log 3.

    Logits s·cos with s = ln 3: image 0 (1, 0): (s, 0); image 1 (0, 2): (0, s); image 2 (0, 1): (0, s).
    Image to text, target 0, 0, 1: p = 3/4, 1/4, 3/4, so the mean of −ln p is (2·ln(4/3) + ln 4) / 3.
    Text to image: caption 0 over images (3, 1, 1)/5, caption 1 over (1, 3, 3)/7; caption 0 has images 0 and 1:
    −(ln(3/5) + ln(1/5)) / 2; caption 1 has image 2: −ln(3/7). Their mean counts half.
    """
    images = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 1.0]])
    texts = torch.tensor([[5.0, 0.0], [0.0, 1.0]])
    batch = {
        "pixels": torch.zeros(3, 2, 2, 3, dtype=torch.uint8),
        "input_ids": torch.zeros(2, 3),
        "attention_mask": torch.ones(2, 3),
        "target": torch.tensor([0, 0, 1]),
    }
    to_text = (2 * np.log(4 / 3) + np.log(4)) / 3
    to_image = (-(np.log(3 / 5) + np.log(1 / 5)) / 2 - np.log(3 / 7)) / 2
    loss = _loss_of(FixedEmbeddings(images, texts, float(np.log(3))))(batch)
    assert float(loss) == pytest.approx(to_text + 0.5 * to_image, rel=1e-6)


def test_the_written_model_reads_a_text_at_its_last_token(tmp_path):
    """Without `eos_token_id` Hugging Face would read the token of the largest number, here the word "zebra"."""
    from transformers import AutoTokenizer, CLIPModel

    captions = ["a zebra cat", "a cat", "a dog"] * 2
    pretrain(noise(6), captions, ["a bird"], tmp_path, towers=TOWERS, training=TRAINING, seed=0, loop=Loop())
    module = CLIPModel.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.unk_token_id not in tokenizer("a bird dog")["input_ids"]
    tokens = tokenizer(["a zebra cat"], return_tensors="pt", padding=True)
    output = module.text_model(**tokens)
    last = int((tokens["input_ids"] == tokenizer.eos_token_id).int().argmax())
    torch.testing.assert_close(output.pooler_output, output.last_hidden_state[:, last])


def test_pixels_are_normalised_as_the_written_processor_does(tmp_path):
    from transformers import AutoImageProcessor, CLIPModel

    pretrain(noise(4), ["a cat"] * 4, [], tmp_path, towers=TOWERS, training=TRAINING, seed=0, loop=Loop())
    module, seen = CLIPModel.from_pretrained(tmp_path), []
    module.vision_model.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["pixel_values"]), with_kwargs=True
    )
    tokens = {"input_ids": torch.tensor([[1, 3]]), "attention_mask": torch.ones(1, 2)}
    _loss_of(module)({"pixels": torch.from_numpy(noise(2)), "target": torch.tensor([0, 0]), **tokens})
    theirs = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")(list(noise(2)), return_tensors="pt")
    torch.testing.assert_close(seen[0], theirs["pixel_values"])


def test_the_seed_decides_the_first_weights(tmp_path):
    from safetensors.torch import load_file

    none = Pretraining(steps=0)
    for name, seed in {"a": 0, "b": 0, "c": 1}.items():
        pretrain(
            noise(2), ["a cat", "a dog"], [], tmp_path / name, towers=TOWERS, training=none, seed=seed, loop=Loop()
        )
    a, b, c = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    key = "visual_projection.weight"
    assert torch.equal(a[key], b[key])
    assert not torch.equal(a[key], c[key])
