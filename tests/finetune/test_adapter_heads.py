"""Adapters with a head that was trained with them, against PEFT's reading of the same folder."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel

from fusionbench.errors import MissingHead
from fusionbench.families import family_named, load_module
from fusionbench.finetune.recipe import AdapterRecipe, FinetuneRecipe
from fusionbench.finetune.tune import finetune, score
from fusionbench.tasks import ClassificationTask, build_task
from fusionbench.tasks.trained_heads import read_head
from fusionbench.weights.adapters import open_adapter
from fusionbench.weights.checks import fit
from fusionbench.weights.sources import open_source
from tiny_texts import write_text_task

NAMES = ["bad", "good"]
RECIPE = FinetuneRecipe(
    steps=20, batch=12, learning_rate=1e-2, seed=3, adapter=AdapterRecipe(r=4, alpha=6, dropout=0.0)
)


@pytest.fixture(params=["gpt2", "encoder"])
def place(request, tmp_path, cache, gpt2_folder, bert_folder) -> tuple[Path, Path, str]:
    """A base, a task's data, and the family."""
    base = {"gpt2": gpt2_folder, "encoder": bert_folder}[request.param]
    return base, write_text_task(tmp_path / "data"), request.param


def task_on(base: Path, data: Path, family: str, head: Path | None = None) -> ClassificationTask:
    spec = {"kind": "text_lines", "dataset": str(data), "class_names": NAMES}
    return build_task("moods", spec | ({"head": str(head)} if head else {}), family_named(family), open_source(base))


@pytest.mark.parametrize("tuning", ["lora", "l_lora", "ia3"])
def test_peft_loads_adapter_and_head_and_computes_the_same_logits(tmp_path, place, tuning):
    from transformers import AutoModelForSequenceClassification

    base, data, family = place
    recipe = RECIPE.model_copy(update={"adapter": None}) if tuning == "ia3" else RECIPE
    record = finetune(base, {"moods": task_on(*place)}, tmp_path / "expert", recipe, tuning=tuning)
    with warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5.23 by a name that it has deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
        theirs = PeftModel.from_pretrained(plain, tmp_path / "expert").eval()
    task = task_on(base, data, family, tmp_path / "expert")
    source = open_adapter(tmp_path / "expert", open_source(base), "dense")
    ours = load_module(task.family, source, open_source(base).config)
    (batch,) = task.batches("test", size=100)
    inputs = {key: item for key, item in batch.items() if key != "labels"}
    with torch.no_grad():
        torch.testing.assert_close(task.bind(ours)(batch), theirs(**inputs).logits, atol=1e-4, rtol=1e-4)
    assert score(ours, task, "test") == pytest.approx(record["scores"]["moods"]["test"])


def test_the_head_is_left_out_of_what_is_merged(tmp_path, place):
    base, _, _ = place
    finetune(base, {"moods": task_on(*place)}, tmp_path / "expert", RECIPE, tuning="lora")
    source = open_source(base)
    held = fit(source, {"moods": open_adapter(tmp_path / "expert", source)})
    assert set(held.scope) == set(source.specs)


def test_an_adapter_without_a_head_says_so(tmp_path, place):
    base, _, family = place
    finetune(base, {"moods": task_on(*place)}, tmp_path / "expert", RECIPE, tuning="lora")
    config = open_source(base).config
    head = read_head(tmp_path / "expert", family_named(family), config, NAMES, task="moods")
    assert {tensor.shape[0] for tensor in head.state_dict().values()} >= {2}
    from safetensors.torch import load_file, save_file

    path = tmp_path / "expert/adapter_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(path).items() if "lora" in name}, path)
    with pytest.raises(MissingHead, match="holds no head for the task moods"):
        read_head(tmp_path / "expert", family_named(family), config, NAMES, task="moods")


@pytest.mark.parametrize("tuning", ["lora", "ia3"])
@pytest.mark.parametrize("kind", ["vit", "dinov2"])
def test_adapters_of_vision_transformers_fit_the_names_of_their_files(tmp_path, cache, kind, tuning):
    from transformers import AutoConfig, AutoModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(kind, **sizes)).save_pretrained(tmp_path / "base")
    for split in ("train", "validation", "test"):
        images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
        np.save(tmp_path / f"{split}_images.npy", images)
        np.save(tmp_path / f"{split}_labels.npy", np.arange(8) % 2)
    spec = {"kind": "image_class_arrays", "dataset": str(tmp_path), "class_names": ["cat", "dog"]}
    family, base = family_named("image_classifier"), open_source(tmp_path / "base")
    recipe = FinetuneRecipe(steps=5, batch=4, learning_rate=3e-2)
    record = finetune(
        tmp_path / "base", {"pets": build_task("pets", spec, family, base)}, tmp_path / "a", recipe, tuning=tuning
    )
    source = open_adapter(tmp_path / "a", base, "dense")
    changed = {name.split(".")[-2] for name in base.specs if base.read(name) != source.read(name)}
    last = "dense" if kind == "vit" else "fc2"
    assert changed == ({"key", "value", last} if tuning == "ia3" else {"query", "value"})
    task = build_task("pets", {**spec, "head": str(tmp_path / "a")}, family, base)
    assert score(load_module(family, source), task, "test") == pytest.approx(record["scores"]["pets"]["test"])
