"""The routers' balance loss: by hand, against transformers' and an independent one, and in a training."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from independent_routing import balance as reference

from fusionbench.errors import ConfigError
from fusionbench.families import family_named, load_module
from fusionbench.finetune.balance import Routers, balance_loss, mean_balance
from fusionbench.finetune.recipe import FinetuneRecipe
from fusionbench.finetune.tune import finetune
from fusionbench.tasks import TaskSpec, build_task
from fusionbench.training.checkpoint import read_curve
from fusionbench.weights.sources import open_source
from tiny_causal_lm import make_causal_lm

FAMILY = family_named("causal_lm")
EVEN = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)]])
ONE_SIDED = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0]])


def top(logits: torch.Tensor, count: int) -> torch.Tensor:
    return logits.topk(count, dim=-1).indices


def test_by_hand() -> None:
    """Probabilities 3/4 and 1/4. Even: f = P = (1/2, 1/2), 2·1/2 = 1. One-sided: f = (1, 0), P₁ = 3/4, 2·3/4 = 1.5."""
    assert balance_loss(EVEN, top(EVEN, 1)).item() == pytest.approx(1.0)
    assert balance_loss(ONE_SIDED, top(ONE_SIDED, 1)).item() == pytest.approx(1.5)
    assert balance_loss(ONE_SIDED, top(ONE_SIDED, 2)).item() == pytest.approx(2.0)


def test_padding_does_not_count() -> None:
    logits = torch.cat([EVEN, ONE_SIDED])
    real = torch.tensor([True, True, False, False])
    assert balance_loss(logits, top(logits, 1), real).item() == pytest.approx(1.0)


@pytest.mark.parametrize(("tokens", "experts", "count"), [(7, 4, 2), (1, 3, 1), (50, 8, 3)])
def test_it_is_transformers_loss_of_one_layer_and_the_reference(tokens: int, experts: int, count: int) -> None:
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    logits = torch.randn(tokens, experts, generator=torch.Generator().manual_seed(tokens)).requires_grad_()
    ours = balance_loss(logits, top(logits, count))
    theirs = load_balancing_loss_func((logits,), experts, count)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    assert ours.item() == pytest.approx(reference(logits.detach().double().numpy(), count), rel=1e-5)
    (gradient,) = torch.autograd.grad(ours, logits)
    torch.testing.assert_close(gradient, torch.autograd.grad(theirs, logits)[0])


def test_layers_count_alike() -> None:
    seen = [(EVEN, top(EVEN, 1)), (ONE_SIDED, top(ONE_SIDED, 1))]
    assert mean_balance(seen, None).item() == pytest.approx(1.25)
    mask = torch.tensor([[False], [True]])
    assert mean_balance(seen, mask).item() == pytest.approx((2 * 0.75 + 2 * 0.75) / 2)


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """An up-scaled tiny Llama of two experts and one a token, whose routers prefer the first by far."""
    from fusionbench.config import Recipe
    from fusionbench.run.rebuild import rebuild_to

    make_causal_lm(tmp_path / "base")
    asked = [f"experts.m={tmp_path / 'base'}", "method=moe_upscaling", "method.copies=2", "method.top_k=1"]
    rebuild_to(Recipe.load(None, [*asked, "method.router_deviation=0.5"]), tmp_path / "sparse")
    return tmp_path / "sparse"


def language(tmp_path: Path) -> Any:
    (tmp_path / "texts").mkdir()
    for split in ("train", "validation", "test"):
        lines = ['{"text": "the dog runs in the house"}', '{"text": "a cat sleeps"}', '{"text": "the cat runs"}'] * 4
        (tmp_path / "texts" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    spec = TaskSpec(kind="perplexity", dataset=str(tmp_path / "texts"))
    return build_task("language", spec, FAMILY, open_source(tmp_path / "sparse"))


def test_routers_are_heard_in_every_forward_and_in_none_after(sparse: Path, tmp_path: Path) -> None:
    module, task = load_module(FAMILY, open_source(sparse)), language(tmp_path)
    routers, batch = Routers(module, FAMILY), next(task.batches("train", size=3))
    with routers.watched() as seen:
        task.bind(module)(batch)
    mask = FAMILY.token_mask(batch)
    assert len(seen) == 2
    assert all(logits.shape == (mask.numel(), 2) and chosen.shape == (mask.numel(), 1) for logits, chosen in seen)
    task.bind(module)(batch)
    assert len(seen) == 2


def test_a_training_with_it_spreads_the_tokens_and_one_without_does_not_care(sparse: Path, tmp_path: Path) -> None:
    task, found = language(tmp_path), {}
    batch = next(task.batches("train", size=12))
    for name, factor in (("free", 0.0), ("balanced", 3.0)):
        recipe = FinetuneRecipe(steps=30, batch=6, learning_rate=3e-2, balance=factor, only=("gate",))
        finetune(sparse, {"language": task}, tmp_path / name, recipe)
        module = load_module(FAMILY, open_source(tmp_path / name))
        with Routers(module, FAMILY).watched() as seen, torch.no_grad():
            task.bind(module)(batch)
        found[name] = mean_balance(seen, FAMILY.token_mask(batch)).item()
    assert found["balanced"] < found["free"] - 0.05
    assert found["balanced"] == pytest.approx(1.0, abs=0.1)
    losses = [read_curve(tmp_path / name)[-1].metrics["loss"] for name in ("free", "balanced")]
    assert losses[1] > losses[0] + 2


def test_the_loss_of_a_step_is_the_tasks_and_the_balances_of_its_real_tokens(sparse: Path, tmp_path: Path) -> None:
    """All texts are in the one batch, some of them padded; the first step's loss is that of the model as it was."""
    task, module = language(tmp_path), load_module(FAMILY, open_source(sparse))
    batch = next(task.batches("train", size=12))
    with Routers(module, FAMILY).watched() as seen, torch.no_grad():
        plain = task.loss(task.bind(module), batch).item()
    real, whole = mean_balance(seen, FAMILY.token_mask(batch)).item(), mean_balance(seen, None).item()
    assert abs(real - whole) > 1e-3
    finetune(sparse, {"l": task}, tmp_path / "out", FinetuneRecipe(steps=1, batch=12, balance=2.0))
    (point,) = read_curve(tmp_path / "out")
    assert point.metrics["loss"] == pytest.approx(plain + 2 * real, rel=1e-5)


def test_only_what_is_named_is_trained(sparse: Path, tmp_path: Path) -> None:
    recipe = FinetuneRecipe(steps=2, batch=4, learning_rate=1e-2, only=("gate",))
    finetune(sparse, {"language": language(tmp_path)}, tmp_path / "out", recipe)
    before, after = open_source(sparse), open_source(tmp_path / "out")
    changed = {name for name in before.specs if before.read(name) != after.read(name)}
    assert changed == {f"model.layers.{layer}.block_sparse_moe.gate.weight" for layer in (0, 1)}
    assert "balance" not in recipe.model_dump(mode="json")
    assert recipe.model_dump(mode="json")["only"] == ["gate"]


def test_what_is_not_there_is_refused(sparse: Path, tmp_path: Path) -> None:
    task = language(tmp_path)
    with pytest.raises(ConfigError, match=r"recipe\.only: no tensor that is trained has 'gates' .* Did you mean gate"):
        finetune(sparse, {"l": task}, tmp_path / "out", FinetuneRecipe(steps=1, only=("gates",)))
    with pytest.raises(ConfigError, match=r"recipe\.balance: the model has no routers"):
        finetune(tmp_path / "base", {"l": task}, tmp_path / "out", FinetuneRecipe(steps=1, balance=0.1))
    assert not (tmp_path / "out").exists()


def test_recipes_without_them_are_written_as_before() -> None:
    assert not {"adapter", "only", "balance"} & set(FinetuneRecipe().model_dump(mode="json"))
    assert np.isclose(FinetuneRecipe.read({"balance": 1e-3}, "r").model_dump(mode="json")["balance"], 1e-3)
