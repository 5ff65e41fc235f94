"""Training after fusion: mixtures stay what they are on disk, pools learn in rounds, both go on where they stopped."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fusionbench.config import Recipe
from fusionbench.errors import CheckpointError, ConfigError, IncompatibleModels, Interrupted, OutputError
from fusionbench.finetune.recipe import FinetuneRecipe
from fusionbench.finetune.tune import finetune
from fusionbench.mixing.mixed import open_mixed
from fusionbench.run.federated import Rounds
from fusionbench.run.further import fused_folders, train_further
from fusionbench.run.rebuild import rebuild_to
from fusionbench.suites import Suite
from fusionbench.suites.tasks import open_tasks
from fusionbench.suites.tuning import finetune_suite
from fusionbench.tasks import evaluate
from fusionbench.training.checkpoint import read_curve
from fusionbench.weights.sources import open_source
from tiny_causal_lm import make_causal_lm
from tiny_texts import make_bert, write_text_task

TEXTS = {
    "a": ["the dog runs in the house", "a cat sleeps", "the cat runs"],
    "b": ["two and three", "one and two and three", "three"],
}
RECIPE = FinetuneRecipe(steps=4, batch=4, learning_rate=1e-2)


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    """A tiny Llama, two experts, and texts of a kind for each."""
    tasks = {}
    for name, texts in TEXTS.items():
        place = tmp_path / "data" / name
        place.mkdir(parents=True)
        for split in ("train", "validation", "test"):
            lines = [json.dumps({"text": text + " the house"}) for text in texts] * 3
            (place / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
        tasks[name] = {"kind": "perplexity", "dataset": str(place)}
    for seed, name in enumerate(("base", "a", "b")):
        make_causal_lm(tmp_path / name, seed)
    experts = {name: str(tmp_path / name) for name in "ab"}
    return Suite.read({"name": "mine", "pool": {"base": str(tmp_path / "base"), "experts": experts}, "tasks": tasks})


def rebuilt(tmp_path: Path, method: str, *more: str) -> str:
    named = [f"base={tmp_path / 'base'}", *(f"experts.{n}={tmp_path / n}" for n in "ab")]
    rebuild_to(Recipe.load(None, [*named, f"method={method}", *more]), tmp_path / method)
    return str(tmp_path / method)


MIXTURES = {
    "smile": ("method.k=4", "method.gate_k=2"),
    "bitdelta": ("method.expert=a",),
}


@pytest.mark.parametrize("method", MIXTURES)
def test_a_mixture_learns_and_is_written_as_it_was(method: str, suite: Suite, tmp_path: Path) -> None:
    init = rebuilt(tmp_path, method, *MIXTURES[method])
    before = {path.name: path.read_bytes() for path in Path(init).iterdir()}
    recipe = RECIPE.model_copy(update={"steps": 20, "learning_rate": 3e-3})
    record = train_further(init, suite, tmp_path / "out", recipe, mtl=True)["mtl"]
    assert {path.name: path.read_bytes() for path in Path(init).iterdir()} == before
    out = tmp_path / "out" / "mtl"
    assert (out / "fusion_config.json").read_bytes() == before["fusion_config.json"]
    old, new = open_source(init), open_source(out)
    assert {n: (s.dtype, s.shape) for n, s in new.specs.items()} == {
        n: (s.dtype, s.shape) for n, s in old.specs.items()
    }
    assert all(new.read(name) == old.read(name) for name, spec in old.specs.items() if not spec.is_float)
    assert record["base"] == old.fingerprint()
    assert read_curve(out)[-1].step == 20
    models, tasks = (open_mixed(old), open_mixed(new)), open_tasks(suite)
    for name, task in tasks.items():
        first, last = (evaluate(model, task, "test").scores["token_loss"].value for model in models)
        assert last < first - 0.1
        assert last == pytest.approx(record["scores"][name]["test"]["token_loss"], rel=1e-6)


def test_the_factors_of_signs_alone_are_trained_by_their_name(suite: Suite, tmp_path: Path) -> None:
    init = rebuilt(tmp_path, "bitdelta", "method.expert=a")
    recipe = RECIPE.model_copy(update={"only": ("scale",)})
    train_further(init, suite, tmp_path / "out", recipe, tasks=("a",))
    old, new = open_source(init), open_source(tmp_path / "out" / "a")
    changed = {name for name in old.specs if old.read(name) != new.read(name)}
    # q k v o and gate up down of two blocks
    assert len(changed) == 14
    assert all(name.endswith(".scale") for name in changed)


def test_a_mixture_of_half_numbers_stays_one(suite: Suite, tmp_path: Path) -> None:
    init = rebuilt(tmp_path, "smile", *MIXTURES["smile"], "output.dtype=bfloat16")
    train_further(init, suite, tmp_path / "out", RECIPE, tasks=("a",))
    kinds = [{n: s.dtype for n, s in open_source(place).specs.items()} for place in (init, tmp_path / "out" / "a")]
    assert kinds[0] == kinds[1]
    assert "BF16" in kinds[0].values()


def test_heads_of_a_suite_stay_as_its_experts_brought_them(tmp_path: Path) -> None:
    make_bert(tmp_path / "base")
    task = {"kind": "text_lines", "dataset": str(write_text_task(tmp_path / "data")), "class_names": ["bad", "good"]}
    about = {"name": "mine", "tasks": {"moods": task}}
    pool = {"base": str(tmp_path / "base"), "experts": {"moods": str(tmp_path / "experts" / "moods")}}
    suite = Suite.read({**about, "pool": pool}, "The suite")
    finetune_suite(suite, tmp_path / "experts", RECIPE)
    assert any(name.startswith("classifier.") for name in open_source(tmp_path / "experts" / "moods").specs)
    train_further(str(tmp_path / "base"), suite, tmp_path / "out", RECIPE)
    old, new = open_source(tmp_path / "base"), open_source(tmp_path / "out" / "moods")
    assert set(new.specs) == set(old.specs)
    assert any(old.read(name) != new.read(name) for name in old.specs)


def test_a_plain_result_is_trained_by_its_runs_folder(suite: Suite, tmp_path: Path) -> None:
    rebuilt(tmp_path, "moe_merging")
    (tmp_path / "run").mkdir()
    (tmp_path / "moe_merging").rename(tmp_path / "run" / "model")
    train_further(str(tmp_path / "run"), suite, tmp_path / "out", RECIPE, tasks=("b",))
    from transformers import AutoModelForCausalLM

    model, found = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "b", output_loading_info=True)
    assert type(model).__name__ == "MixtralForCausalLM"
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    assert open_source(tmp_path / "out" / "b").specs == open_source(tmp_path / "run" / "model").specs


def stopping(at: int) -> Any:
    count = iter(range(1, 1000))

    def progress(name: str, done: int, total: int) -> None:
        if next(count) == at:
            raise KeyboardInterrupt

    return progress


def test_a_stopped_training_of_a_mixture_goes_on_to_the_same_bits(suite: Suite, tmp_path: Path) -> None:
    init = rebuilt(tmp_path, "smile", *MIXTURES["smile"])
    train_further(init, suite, tmp_path / "whole", RECIPE, tasks=("a",))
    asked: dict[str, Any] = {"tasks": ("a",), "checkpoint_every": 2}
    with pytest.raises(Interrupted):
        train_further(init, suite, tmp_path / "broken", RECIPE, progress=stopping(3), **asked)
    train_further(init, suite, tmp_path / "broken", RECIPE, **asked)
    files = [tmp_path / name / "a" / "model.safetensors" for name in ("whole", "broken")]
    assert files[0].read_bytes() == files[1].read_bytes()


def tensors(folder: Path) -> dict[str, np.ndarray]:
    source = open_source(folder)
    return {name: np.frombuffer(source.read(name), np.float32) for name in source.specs}


def test_rounds_are_trainings_then_an_average_then_trainings_and_a_recombination(suite: Suite, tmp_path: Path) -> None:
    """Against the same trainings made one by one, and NumPy's mean."""
    pool = {name: tmp_path / name for name in "ab"}
    (tmp_path / "pool").mkdir()
    for name, folder in pool.items():
        folder.rename(tmp_path / "pool" / name)
    out, tasks = tmp_path / "out", open_tasks(suite.model_copy(deep=True))
    record = train_further(str(tmp_path / "pool"), suite, out, RECIPE, rounds=Rounds(2, averaged=1))["average"]

    for name in "ab":
        finetune(tmp_path / "pool" / name, {name: tasks[name]}, tmp_path / "one" / name, RECIPE)
    first = {name: tensors(tmp_path / "one" / name) for name in "ab"}
    from safetensors.numpy import save_file

    (tmp_path / "mean").mkdir()
    for path in (tmp_path / "pool" / "a").glob("*.json"):
        (tmp_path / "mean" / path.name).write_bytes(path.read_bytes())
    shapes = {name: spec.shape for name, spec in open_source(tmp_path / "pool" / "a").specs.items()}
    mean = {n: ((first["a"][n].astype(np.float64) + first["b"][n]) / 2).astype(np.float32) for n in shapes}
    save_file({n: mean[n].reshape(shapes[n]) for n in shapes}, tmp_path / "mean" / "model.safetensors")
    again = RECIPE.model_copy(update={"seed": 1})
    for name in "ab":
        finetune(tmp_path / "mean", {name: tasks[name]}, tmp_path / "two" / name, again)
    second = {name: tensors(tmp_path / "two" / name) for name in "ab"}
    made = {name: tensors(out / "model" / name) for name in "ab"}
    for name in shapes:
        old, new = (np.sort(np.stack([of[key][name] for key in "ab"]), axis=0) for of in (second, made))
        np.testing.assert_allclose(new, old, atol=2e-6)
        average = (second["a"][name].astype(np.float64) + second["b"][name]) / 2
        np.testing.assert_allclose(tensors(out / "average")[name], average, atol=2e-6)
    assert [point["aggregation"] for point in record["curve"]] == ["average", "recombination"]
    assert set(record["curve"][0]["validation"]) == {"a", "b"}
    assert json.loads((out / "fusionbench.json").read_text()) == record
    assert not (tmp_path / "out.training").exists()
    # The same call finds it; its pool can be trained further.
    assert train_further(str(tmp_path / "pool"), suite, out, RECIPE, rounds=Rounds(2, averaged=1))["average"] == record
    assert fused_folders(str(out)) == {name: out / "model" / name for name in "ab"}


def test_stopped_rounds_go_on_to_the_same_bits(suite: Suite, tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    for name in "ab":
        (tmp_path / name).rename(tmp_path / "pool" / name)
    asked: dict[str, Any] = {"rounds": Rounds(2), "checkpoint_every": 2}
    train_further(str(tmp_path / "pool"), suite, tmp_path / "whole", RECIPE, **asked)
    for stop in (3, 7):
        with pytest.raises(Interrupted):
            train_further(str(tmp_path / "pool"), suite, tmp_path / "broken", RECIPE, progress=stopping(stop), **asked)
    train_further(str(tmp_path / "pool"), suite, tmp_path / "broken", RECIPE, **asked)
    for part in ("model/a", "model/b", "average"):
        files = [tmp_path / name / part / "model.safetensors" for name in ("whole", "broken")]
        assert files[0].read_bytes() == files[1].read_bytes()


class TestRefusals:
    def test_a_folder_without_a_model(self, suite: Suite, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(CheckpointError, match="holds no model"):
            train_further(str(tmp_path / "empty"), suite, tmp_path / "out", RECIPE)

    @pytest.mark.parametrize("said", ["surgery.json", "ensemble.json", "per_task.json"])
    def test_parts_that_answer_together(self, said: str, suite: Suite, tmp_path: Path) -> None:
        make_causal_lm(tmp_path / "run" / "model" / "backbone")
        (tmp_path / "run" / "model" / said).write_text("{}")
        with pytest.raises(ConfigError, match=f"init: the {said} of .*/run says that several parts answer together"):
            train_further(str(tmp_path / "run"), suite, tmp_path / "out", RECIPE)
        assert not (tmp_path / "out").exists()

    def test_a_damaged_blueprint(self, suite: Suite, tmp_path: Path) -> None:
        init = rebuilt(tmp_path, "smile", *MIXTURES["smile"])
        (Path(init) / "fusion_config.json").write_text("{")
        with pytest.raises(CheckpointError, match=r"fusion_config\.json is no JSON"):
            train_further(init, suite, tmp_path / "out", RECIPE)

    def test_an_adapter_on_a_mixture(self, suite: Suite, tmp_path: Path) -> None:
        init = rebuilt(tmp_path, "smile", *MIXTURES["smile"])
        with pytest.raises(ConfigError, match="adapters are put on plain models"):
            train_further(init, suite, tmp_path / "out", RECIPE, tuning="lora")

    def test_models_of_each_task(self, suite: Suite, tmp_path: Path) -> None:
        (tmp_path / "run" / "model" / "tasks" / "a").mkdir(parents=True)
        with pytest.raises(ConfigError, match=r"a model for each task.*init=.*/run/model/tasks/a"):
            train_further(str(tmp_path / "run"), suite, tmp_path / "out", RECIPE)

    def test_a_model_that_the_suite_cannot_ask(self, suite: Suite, tmp_path: Path) -> None:
        make_causal_lm(tmp_path / "small")
        config = json.loads((tmp_path / "small" / "config.json").read_text())
        (tmp_path / "small" / "config.json").write_text(json.dumps(config | {"vocab_size": 7}))
        with pytest.raises(ConfigError, match=r"init: .*small knows 7 tokens, the texts of mine are made of"):
            train_further(str(tmp_path / "small"), suite, tmp_path / "out", RECIPE)
        make_bert(tmp_path / "bert")
        with pytest.raises(ConfigError, match=r"init: .*bert is of the family 'encoder', the tasks of mine are for"):
            train_further(str(tmp_path / "bert"), suite, tmp_path / "out", RECIPE)

    def test_a_pool_of_models_of_other_widths_before_anything_is_trained(self, suite: Suite, tmp_path: Path) -> None:
        make_causal_lm(tmp_path / "pool" / "a")
        make_causal_lm(tmp_path / "pool" / "b", intermediate_size=32)
        with pytest.raises(IncompatibleModels, match="gate_proj"):
            train_further(str(tmp_path / "pool"), suite, tmp_path / "out", RECIPE)
        assert not (tmp_path / "out.training").exists()

    def test_rounds_of_one_model(self, suite: Suite, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"rounds: .* is one model"):
            train_further(str(tmp_path / "a"), suite, tmp_path / "out", RECIPE, rounds=Rounds(2))

    def test_what_does_not_fit_a_pool(self, suite: Suite, tmp_path: Path) -> None:
        (tmp_path / "pool").mkdir()
        for name, other in (("a", "a"), ("b", "c")):
            (tmp_path / name).rename(tmp_path / "pool" / other)
        with pytest.raises(ConfigError, match=r"is a pool of models \(a, c\).*Leave tasks, mtl, tuning"):
            train_further(str(tmp_path / "pool"), suite, tmp_path / "out", RECIPE, mtl=True)
        with pytest.raises(ConfigError, match="c: the suite mine has neither an expert nor a task"):
            train_further(str(tmp_path / "pool"), suite, tmp_path / "out", RECIPE)
        with pytest.raises(ConfigError, match="averaged=3: there are 2 rounds"):
            train_further(str(tmp_path / "pool"), suite, tmp_path / "out", RECIPE, rounds=Rounds(2, averaged=3))

    def test_a_pool_of_mixtures_and_a_folder_of_another_run(self, suite: Suite, tmp_path: Path) -> None:
        init = rebuilt(tmp_path, "smile", *MIXTURES["smile"])
        (tmp_path / "pool").mkdir()
        Path(init).rename(tmp_path / "pool" / "a")
        with pytest.raises(ConfigError, match="a: layers change places between plain models only"):
            train_further(str(tmp_path / "pool"), suite, tmp_path / "out", RECIPE)
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "recipe.yaml").write_text("x: 1\n")
        with pytest.raises(OutputError, match="is the folder of a run"):
            train_further(str(tmp_path / "pool"), suite, tmp_path / "out", RECIPE)


def test_random_numbers_of_the_caller_stay_as_they_are(suite: Suite, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train_further(str(tmp_path / "a"), suite, tmp_path / "out", RECIPE, tasks=("a",))
    assert torch.equal(before, torch.get_rng_state())
