import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fusionbench.errors import ConfigError, Interrupted, OutputError
from fusionbench.families import family_named
from fusionbench.finetune.recipe import FinetuneRecipe
from fusionbench.finetune.tune import finetune
from fusionbench.tasks import ImageTask, from_arrays, open_vocabulary_task
from fusionbench.tasks.base import Metric
from fusionbench.tasks.metrics import ACCURACY
from fusionbench.training import read_curve
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights
from tiny_clip import noise

RECIPE = FinetuneRecipe(steps=6, batch=8, learning_rate=1e-2, weight_decay=0.1, schedule="cosine", warmup=2, seed=3)


def make_task(base: Path, name: str, classes: tuple[str, ...], seed: int) -> ImageTask:
    """Images whose brightness says their class, with noise."""

    def split(count: int, at: int):
        labels = np.arange(count) % len(classes)
        images = noise(count, seed=at) // 2 + (labels * 100).astype(np.uint8)[:, None, None, None]
        return from_arrays(images, labels)

    data = {"train": split(48, seed), "validation": split(20, seed + 1), "test": split(30, seed + 2)}
    family = family_named("clip")
    return open_vocabulary_task(
        name, data, class_names=classes, templates=["a photo of a {}"], family=family, base=open_source(base)
    )


@pytest.fixture
def cats(cache, clip_folder) -> ImageTask:
    return make_task(clip_folder, "cats", ("cat", "dog"), 10)


@pytest.fixture
def birds(cache, clip_folder) -> ImageTask:
    return make_task(clip_folder, "birds", ("red", "bird"), 20)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(LazyWeights(open_source(folder)))


def test_only_the_vision_tower_changes(tmp_path, clip_folder, cats):
    finetune(clip_folder, {"cats": cats}, tmp_path / "expert", RECIPE)
    base, expert = weights(clip_folder), weights(tmp_path / "expert")
    assert list(base) == list(expert)
    changed = {name for name in base if not torch.equal(base[name], expert[name])}
    # The image tower's last norm, position and patch embedding and all its blocks are on the way to the logits.
    assert changed == {name for name in base if name.startswith("vision_model.")}


@pytest.mark.parametrize("names", [("cats",), ("cats", "birds")])
def test_one_step_is_a_step_of_adamw_on_the_sum_of_the_tasks_losses(tmp_path, clip_folder, cats, birds, names):
    from transformers import CLIPModel

    tasks = {name: {"cats": cats, "birds": birds}[name] for name in names}
    recipe = FinetuneRecipe(steps=1, batch=8, learning_rate=1e-2, weight_decay=0.1, seed=3)
    finetune(clip_folder, tasks, tmp_path / "expert", recipe)

    module = CLIPModel.from_pretrained(clip_folder)
    loss = torch.zeros(())
    for task in tasks.values():
        batch = next(task.batches("train", size=8, seed=3))
        image = module.get_image_features(pixel_values=batch["pixel_values"]).pooler_output
        logits = task.head.scale * torch.nn.functional.normalize(image, dim=-1) @ task.head.text.T
        loss = loss + torch.nn.functional.cross_entropy(logits, batch["labels"])
    loss.backward()
    optimizer = torch.optim.AdamW(module.vision_model.parameters(), 1e-2, weight_decay=0.1)
    optimizer.step()
    expert = weights(tmp_path / "expert")
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(expert[name], tensor, msg=lambda text, name=name: f"{name}: {text}")


def test_plain_transformers_loads_the_expert_with_its_processor(tmp_path, clip_folder, cats):
    from transformers import AutoProcessor, CLIPModel

    finetune(clip_folder, {"cats": cats}, tmp_path / "expert", RECIPE)
    module = CLIPModel.from_pretrained(tmp_path / "expert")
    written = weights(tmp_path / "expert")
    assert all(torch.equal(tensor, written[name]) for name, tensor in module.state_dict().items())
    inputs = AutoProcessor.from_pretrained(tmp_path / "expert")(text=["a cat"], images=noise(1)[0], return_tensors="pt")
    assert module(**inputs).logits_per_image.shape == (1, 1)


def test_the_record_holds_the_recipe_and_scores_that_can_be_measured_again(tmp_path, clip_folder, cats):
    from transformers import CLIPModel

    record = finetune(clip_folder, {"cats": cats}, tmp_path / "expert", RECIPE)
    assert record == json.loads((tmp_path / "expert/fusionbench.json").read_text())
    assert record["recipe"] == RECIPE.model_dump(mode="json")
    assert record["base"] == open_source(clip_folder).fingerprint()
    assert record["tasks"] == {"cats": 1}
    module = CLIPModel.from_pretrained(tmp_path / "expert")
    (batch,) = cats.batches("test", size=100)
    with torch.no_grad():
        right = cats.bind(module)(batch).argmax(1) == batch["labels"]
    assert record["scores"]["cats"]["test"] == {"accuracy": float(right.float().mean())}
    assert set(record["scores"]["cats"]) == {"validation", "test"}
    assert [point.step for point in read_curve(tmp_path / "expert")] == [6]


def test_training_makes_the_loss_smaller_and_leaves_no_state_behind(tmp_path, clip_folder, cats):
    recipe = FinetuneRecipe(steps=40, batch=16, learning_rate=3e-3)
    record = finetune(clip_folder, {"cats": cats}, tmp_path / "expert", recipe)
    losses = [point.metrics["loss"] for point in read_curve(tmp_path / "expert")]
    assert losses[-1] < losses[0]
    assert record["scores"]["cats"]["test"]["accuracy"] > 0.9
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["expert"]


def test_two_calls_give_the_same_bits_and_another_seed_does_not(tmp_path, clip_folder, cats):
    for name, recipe in {"a": RECIPE, "b": RECIPE, "c": RECIPE.model_copy(update={"seed": 4})}.items():
        finetune(clip_folder, {"cats": cats}, tmp_path / name, recipe)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_an_interrupted_training_goes_on_to_the_bits_of_an_unbroken_one(tmp_path, clip_folder, cats):
    def stop_at_four(name: str, done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    finetune(clip_folder, {"cats": cats}, tmp_path / "whole", RECIPE)
    with pytest.raises(Interrupted, match=r"after step 4 of 6.*step 4 is in .*broken.training"):
        finetune(clip_folder, {"cats": cats}, tmp_path / "broken", RECIPE, checkpoint_every=2, progress=stop_at_four)
    assert not (tmp_path / "broken").exists()
    told = []
    finetune(
        clip_folder, {"cats": cats}, tmp_path / "broken", RECIPE, checkpoint_every=2,
        progress=lambda name, done, total: told.append(done),
    )  # fmt: skip
    assert told == [5, 6]
    whole, broken = (tmp_path / name / "model.safetensors" for name in ("whole", "broken"))
    assert whole.read_bytes() == broken.read_bytes()


def test_an_unfinished_training_with_another_recipe_is_refused(tmp_path, clip_folder, cats):
    def stop(name: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        finetune(clip_folder, {"cats": cats}, tmp_path / "expert", RECIPE, progress=stop)
    other = RECIPE.model_copy(update={"learning_rate": 1e-3})
    with pytest.raises(ConfigError, match=r"expert.training holds an unfinished training with another recipe"):
        finetune(clip_folder, {"cats": cats}, tmp_path / "expert", other)


def test_a_finished_model_of_the_same_call_is_left_alone_and_another_is_not_written_over(tmp_path, clip_folder, cats):
    record = finetune(clip_folder, {"cats": cats}, tmp_path / "expert", RECIPE)
    before = (tmp_path / "expert/model.safetensors").stat().st_mtime_ns
    assert finetune(clip_folder, {"cats": cats}, tmp_path / "expert", RECIPE) == record
    assert (tmp_path / "expert/model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(OutputError, match="expert exists; nothing is written over"):
        finetune(clip_folder, {"cats": cats}, tmp_path / "expert", RECIPE.model_copy(update={"steps": 1}))
    (tmp_path / "foreign").mkdir()
    with pytest.raises(OutputError, match="foreign exists"):
        finetune(clip_folder, {"cats": cats}, tmp_path / "foreign", RECIPE)


def test_a_base_in_half_precision_is_trained_in_full_and_written_in_half(tmp_path, clip_folder, cats):
    from transformers import CLIPModel

    CLIPModel.from_pretrained(clip_folder).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    # Next to weights above .25, whose bfloat16 neighbours are .002 away, one step of 1e-4 is rounded away.
    recipe = FinetuneRecipe(steps=30, batch=8, learning_rate=1e-4)
    finetune(tmp_path / "half", {"cats": cats}, tmp_path / "expert", recipe)
    base, expert = weights(tmp_path / "half"), weights(tmp_path / "expert")
    name = "vision_model.encoder.layers.0.mlp.fc1.weight"
    assert expert[name].dtype == torch.bfloat16
    large = base[name].abs() > 0.25
    assert (expert[name] != base[name])[large].any()


def test_the_best_validation_can_be_kept(tmp_path, clip_folder, cats):
    recipe = FinetuneRecipe(steps=8, batch=8, learning_rate=1e-2, validate_every=1, keep="best")
    record = finetune(clip_folder, {"cats": cats}, tmp_path / "expert", recipe)
    seen = [point.metrics["validation"] for point in read_curve(tmp_path / "expert")]
    assert len(seen) == 8
    assert record["scores"]["cats"]["validation"]["accuracy"] == max(seen)


def test_the_best_of_errors_is_the_least(tmp_path, clip_folder, cats, birds):
    def wrong(rows) -> tuple[float, float]:
        return 1 - ACCURACY.compute(rows)[0], 0.0

    mistakes = replace(cats, metrics=(Metric("mistakes", "fraction", "lower", wrong),))
    recipe = FinetuneRecipe(steps=8, batch=8, learning_rate=1e-2, validate_every=1, keep="best")
    record = finetune(clip_folder, {"cats": mistakes}, tmp_path / "expert", recipe)
    seen = [point.metrics["validation"] for point in read_curve(tmp_path / "expert")]
    assert min(seen) < max(seen)
    assert record["scores"]["cats"]["validation"]["mistakes"] == min(seen)
    with pytest.raises(ConfigError, match=r"mistakes of cats \(lower\), accuracy of birds \(higher\)"):
        finetune(clip_folder, {"cats": mistakes, "birds": birds}, tmp_path / "both", recipe)
    assert not (tmp_path / "both.training").exists()


@pytest.mark.parametrize(
    ("change", "message"), [({"tuning": "lorra"}, "no tuning 'lorra'. Choose full"), ({"tasks": {}}, "no task")]
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(tmp_path, clip_folder, cats, change, message):
    arguments = {"tasks": {"cats": cats}, "out": tmp_path / "expert", "recipe": RECIPE, **change}
    with pytest.raises(ConfigError, match=message):
        finetune(clip_folder, **arguments)
    assert not (tmp_path / "expert.training").exists()
