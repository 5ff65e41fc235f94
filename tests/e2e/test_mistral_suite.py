"""The Mistral suite on stand-ins: experts with tokens of their own are merged in the base's vocabulary."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fusionbench.experiments.model import load_experiment
from fusionbench.suites.paper import describe, suite_of
from hub_stand_in import COMMIT, HubCache
from tiny_causal_lm import make_causal_lm

NAME = "mistral-7b/three-experts"


def add_tokens(folder: Path, count: int) -> None:
    """Give a model tokens of its own behind the base's, as MetaMath's padding and dolphin's chat marks."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<own {number}>" for number in range(count)])
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture
def filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubCache:
    hub = HubCache(tmp_path / "hub").use(monkeypatch)
    suite = suite_of(NAME, describe(NAME))
    make_causal_lm(tmp_path / "base", seed=0)
    shutil.copytree(tmp_path / "base", hub.model(str(suite.pool.base)), dirs_exist_ok=True)
    for number, expert in enumerate(suite.pool.experts.values(), start=1):
        make_causal_lm(tmp_path / f"expert{number}", seed=number)
        if number < 3:
            add_tokens(tmp_path / f"expert{number}", number)
        shutil.copytree(tmp_path / f"expert{number}", hub.model(expert.model), dirs_exist_ok=True)
    return hub


def test_experts_of_more_tokens_are_averaged_over_those_of_the_base(filled, fusionbench, tmp_path):
    # Without its tasks, which need the harness and its data: tests/e2e/test_harness.py has those.
    asked = (f"suite={NAME}", "tasks.unseen=[]", "method=simple_average", "--out", tmp_path / "out")
    done = fusionbench("run", *asked)
    assert done.returncode == 0, done.stderr
    merged = load_file(tmp_path / "out" / "model" / "model.safetensors")
    snapshots = [next((filled.models / f"models--{expert.model.replace('/', '--')}").glob(f"snapshots/{COMMIT}"))
                 for expert in suite_of(NAME, describe(NAME)).pool.experts.values()]  # fmt: skip
    held = [load_file(folder / "model.safetensors") for folder in snapshots]
    name = "model.embed_tokens.weight"
    base = load_file(filled.models / "models--mistralai--Mistral-7B-v0.1" / "snapshots" / COMMIT / "model.safetensors")
    assert [len(one[name]) - len(base[name]) for one in held] == [1, 2, 0]
    expected = torch.stack([one[name][: len(base[name])] for one in held]).mean(0)
    torch.testing.assert_close(merged[name], expected, rtol=1e-5, atol=1e-6)
    found: dict[str, Any] = json.loads((tmp_path / "out" / "report.json").read_text())
    assert any("vocabulary is the base's" in note for note in found["notes"])


def test_an_experts_own_row_is_that_expert_in_the_bases_vocabulary_and_in_float16(filled, fusionbench, tmp_path):
    row = next(row for row in load_experiment("mistral-7b").rows if row.label.startswith("expert 2"))
    weights = f"[{','.join(map(str, row.method['weights']))}]"
    asked = (f"suite={NAME}", "tasks.unseen=[]", "method=weighted_average", f"method.weights={weights}")
    more = ("method.normalize=false", f"output.dtype={row.settings['output']['dtype']}")
    done = fusionbench("run", *asked, *more, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    merged = load_file(tmp_path / "out" / "model" / "model.safetensors")
    second = list(suite_of(NAME, describe(NAME)).pool.experts.values())[1].model
    place = filled.models / f"models--{second.replace('/', '--')}" / "snapshots" / COMMIT
    own = load_file(place / "model.safetensors")
    assert second.endswith("dolphin-2.1-mistral-7b")
    for name, tensor in merged.items():
        assert torch.equal(tensor, own[name][: len(tensor)].half()), name
    assert len(own["model.embed_tokens.weight"]) == len(merged["model.embed_tokens.weight"]) + 2


def test_its_tasks_say_which_extra_they_need(filled, fusionbench, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval", None)
    done = fusionbench("run", f"suite={NAME}", "method=simple_average", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "pip install 'fusionbench[lm-eval]'" in done.stderr
