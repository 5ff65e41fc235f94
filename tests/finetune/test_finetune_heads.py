import json
from pathlib import Path

import pytest
import torch

from fusionbench.errors import ConfigError, IncompatibleModels, Interrupted, MissingHead
from fusionbench.families import family_named
from fusionbench.finetune.recipe import FinetuneRecipe
from fusionbench.finetune.tune import finetune
from fusionbench.merge import tower_of
from fusionbench.tasks import ClassificationTask, TaskSpec, build_task
from fusionbench.tasks.trained_heads import read_head
from fusionbench.weights.checks import fit
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights
from tiny_texts import SENTENCES, make_bert, make_gpt2, write_text_task

RECIPE = FinetuneRecipe(steps=30, batch=12, learning_rate=1e-2, seed=3)
FAMILIES = {"gpt2": "transformer.", "encoder": "bert."}


class Place:
    """A base, a task on it, and where experts go."""

    def __init__(self, family: str, base: Path, folder: Path) -> None:
        self.family, self.base, self.folder = family, base, folder
        self.data = write_text_task(folder / "data")

    def task(self, **more: object) -> ClassificationTask:
        spec = {"kind": "text_lines", "dataset": str(self.data), "class_names": ["bad", "good"], **more}
        return build_task("moods", spec, family_named(self.family), open_source(self.base))

    def tune(self, name: str = "expert", recipe: FinetuneRecipe = RECIPE) -> Path:
        finetune(self.base, {"moods": self.task()}, self.folder / name, recipe)
        return self.folder / name


@pytest.fixture(params=sorted(FAMILIES))
def place(request, tmp_path, cache, gpt2_folder, bert_folder) -> Place:
    return Place(request.param, {"gpt2": gpt2_folder, "encoder": bert_folder}[request.param], tmp_path)


@pytest.fixture
def gpt2(tmp_path, cache, gpt2_folder) -> Place:
    return Place("gpt2", gpt2_folder, tmp_path)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(LazyWeights(open_source(folder)))


def test_a_new_head_is_trained_with_the_tower_and_written_as_plain_transformers_writes_it(place):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    expert = place.tune()
    module = AutoModelForSequenceClassification.from_pretrained(expert).eval()
    written = weights(expert)
    assert set(written) == set(module.state_dict())
    assert all(torch.equal(tensor, written[name]) for name, tensor in module.state_dict().items())
    assert module.config.id2label == {0: "bad", 1: "good"}
    prefix = FAMILIES[place.family]
    base = weights(place.base)
    changed = {name for name in base if not torch.equal(base[name], written[prefix + name])}
    assert any(".0." in name for name in changed)
    inputs = AutoTokenizer.from_pretrained(expert)(list(SENTENCES), padding=True, return_tensors="pt")
    task = place.task(head=str(expert))
    (batch,) = task.batches("test", size=len(SENTENCES), limit=len(SENTENCES))
    with torch.no_grad():
        theirs = module(**inputs).logits
        ours = task.bind(module.base_model)(batch)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_one_step_is_a_step_of_adamw_on_the_classifier_of_transformers(gpt2):
    from transformers import AutoModelForSequenceClassification

    recipe = FinetuneRecipe(steps=1, batch=8, learning_rate=1e-2, weight_decay=0.1, seed=3)
    # GPT-2's dropout is 0.1 unless its configuration says otherwise
    config = json.loads((gpt2.base / "config.json").read_text())
    still = gpt2.folder / "still"
    make_gpt2(still)
    (still / "config.json").write_text(json.dumps({**config, "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}))
    gpt2.base = still
    task, expert = gpt2.task(), gpt2.tune(recipe=recipe)
    model = AutoModelForSequenceClassification.from_pretrained(still, num_labels=2)
    model.score.load_state_dict(task.fresh_head(3).state_dict())
    batch = next(task.batches("train", size=8, seed=3))
    model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]).loss.backward()
    torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=0.1).step()
    written = weights(expert)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(written[name], tensor, msg=lambda text, name=name: f"{name}: {text}")


def test_the_recorded_scores_are_those_of_tower_and_head_together(place):
    from transformers import AutoModelForSequenceClassification

    expert = place.tune()
    model = AutoModelForSequenceClassification.from_pretrained(expert).eval()
    (batch,) = place.task().batches("test", size=100)
    labels = batch.pop("labels")
    with torch.no_grad():
        right = model(**batch).logits.argmax(dim=-1) == labels
    scores = json.loads((expert / "fusionbench.json").read_text())["scores"]["moods"]
    assert scores["test"]["accuracy"] == pytest.approx(float(right.float().mean()))
    assert scores["validation"] == scores["test"]  # the same sentences


def test_the_head_that_is_read_again_is_frozen_and_the_one_that_was_trained(place):
    expert = place.tune()
    family = family_named(place.family)
    head = read_head(expert, family, open_source(place.base).config, ("bad", "good"), task="moods")
    assert not head.training
    assert not any(parameter.requires_grad for parameter in head.parameters())
    written = weights(expert)
    assert all(torch.equal(tensor, written[family.head + name]) for name, tensor in head.state_dict().items())


def test_experts_with_heads_fit_their_bare_base(place):
    expert = open_source(place.tune())
    base = open_source(place.base)
    found = fit(base, {"moods": expert})
    assert set(found.scope) == set(base.specs)
    assert found.names[0] == {name: FAMILIES[place.family] + name for name in base.specs}


def test_an_interrupted_training_with_a_head_goes_on_to_the_bits_of_an_unbroken_one(gpt2):
    def stop_at_four(name: str, done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    recipe = RECIPE.model_copy(update={"steps": 6})
    whole = gpt2.tune("whole", recipe)
    broken = gpt2.folder / "broken"
    with pytest.raises(Interrupted):
        finetune(gpt2.base, {"moods": gpt2.task()}, broken, recipe, checkpoint_every=2, progress=stop_at_four)
    finetune(gpt2.base, {"moods": gpt2.task()}, broken, recipe, checkpoint_every=2)
    assert (whole / "model.safetensors").read_bytes() == (broken / "model.safetensors").read_bytes()


def test_several_tasks_are_trained_with_the_heads_of_their_experts_which_stay_as_they_are(gpt2):
    expert = gpt2.tune()
    task = gpt2.task(head=str(expert))
    before = {name: tensor.clone() for name, tensor in task.head.state_dict().items()}
    tasks = {"moods": task, "again": gpt2.task(head=str(expert))}
    finetune(gpt2.base, tasks, gpt2.folder / "mtl", RECIPE)
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.head.state_dict().items())
    written = weights(gpt2.folder / "mtl")
    assert set(written) == set(weights(gpt2.base))
    assert not torch.equal(written["h.0.mlp.c_fc.weight"], weights(gpt2.base)["h.0.mlp.c_fc.weight"])


def test_several_tasks_without_heads_are_refused_before_anything_is_trained(gpt2):
    told = []
    with pytest.raises(MissingHead, match=r"one, two: there is no trained head.*fine-tune an expert of each"):
        finetune(
            gpt2.base, {"one": gpt2.task(), "two": gpt2.task()}, gpt2.folder / "mtl", RECIPE,
            progress=lambda *news: told.append(news),
        )  # fmt: skip
    assert told == []


def test_labels_that_disagree_are_refused_with_both_lists(gpt2):
    expert = gpt2.tune()
    with pytest.raises(ConfigError, match=r"labels of .*expert are bad, good; those of the task moods are good, bad"):
        gpt2.task(head=str(expert), class_names=["good", "bad"])
    with pytest.raises(ConfigError, match=r"are bad, good; those of the task moods are bad, fair, good"):
        gpt2.task(head=str(expert), class_names=["bad", "fair", "good"])


def test_labels_that_transformers_numbered_by_itself_say_nothing(gpt2):
    expert = gpt2.tune()
    config = json.loads((expert / "config.json").read_text())
    config["id2label"] = {"0": "LABEL_0", "1": "LABEL_1"}
    (expert / "config.json").write_text(json.dumps(config))
    assert gpt2.task(head=str(expert), class_names=["good", "bad"]).head is not None


def test_the_head_of_another_width_names_both_shapes(gpt2):
    from transformers import GPT2Config, GPT2ForSequenceClassification

    wide = GPT2ForSequenceClassification(GPT2Config(vocab_size=15, n_embd=24, n_layer=1, n_head=2, bos_token_id=1))
    wide.save_pretrained(gpt2.folder / "wide")
    with pytest.raises(IncompatibleModels, match=r"(?s)wide does not fit the task moods.*\[2, 24\].*\[2, 16\]"):
        gpt2.task(head=str(gpt2.folder / "wide"))


def test_a_checkpoint_without_a_head_and_one_of_another_family_hold_none(gpt2):
    with pytest.raises(MissingHead, match=r"holds no head for the task moods: no tensor under 'score\.'"):
        gpt2.task(head=str(gpt2.base))
    other = Place("encoder", gpt2.folder / "bert", gpt2.folder / "other")
    make_bert(other.base)
    with pytest.raises(MissingHead, match=r"no tensor under 'score\.'"):
        gpt2.task(head=str(other.tune()))


def test_the_description_of_a_task_has_a_place_for_the_head():
    assert TaskSpec.read({"dataset": "x", "head": "somewhere"}).head == "somewhere"
    assert TaskSpec.read({"dataset": "x"}).head is None


def test_a_base_with_the_heads_of_its_pretraining_is_tuned_and_fused_without_them(gpt2, tmp_path):
    from transformers import AutoModelForSequenceClassification, BertConfig, BertForPreTraining

    place = Place("encoder", tmp_path / "whole-bert", tmp_path / "whole")
    make_bert(place.base)
    config = BertConfig.from_pretrained(place.base)
    BertForPreTraining(config).save_pretrained(place.base)
    assert tower_of(open_source(place.base)) == "bert."
    expert = place.tune(recipe=RECIPE.model_copy(update={"steps": 2}))
    written = weights(expert)
    assert not any(name.startswith("cls.") for name in written)
    assert set(written) == set(AutoModelForSequenceClassification.from_pretrained(expert).state_dict())
    found = fit(open_source(place.base), {"moods": open_source(expert)}, tower="bert.")
    assert set(found.scope) == {name for name in weights(place.base) if name.startswith("bert.")}
