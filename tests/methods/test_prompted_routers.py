"""Routers by prompts: by hand, against transformers' own hidden states, and through the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from causal import merged
from independent_routing import prompted_gate

from fusionbench.errors import CheckpointError, ConfigError
from fusionbench.methods._prompted import check_prompts, gate_vectors, hidden_states
from fusionbench.weights.sources import open_source
from tiny_causal_lm import make_causal_lm

PROMPTS = {"a": ["the dog runs", "the cat sleeps in the house"], "b": ["two and three"]}
NOT = {"a": ["two"], "b": ["a dog", "the house", "one"]}


def test_a_gate_is_the_difference_of_means_of_length_one() -> None:
    """By hand: mean of (3, 0) and (1, 4) is (2, 2), less (2, −2) is (0, 4): (0, 1); a second layer of its own."""
    positive = torch.tensor([[[3.0, 0.0], [3.0, 4.0]], [[1.0, 4.0], [3.0, 4.0]]])
    negative = torch.tensor([[[2.0, -2.0], [0.0, 0.0]]])
    torch.testing.assert_close(gate_vectors(positive, negative), torch.tensor([[0.0, 1.0], [0.6, 0.8]]))
    torch.testing.assert_close(gate_vectors(positive[:1]), torch.tensor([[1.0, 0.0], [0.6, 0.8]]))
    assert gate_vectors(positive[:1], positive[:1]).tolist() == [[0.0, 0.0], [0.0, 0.0]]


class Echo(torch.nn.Module):
    """Two blocks: what goes into block l of token t is (t, l); what comes out of the last is not looked at."""

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        token = input_ids.double()
        states = tuple(torch.stack([token, torch.full_like(token, depth)], dim=-1) for depth in range(3))
        return type("Output", (), {"hidden_states": states})


def test_the_last_token_or_the_average_of_all_is_heard_and_no_padding() -> None:
    texts = [[1, 2, 6], [4]]
    assert hidden_states(Echo(), texts, average=False).tolist() == [[[6, 0], [6, 1]], [[4, 0], [4, 1]]]
    assert hidden_states(Echo(), texts, average=True).tolist() == [[[3, 0], [3, 1]], [[4, 0], [4, 1]]]


@pytest.fixture
def pool(tmp_path: Path) -> list[str]:
    for seed, name in enumerate(("base", "a", "b")):
        make_causal_lm(tmp_path / name, seed)
    return [f"base={tmp_path / 'base'}", *(f"experts.{n}={tmp_path / n}" for n in "ab"), "method=moe_merging"]


def expected_gates(folder: Path, mode: str, negative: bool) -> list[np.ndarray]:
    """By transformers alone and the numpy reference."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    def states(text: str) -> list[np.ndarray]:
        with torch.no_grad():
            found = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        rows = [layer[0].double().numpy() for layer in found[:2]]
        return [row[-1] if mode == "hidden" else row.mean(axis=0) for row in rows]

    gates = []
    for depth in range(2):
        rows = [
            prompted_gate(
                [states(text)[depth] for text in PROMPTS[name]],
                [states(text)[depth] for text in NOT[name]] if negative else (),
            )
            for name in "ab"
        ]
        gates.append(np.stack(rows))
    return gates


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("mode", ["hidden", "hidden_avg"])
def test_routers_are_those_of_the_bases_hidden_states(
    mode: str, negative: bool, pool: list[str], tmp_path: Path
) -> None:
    asked = [f"method.gate_mode={mode}", f"method.positive_prompts={json.dumps(PROMPTS)}"]
    asked += [f"method.negative_prompts={json.dumps(NOT)}"] if negative else []
    found = open_source(merged(tmp_path / "out", [*pool, *asked]))
    for depth, expected in enumerate(expected_gates(tmp_path / "base", mode, negative)):
        name = f"model.layers.{depth}.block_sparse_moe.gate.weight"
        gate = np.frombuffer(found.read(name), np.float32).reshape(2, 16)
        np.testing.assert_allclose(gate, expected, atol=1e-5)


def test_prompts_that_say_the_same_are_reported(
    pool: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    same = json.dumps({"a": ["the dog"], "b": ["the dog"]})
    merged(tmp_path / "out", [*pool, "method.gate_mode=hidden", f"method.positive_prompts={same}"])
    assert "nearly the same to the layers 0, 1" in caplog.text


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("random", PROMPTS, None), "gate_mode=random reads no prompts. Add method.gate_mode=hidden"),
        (("random", None, NOT), "method.negative_prompts: gate_mode=random"),
        (("hidden", None, None), "there are none for a, b"),
        (("hidden_avg", {"a": ["x"]}, None), "needs prompts for every expert; there are none for b"),
        (("hidden", {**PROMPTS, "c": ["x"]}, None), "there is no expert 'c'"),
        (("hidden", PROMPTS, {"math": ["x"]}), "method.negative_prompts: there is no expert 'math'"),
        (("hidden", {"a": "x", "b": ["y"]}, None), "method.positive_prompts.a: expected a list of prompts, got 'x'"),
        (("hidden", {"a": [], "b": ["y"]}, None), "positive_prompts.a: expected a list"),
        (("hidden", ["x", "y"], None), "expected prompts by expert"),
    ],
)  # fmt: skip
def test_prompts_that_do_not_fit_are_refused(asked: Any, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_prompts(("a", "b"), *asked)
    assert said in str(error.value)


def test_a_base_without_a_tokenizer_is_refused_before_anything_is_written(pool: list[str], tmp_path: Path) -> None:
    (tmp_path / "base" / "tokenizer.json").unlink()
    asked = ["method.gate_mode=hidden", f"method.positive_prompts={json.dumps(PROMPTS)}"]
    with pytest.raises(CheckpointError, match="tokenizer"):
        merged(tmp_path / "out", [*pool, *asked])
    assert not (tmp_path / "out").exists()
