"""Folders in, a folder out, by a recipe; without torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import safe_open

from checkpoints import read_model, save_model
from fusionbench.config import Recipe
from fusionbench.errors import CheckpointError, ConfigError, IncompatibleModels, NotFinite, OutputError
from fusionbench.merge import merge, open_pool, plan_of_recipe, tower_of
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import TensorSource

BASE = {"w": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.tensor([0.5, -0.5]), "n": torch.tensor(3)}
DIGITS = {"w": BASE["w"] + torch.tensor([[1.0, 0.0], [0.0, -2.0]]), "b": BASE["b"] + 1, "n": torch.tensor(9)}
SIGNS = {"w": BASE["w"] + torch.tensor([[1.0, 0.5], [0.0, 0.0]]), "b": BASE["b"], "n": torch.tensor(9)}
OWN = {"fusion.lock.json", "README.md"}
"""What a merge writes of itself."""
CONFIG = {"model_type": "toy", "torch_dtype": "float32", "width": 2}


@pytest.fixture
def models(tmp_path) -> Path:
    for name, tensors in (("base", BASE), ("digits", DIGITS), ("signs", SIGNS)):
        save_model(tmp_path / name, tensors, CONFIG)
    return tmp_path


def recipe(models: Path, *overrides: str, method: str = "task_arithmetic") -> Recipe:
    named = [f"experts.{name}={models / name}" for name in ("digits", "signs")]
    return Recipe.load(None, [f"base={models / 'base'}", *named, f"method={method}", "runtime.threads=1", *overrides])


def header(folder: Path) -> dict:
    (file, *_) = sorted(folder.glob("*.safetensors"))
    with safe_open(file, framework="pt") as opened:
        return json.loads(opened.metadata()["fusionbench"])


TORCH_FREE = """
import json, sys
from pathlib import Path
from fusionbench.config import Recipe
from fusionbench.merge import merge
root = Path(sys.argv[1])
for number, overrides in enumerate(json.loads(sys.argv[2])):
    merge(Recipe.load(None, overrides), root / f"out{number}")
heavy = {"torch", "transformers", "datasets", "matplotlib", "huggingface_hub"} & set(sys.modules)
assert not heavy, sorted(heavy)
"""


def test_averages_task_arithmetic_and_ties_of_folders_are_merged_without_torch(models):
    common = [f"base={models / 'base'}", f"experts.digits={models / 'digits'}", f"experts.signs={models / 'signs'}"]
    runs = [
        [*common, "method=simple_average"],
        [*common, "method=weighted_average", "method.weights=[3,1]"],
        [*common, "method=task_arithmetic", "method.scale=0.5", "output.dtype=bfloat16"],
        [*common, "method=ties", "method.density=0.5"],
        [*common, "method=ties", "method.compat=mergekit", "runtime.threads=2"],
        [*common[1:], "method=simple_average"],
    ]
    subprocess.run([sys.executable, "-c", TORCH_FREE, str(models), json.dumps(runs)], check=True)
    assert read_model(models / "out0")["w"].tolist() == [[2.0, 2.25], [3.0, 3.0]]
    assert read_model(models / "out1")["w"].tolist() == [[2.0, 2.125], [3.0, 2.5]]
    assert read_model(models / "out2")["w"].tolist() == [[2.0, 2.25], [3.0, 3.0]]
    assert read_model(models / "out2")["w"].dtype == torch.bfloat16
    # ⌊.5·6⌋ = 3 entries each: 1, -2 and the first 1 of b by digits' (b comes before w); 1, .5 and a 0 by signs'.
    assert read_model(models / "out3")["w"].tolist() == [[2.0, 2.5], [3.0, 2.0]]
    assert read_model(models / "out3")["b"].tolist() == [1.5, 0.5]
    assert read_model(models / "out5")["n"].item() == 9


def test_a_merge_of_chosen_numbers(models):
    done = merge(recipe(models, "method.scale=0.5"), models / "out")
    merged = read_model(models / "out")
    assert merged["w"].tolist() == [[2.0, 2.25], [3.0, 3.0]]
    assert merged["b"].tolist() == [1.0, 0.0]
    assert merged["n"].item() == 3
    assert (done.parameters, done.bytes, done.passes) == (7, 32, 1)
    assert done.folder == models / "out"


def test_the_same_recipe_gives_the_same_files(models):
    for name in ("one", "two"):
        merge(recipe(models, method="ties"), models / name / "merged")
    files = [sorted((models / name / "merged").iterdir()) for name in ("one", "two")]
    assert [f.name for f in files[0]] == [f.name for f in files[1]]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*files, strict=True))


def test_every_file_says_how_it_was_made(models):
    merge(recipe(models, "method.scale=0.25", "seed=7"), models / "out")
    made = header(models / "out")
    assert made["schema"] == 1
    assert made["recipe"]["method"] == {"name": "task_arithmetic", "compat": None, "weights": 1.0, "scale": 0.25}
    assert made["recipe"]["seed"] == 7
    assert "runtime" not in made["recipe"]
    assert made["inputs"].keys() == {"base", "digits", "signs"}
    assert made["inputs"]["base"] == open_source(models / "base").fingerprint()
    assert made["versions"]["task_arithmetic"] == 1
    assert made["identity"].startswith("sha256:")


def test_a_recipe_in_a_header_makes_the_model_again(models):
    merge(recipe(models, "method.density=[0.5,0.8]", method="ties"), models / "out")
    merge(Recipe.read(header(models / "out")["recipe"]), models / "again")
    assert (models / "out/model.safetensors").read_bytes() == (models / "again/model.safetensors").read_bytes()


def test_the_identity_follows_what_changes_a_number_and_nothing_else(models):
    def identity(*overrides: str) -> str:
        folder = models / f"out{len(list(models.iterdir()))}"
        merge(recipe(models, *overrides), folder)
        return header(folder)["identity"]

    first = identity()
    assert identity("runtime.threads=2", "runtime.memory=1GB") == first
    assert identity("seed=1") != first
    assert identity("method.scale=0.4") != first
    save_model(models / "signs", {**SIGNS, "b": SIGNS["b"] + 1}, CONFIG)
    assert identity() != first


def test_shards_are_written_by_their_bytes(models):
    merge(recipe(models, "output.shard_bytes=16"), models / "out")
    assert len(list((models / "out").glob("model-*-of-*.safetensors"))) == 2
    assert (models / "out" / "model.safetensors.index.json").is_file()
    assert read_model(models / "out").keys() == BASE.keys()
    assert header(models / "out")["schema"] == 1


def test_other_files_of_the_base_are_copied_and_those_of_its_training_are_not(models):
    for name in ("tokenizer.json", "merges.txt", "spiece.model", "chat_template.jinja"):
        (models / "base" / name).write_text(name)
    for name in ("training_args.json", "trainer_state.json", "adapter_config.json", "optimizer.pt", "notes.md"):
        (models / "base" / name).write_text(name)
    (models / "base" / "folder.json").mkdir()
    merge(recipe(models), models / "out")
    assert sorted({path.name for path in (models / "out").iterdir()} - OWN) == [
        "chat_template.jinja", "config.json", "merges.txt", "model.safetensors", "spiece.model", "tokenizer.json",
    ]  # fmt: skip
    assert (models / "out" / "config.json").read_bytes() == (models / "base" / "config.json").read_bytes()


def test_an_index_of_the_bases_shards_is_not_copied(models):
    (models / "base" / "model.safetensors").unlink()
    save_model(models / "base", BASE, CONFIG, shards=2)
    merge(recipe(models), models / "out")
    assert {path.name for path in (models / "out").iterdir()} - OWN == {"config.json", "model.safetensors"}


def test_the_configuration_says_the_kind_that_was_asked_for(models):
    merge(recipe(models, "output.dtype=float16"), models / "out")
    config = json.loads((models / "out" / "config.json").read_text())
    assert config == {"model_type": "toy", "width": 2, "dtype": "float16"}
    assert read_model(models / "out")["w"].dtype == torch.float16


def test_a_merged_folder_is_a_model_of_transformers(tmp_path):
    config = transformers.LlamaConfig(
        vocab_size=17, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True,
    )  # fmt: skip
    for seed, name in enumerate(("base", "digits", "signs")):
        torch.manual_seed(seed)
        transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / name)
    merge(recipe(tmp_path, "method.scale=0.5", "output.shard_bytes=2000"), tmp_path / "out")
    loaded, report = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    states = [
        transformers.LlamaForCausalLM.from_pretrained(tmp_path / n).state_dict() for n in ("base", "digits", "signs")
    ]
    name = "model.layers.1.mlp.up_proj.weight"
    base, one, two = (state[name].double() for state in states)
    torch.testing.assert_close(
        loaded.state_dict()[name].double(), base + 0.5 * (one - base + two - base), rtol=0, atol=1e-7
    )
    assert loaded.lm_head.weight.data_ptr() == loaded.model.embed_tokens.weight.data_ptr()


def test_only_the_tower_of_a_family_is_fused(models):
    parts = {"vision_model.w": torch.ones(2), "text_model.w": torch.ones(2), "logit_scale": torch.tensor(1.0)}
    for name, value in (("base", 1.0), ("digits", 3.0), ("signs", 5.0)):
        save_model(models / name, {n: torch.full_like(t, value) for n, t in parts.items()}, {"model_type": "clip"})
    done = merge(recipe(models, "method.scale=1"), models / "out")
    merged = read_model(models / "out")
    assert merged["vision_model.w"].tolist() == [7.0, 7.0]
    assert merged["text_model.w"].tolist() == [1.0, 1.0]
    assert merged["logit_scale"].item() == 1.0
    assert any("vision_model." in note for note in done.notes)


def test_a_family_that_is_named_wins_over_the_configuration():
    def source(config: dict[str, str]) -> TensorSource:
        return TensorSource("x", {"w": torch.ones(1)}, config)

    assert tower_of(source({"model_type": "clip"})) == "vision_model."
    assert tower_of(source({"model_type": "toy"}), "clip") == "vision_model."
    assert tower_of(source({"model_type": "toy"})) == ""
    assert tower_of(source({})) == ""
    with pytest.raises(ConfigError, match="clip"):
        tower_of(source({}), "clop")


@pytest.mark.parametrize(
    ("names", "tower"), [(("h.0.w",), ""), (("transformer.h.0.w", "score.weight"), "transformer.")]
)
def test_of_a_checkpoint_with_a_head_only_the_bare_model_is_the_tower(names, tower):
    source = TensorSource("x", {name: torch.ones(1) for name in names}, {"model_type": "gpt2"})
    assert tower_of(source) == tower


def test_progress_ends_with_everything_done(models):
    told: list[tuple[str, int, int]] = []
    merge(recipe(models), models / "out", lambda *state: told.append(state))
    assert told[-1] == ("merging by task_arithmetic", 7, 7)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def left(models: Path) -> set[str]:
    return {path.name for path in models.iterdir()} - {"base", "digits", "signs"}


def test_an_output_that_exists_is_refused_before_anything_is_read(models):
    (models / "out").mkdir()
    save_model(models / "digits", {**DIGITS, "w": torch.full((2, 2), float("nan"))}, CONFIG)
    with pytest.raises(OutputError, match="exists"):
        merge(recipe(models), models / "out")
    assert left(models) == {"out"}
    assert list((models / "out").iterdir()) == []


@pytest.mark.parametrize("method", ["simple_average", "ties", "slerp"])
def test_nan_in_an_expert_leaves_nothing_behind(method, models):
    save_model(models / "signs", {**SIGNS, "b": torch.tensor([0.0, float("nan")])}, CONFIG)
    with pytest.raises(NotFinite, match=rf"{models / 'signs'}: b holds nan at \[1\]"):
        merge(recipe(models, method=method), models / "out")
    assert left(models) == set()


def test_models_that_do_not_fit_leave_nothing_behind(models):
    save_model(models / "signs", {"w": SIGNS["w"]}, {"model_type": "other"})
    with pytest.raises(IncompatibleModels, match="3 differences"):
        merge(recipe(models), models / "out")
    assert left(models) == set()


def test_an_interruption_leaves_nothing_behind(models):
    def interrupt(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(recipe(models), models / "out", interrupt)
    assert left(models) == set()


def test_a_file_cut_short_between_two_runs_is_refused(models):
    merge(recipe(models), models / "one")
    file = models / "digits" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"digits.*truncated"):
        merge(recipe(models), models / "two")
    assert left(models) == {"one"}


def test_a_method_that_needs_a_base_asks_for_one(models):
    lacking = Recipe.load(None, [f"experts.digits={models / 'digits'}", "method=ties"])
    with pytest.raises(ConfigError, match="name one with base="):
        merge(lacking, models / "out")


def test_a_method_of_another_kind_is_sent_to_its_command(models):
    with pytest.raises(ConfigError, match="fusionbench run"):
        merge(recipe(models, method="pretrained"), models / "out")


def test_a_recipe_that_names_no_model_says_what_to_name(models):
    with pytest.raises(ConfigError, match="expert"):
        merge(Recipe.load(None, ["suite=mini/clip", "method=simple_average"]), models / "out")
    with pytest.raises(ConfigError, match="expert"):
        merge(Recipe.load(None, ["suite=mini/clip", f"base={models / 'base'}", "method=ties"]), models / "out")
    assert left(models) == set()


def test_headers_are_enough_to_open_a_pool_and_to_plan(models):
    pool = open_pool(recipe(models))
    assert pool.fingerprints().keys() == {"base", "digits", "signs"}
    assert [step.output.name for step in plan_of_recipe(recipe(models), pool)] == list(pool.reference.specs)
    assert pool.reference.label == str(models / "base")


def test_statistics_that_would_have_to_be_taken_anew_are_refused(models):
    for name in ("base", "digits", "signs"):
        saved = {
            "bn.running_mean": torch.ones(2),
            "bn.running_var": torch.ones(2),
            "bn.num_batches_tracked": torch.tensor(1),
        }
        save_model(models / name, saved, CONFIG)
    with pytest.raises(ConfigError, match="batch_norm=recalibrate"):
        merge(recipe(models, "batch_norm=recalibrate"), models / "out")
    assert left(models) == set()
