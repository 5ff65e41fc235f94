"""Adapters through the command line: trained on a user's suite, named in its YAML, merged and evaluated."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from tiny_t5 import make_t5

TASKS = {"films": ("good", "bad"), "days": ("day", "film")}


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> Path:
    """A suite's folder with a base and two tasks, which of two words a sentence holds."""
    folder = tmp_path_factory.mktemp("suite")
    make_t5(folder / "base")
    tasks = {}
    for name, words in TASKS.items():
        rows = [{"sentence": f"a {words[number % 2]} one two", "label": number % 2} for number in range(12)]
        (folder / name).mkdir()
        for split in ("train", "validation", "test"):
            (folder / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        options = {"template": "Is it {sentence}", "targets": ["yes", "no"]}
        tasks[name] = {"kind": "text_to_text", "dataset": f"./{name}", "options": options}
    experts = {name: {"model": "./base"} for name in TASKS}
    document = {"name": "words", "pool": {"base": "./base", "experts": experts}, "tasks": tasks}
    (folder / "base.yaml").write_text(yaml.safe_dump(document))
    return folder


def tune(fusionbench, suite: Path, tuning: str) -> Path:
    """Fine-tune the suite's experts and return the suite that names them."""
    out, named = suite / tuning, suite / f"{tuning}.yaml"
    if not named.exists():
        steps = ("recipe.steps=25", "recipe.batch=12", "recipe.learning_rate=0.03")
        done = fusionbench("finetune", f"suite={suite / 'base.yaml'}", f"tuning={tuning}", *steps, "--out", out)
        assert done.returncode == 0, done.stderr
        document = yaml.safe_load((suite / "base.yaml").read_text())
        document["pool"]["experts"] = {name: {"model": "./base", "adapter": f"./{tuning}/{name}"} for name in TASKS}
        named.write_text(yaml.safe_dump(document))
    return named


def report(out: Path) -> dict:
    return json.loads((out / "report.json").read_text())


@pytest.mark.parametrize("tuning", ["lora", "l_lora"])
def test_lora_experts_are_merged_as_models(fusionbench, suite, tmp_path, tuning):
    named = tune(fusionbench, suite, tuning)
    for method in ("individual", "simple_average"):
        done = fusionbench("run", f"suite={named}", f"method={method}", "--out", tmp_path / method)
        assert done.returncode == 0, done.stderr
    record = json.loads((suite / tuning / "films/fusionbench.json").read_text())
    alone = report(tmp_path / "individual")
    assert alone["tasks"]["films"]["accuracy"]["value"] == record["scores"]["films"]["test"]["accuracy"]
    assert alone["variants"][0]["normalized"] == 1.0
    merged = load_file(tmp_path / "simple_average/model/model.safetensors")
    place = "encoder.block.0.layer.0.SelfAttention.q"
    adapters = [load_file(suite / tuning / name / "adapter_model.safetensors") for name in TASKS]
    changes = [
        2 * a[f"base_model.model.{place}.lora_B.weight"] @ a[f"base_model.model.{place}.lora_A.weight"]
        for a in adapters
    ]
    base = load_file(suite / "base/model.safetensors")
    np.testing.assert_allclose(merged[f"{place}.weight"], base[f"{place}.weight"] + sum(changes) / 2, atol=1e-5)


def test_ia3_experts_are_merged_in_their_own_space_and_the_adapter_is_evaluated_on_the_base(
    fusionbench, suite, tmp_path
):
    named = tune(fusionbench, suite, "ia3")
    arguments = ("run", f"suite={named}", "method=task_arithmetic", "method.scale=0.5")
    done = fusionbench(*arguments, "space=adapter", "--out", tmp_path / "own")
    assert done.returncode == 0, done.stderr
    merged = load_file(tmp_path / "own/model/adapter_model.safetensors")
    one, two = (load_file(suite / "ia3" / name / "adapter_model.safetensors") for name in TASKS)
    for name, vector in merged.items():
        np.testing.assert_allclose(vector, 1 + 0.5 * ((one[name] - 1) + (two[name] - 1)), atol=1e-5)
    assert any(not np.allclose(vector, 1) for vector in merged.values())
    assert (tmp_path / "own/model/adapter_config.json").is_file()
    found = report(tmp_path / "own")
    assert 0 <= found["tasks"]["films"]["accuracy"]["value"] <= 1
    assert "an adapter of the base" in found["notes"][-1]
    again = fusionbench(*arguments, "space=adapter", "--out", tmp_path / "own")
    assert again.returncode == 0, again.stderr


def test_regmean_of_ia3_experts_is_their_average_since_vectors_are_no_linear_maps(fusionbench, suite, tmp_path):
    named = tune(fusionbench, suite, "ia3")
    found = []
    for method in ("regmean", "simple_average"):
        out = tmp_path / method
        done = fusionbench("run", f"suite={named}", f"method={method}", "space=adapter", "--out", out)
        assert done.returncode == 0, done.stderr
        found.append(load_file(out / "model/adapter_model.safetensors"))
    regmean, average = found
    assert regmean.keys() == average.keys()
    for name, vector in average.items():
        np.testing.assert_allclose(regmean[name], vector, atol=1e-6)


def test_reference_rows_of_ia3_experts_are_models_in_either_space(fusionbench, suite, tmp_path):
    named = tune(fusionbench, suite, "ia3")
    for space in ("dense", "adapter"):
        done = fusionbench("run", f"suite={named}", "method=individual", f"space={space}", "--out", tmp_path / space)
        assert done.returncode == 0, done.stderr
    assert report(tmp_path / "dense")["tasks"] == report(tmp_path / "adapter")["tasks"]


def test_an_adapter_is_evaluated_on_the_suites_base(fusionbench, suite):
    named = tune(fusionbench, suite, "ia3")
    done = fusionbench("evaluate", suite / "ia3/films", f"suite={named}", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads((suite / "ia3/films/fusionbench.json").read_text())
    found = json.loads(done.stdout)["tasks"]["films"]["accuracy"]["value"]
    assert found == record["scores"]["films"]["test"]["accuracy"]


@pytest.mark.parametrize(
    ("tuning", "tail", "message"),
    [
        ("ia3", ("method=ties",), "Say which space it is merged in"),
        ("ia3", ("method=fisher", "space=adapter"), "fisher looks at models and data"),
        ("ia3", ("method=adamerging", "space=adapter"), "adamerging looks at models and data"),
        ("ia3", ("method=ties", "space=adapter", "output.model=false"), "has to be written"),
        ("lora", ("method=ties", "space=adapter"), "LoRA adapters are merged as models"),
    ],
)
def test_what_cannot_be_merged_so_is_refused_before_anything_is_written(
    fusionbench, suite, tmp_path, tuning, tail, message
):
    named = tune(fusionbench, suite, tuning)
    done = fusionbench("run", f"suite={named}", *tail, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "run").exists()
