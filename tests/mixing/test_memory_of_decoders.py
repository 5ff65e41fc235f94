"""Mixtures of models that write text: routed by token, so that they go on from what they read, and padding is nothing.

Nobody has to tell such a mixture which tokens are real: harnesses of others, which make their batches themselves, do
not.
"""

import json
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pytest
import torch

import fusionbench
from fusionbench.errors import CheckpointError
from fusionbench.families import family_for
from fusionbench.mixing.loading import load_model
from fusionbench.mixing.mixed import open_mixed
from fusionbench.weights.sources import open_source
from tiny_causal_lm import make_causal_lm
from tiny_t5 import make_t5

VALUES: dict[str, dict[str, Any]] = {
    "smile": {"k": 4, "gate_k": 2, "top_k": 2},
    "bitdelta": {"expert": "a"},
    "wemoe": {"route": "token", "steps": 0},
    "efficient_wemoe": {"route": "token", "steps": 0, "prune": 0.5},
    "rank_one_moe": {"route": "token", "steps": 0, "rank_k": 3},
}
TEXT = torch.tensor([[5, 7, 3, 9, 4]])


def make(kind: str, method: str, tmp_path: Path) -> Any:
    """A mixture whose routers tell tokens apart, saved and opened."""
    write = {"llama": make_causal_lm, "t5": make_t5}[kind]
    places = {name: str(tmp_path / name) for name in ("base", "a", "b")}
    for seed, place in enumerate(places.values()):
        write(Path(place), seed)
    model: Any = fusionbench.configure(method, **VALUES[method])(places)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for name, parameter in model.module.named_parameters():
            if ".router." in name and name.endswith("weight"):
                parameter.normal_(std=0.3)
    model.save(tmp_path / "made")
    return open_mixed(open_source(tmp_path / "made"))


@pytest.mark.parametrize("method", VALUES)
@torch.no_grad()
def test_padding_of_which_nobody_was_told_changes_nothing(method: str, tmp_path: Path) -> None:
    module = make("llama", method, tmp_path).module
    alone = module(TEXT).logits
    mate = torch.tensor([[6, 6, 8, 3, 5, 9, 4]])
    right = torch.cat([torch.cat([TEXT, torch.zeros(1, 2, dtype=torch.int64)], dim=1), mate])
    torch.testing.assert_close(module(right).logits[:1, :5], alone, atol=1e-5, rtol=1e-4)
    left = torch.cat([torch.cat([torch.zeros(1, 2, dtype=torch.int64), TEXT], dim=1), mate])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1] * 7])
    found = module(left, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
    torch.testing.assert_close(found[:1, 2:], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "t5"])
@pytest.mark.parametrize("method", VALUES)
@torch.no_grad()
def test_a_mixture_writes_the_same_with_and_without_what_it_read_before(kind: str, method: str, tmp_path: Path) -> None:
    module = make(kind, method, tmp_path).module
    asked = {"input_ids": torch.cat([TEXT, TEXT.flip(1)]), "attention_mask": torch.ones(2, 5, dtype=torch.int64)}
    asked["attention_mask"][0, :2] = 0
    said = [
        module.generate(**asked, max_new_tokens=8, min_new_tokens=8, do_sample=False, use_cache=cache)
        for cache in (True, False)
    ]
    assert torch.equal(*said)
    # A task's own writing goes on from a memory, too.
    family: Any = family_for(json.loads((tmp_path / "made" / "config.json").read_text()))
    memory: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
    for length in (1, 2, 3, 4):
        batch = {**asked, "decoder_input_ids": said[0][:, -8:][:, :length]}
        fresh, going = (family.features(module, given)[:, -1] for given in (batch, {**batch, "memory": memory}))
        torch.testing.assert_close(going, fresh, atol=1e-4, rtol=1e-4)
    assert module in memory


def test_a_task_hands_on_what_a_mixture_remembers(tmp_path: Path) -> None:
    model = make("llama", "wemoe", tmp_path)
    seen: list[set[str]] = []

    class Sums:
        name, family, metrics = "sums", family_for(open_source(tmp_path / "base").config), ()

        def bind(self, backbone: Any) -> Any:
            return lambda batch: seen.append(set(batch)) or batch["input_ids"]

    batch = {"input_ids": TEXT, "attention_mask": torch.ones_like(TEXT), "decoder_input_ids": TEXT, "memory": {}}
    model.for_task(Sums())(batch)
    assert seen == [set(batch)]


@pytest.mark.parametrize("method", ["wemoe", "rank_one_moe"])
@pytest.mark.parametrize("route", ["sample", "batch", None])
def test_a_blueprint_that_weighs_whole_texts_is_refused(method: str, route: str | None, tmp_path: Path) -> None:
    make("llama", method, tmp_path)
    file = tmp_path / "made" / "fusion_config.json"
    about = json.loads(file.read_text())
    for site in about["sites"].values():
        site["settings"] = {key: value for key, value in site["settings"].items() if key != "route"}
        site["settings"] |= {} if route is None else {"route": route}
    file.write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match=rf"mlp: the blueprint routes by {route or 'sample'}, .*route=token"):
        load_model(tmp_path / "made")
