"""Git Re-Basin and ZipIt on models of every family that names its permutations: a shuffled model is found again."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import Kept

from fusionbench.errors import ConfigError, IncompatibleModels
from fusionbench.families import family_named, load_module
from fusionbench.merge import Pool
from fusionbench.methods._permutations import permuted
from fusionbench.methods.git_rebasin import git_rebasin
from fusionbench.methods.zipit import zipit
from fusionbench.weights.tensors import TensorSource

LLAMA = {"hidden_size": 8, "intermediate_size": 10, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 16,
         "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 32}  # fmt: skip
BERT = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 10, "vocab_size": 20,
        "max_position_embeddings": 16}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("encoder", {"model_type": "bert", **BERT}),
    "gpt2": ("gpt2", {"model_type": "gpt2", "n_embd": 12, "n_layer": 2, "n_head": 3, "vocab_size": 20}),
    "llama": ("causal_lm", {"model_type": "llama", **LLAMA}),
    "t5": ("t5", {"model_type": "t5", "d_model": 8, "d_kv": 4, "d_ff": 10, "num_layers": 2, "num_heads": 3,
                  "vocab_size": 16, "decoder_start_token_id": 0, "feed_forward_proj": "gated-gelu"}),
    "resnet": ("image_classifier", {"model_type": "resnet", "embedding_size": 4, "depths": [2, 2],
                                    "hidden_sizes": [8, 16], "layer_type": "bottleneck"}),
}  # fmt: skip


@dataclass
class Inputs:
    """Random images or tokens."""

    images: bool
    name: str = "inputs"

    def size(self, split: str) -> int:
        return 16

    def batches(self, split: str, *, size: int, limit: int, labels: bool) -> Iterator[dict[str, Tensor]]:
        random = torch.Generator().manual_seed(1)
        for start in range(0, min(16, limit), size):
            count = min(size, 16, limit) if start == 0 else size
            if self.images:
                yield {"pixel_values": torch.randn(count, 3, 32, 32, generator=random)}
            else:
                tokens = torch.randint(2, 16, (count, 6), generator=random)
                yield {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def model(case: str, seed: int) -> dict[str, Tensor]:
    """Tensors as a file holds them: tied ones once, counters and masks left out."""
    name, config = CASES[case]
    family = family_named(name)
    random = torch.Generator().manual_seed(seed)
    state = family.skeleton(config).state_dict()
    tied = ("embed_tokens.weight", "lm_head.weight") if case == "t5" else ()
    drawn = {n: torch.randn(t.shape, generator=random) * 0.5 for n, t in state.items() if t.is_floating_point()}
    made = {n: t.abs() + 0.5 if n.endswith("running_var") else t for n, t in drawn.items()}
    # A channel that never answers looks like every other that does not.
    made = {n: t + 3 if n.endswith("normalization.bias") else t for n, t in made.items()}
    kept = {n: t for n, t in made.items() if not n.endswith(tied or ("nothing",))}
    return kept | {n: torch.zeros((), dtype=t.dtype) for n, t in state.items() if n.endswith("num_batches_tracked")}


def turned(case: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same model with every group in another order."""
    name, config = CASES[case]
    groups = family_named(name).permutations(config)
    return permuted(tensors, groups, {group.name: torch.arange(group.units).roll(1) for group in groups})


def run(method: Any, case: str, *models: dict[str, Tensor], folder: Path, **values: Any) -> tuple[Any, Kept]:
    name, config = CASES[case]
    kept = Kept(folder)
    pool = Pool(None, {f"m{number}": TensorSource(f"m{number}", m, config) for number, m in enumerate(models)})
    tasks = {"inputs": Inputs(images=case == "resnet")}
    return method(pool, tasks, kept.context(family_named(name)), **values), kept


def assert_near(found: Any, expected: dict[str, Tensor]) -> None:
    learned = {n for n, t in expected.items() if t.is_floating_point() and "running" not in n}
    for name in learned:
        torch.testing.assert_close(found.weights[name], expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_weight_matching_finds_a_shuffled_model_of_every_family_again(case: str, tmp_path: Path) -> None:
    one = model(case, 0)
    other = turned(case, one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    fused, _ = run(git_rebasin, case, one, other, folder=tmp_path, restarts=4)
    assert_near(fused, one)


@pytest.mark.parametrize("case", CASES)
def test_zipping_a_model_with_itself_in_another_order_gives_it_back(case: str, tmp_path: Path) -> None:
    one = model(case, 0)
    fused, _ = run(zipit, case, one, turned(case, one), folder=tmp_path, beta=0.0)
    assert_near(fused, one)


def test_statistics_of_batch_normalisation_are_taken_anew(tmp_path: Path) -> None:
    one, other = model("resnet", 0), model("resnet", 1)
    fused, _ = run(git_rebasin, "resnet", one, other, folder=tmp_path)
    name = "embedder.embedder.normalization.running_mean"
    assert not torch.allclose(fused.weights[name], (one[name] + other[name]) / 2, atol=1e-2)


def test_a_group_that_lacks_what_reads_it_is_refused_for_a_family_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = type(family_named("gpt2"))
    groups = family_named("gpt2").permutations(CASES["gpt2"][1])
    monkeypatch.setattr(family, "permutations", lambda self, config: [group._replace(read=()) for group in groups])
    with pytest.raises(IncompatibleModels, match="Other orders of the units change what the model computes"):
        run(git_rebasin, "gpt2", model("gpt2", 0), model("gpt2", 1), folder=tmp_path)


def tailed(case: str, blocks: int, folder: Path, *models: dict[str, Tensor], **values: Any) -> tuple[Any, Kept]:
    """Partial zip of models that each have a task."""
    name, config = CASES[case]
    kept = Kept(folder)
    sources = {f"m{number}": TensorSource(f"m{number}", m, config) for number, m in enumerate(models)}
    pool = Pool(None, sources, tasks={expert: f"task of {expert}" for expert in sources})
    tasks = {"inputs": Inputs(images=case == "resnet")}
    return zipit(pool, tasks, kept.context(family_named(name)), beta=0.0, blocks=blocks, **values), kept


@torch.no_grad()
def features(case: str, tensors: dict[str, Tensor]) -> Tensor:
    name, config = CASES[case]
    family = family_named(name)
    module = load_module(family, TensorSource("m", tensors, config))
    return family.features(
        module, next(Inputs(images=case == "resnet").batches("train", size=8, limit=8, labels=False))
    )


@pytest.mark.parametrize(("case", "blocks"), [("gpt2", 1), ("resnet", 2), ("resnet", 3)])
def test_a_front_of_one_model_zipped_with_itself_serves_both_tails(
    case: str, blocks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusionbench.methods.zipit.recalibrated", lambda shared, family, model, batches: model)
    one = model(case, 0)
    both = one, turned(case, one)
    fused, kept = tailed(case, blocks, tmp_path, *both)
    expected = features(case, one)
    for number, mine in enumerate(both):
        made = fused._weights[f"task of m{number}"]
        torch.testing.assert_close(features(case, made), expected, rtol=1e-3, atol=1e-3)
        own = {name for name in mine if name in made and torch.equal(made[name], mine[name])}
        assert own
        assert number == 0 or own < {*mine}
    assert any("groups of units were zipped" in line for line in kept.notes)


def test_the_front_is_shared_and_what_follows_is_each_models_own(tmp_path: Path) -> None:
    one, other = model("gpt2", 0), model("gpt2", 1)
    fused, _ = tailed("gpt2", 1, tmp_path, one, other)
    first, second = fused._weights["task of m0"], fused._weights["task of m1"]
    shared = {name for name in one if torch.equal(first[name], second[name])}
    assert shared == {name for name in one if name.startswith(("wte", "wpe", "h.0."))}
    assert all(torch.equal(first[name], one[name]) for name in one if name not in shared)
    assert all(torch.equal(second[name], other[name]) for name in one if name not in shared)
    assert torch.equal(first["wte.weight"], (one["wte.weight"] + other["wte.weight"]) / 2)


def test_groups_that_go_on_behind_the_front_are_named(tmp_path: Path) -> None:
    _, kept = tailed("bert", 1, tmp_path, model("bert", 0), model("bert", 1))
    assert any("2 of 5 groups of units were zipped; stream go on behind the front" in line for line in kept.notes)


def test_a_front_of_all_blocks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"method\.blocks=2: the network has 2 blocks; leave it out"):
        tailed("gpt2", 2, tmp_path, model("gpt2", 0), model("gpt2", 1))
