"""RegMean and RegMean++: worked numbers, least squares, what counts as an input, storing, and the order of blocks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from classifiers import Deep, Kept, Points, Softmax, Toy, double, golden_inputs, golden_result
from independent_statistics import least_squares
from independent_statistics import regmean as reference
from torch import Tensor, nn

from fusing import fuse
from fusionbench.config import MethodConfig
from fusionbench.errors import ConfigError, IncompatibleModels, MissingPart
from fusionbench.families import family_named, load_module
from fusionbench.merge import Pool, plan_of
from fusionbench.methods._statistics import InputGrams, collect_all, report_missing, upper_gram
from fusionbench.methods.regmean import collect_grams, regmean
from fusionbench.methods.regmean_plusplus import regmean_plusplus
from fusionbench.run.whole import save_artefact
from fusionbench.weights.plan import Site
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import TensorSource
from tiny_clip import cache, clip_folder

__all__ = ["cache", "clip_folder"]


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("grams", "weights", "off_diagonal", "expected"),
    [
        (([[2, 0], [0, 1]], [[1, 0], [0, 2]]), ((1, 1), (4, 4)), 1.0, (2, 3)),
        (([[2, 1], [1, 2]], [[1, 0], [0, 2]]), ((1, 1), (4, 4)), 1.0, (1.545455, 2.363636)),
        (([[2, 1], [1, 2]], [[1, 0], [0, 2]]), ((1, 1), (4, 4)), 0.5, (1.765957, 2.404255)),
        (([[3, 1], [1, 3]], [[3, 1], [1, 3]]), ((1, 5), (3, 1)), 0.9, (2, 3)),
        (([[1, 0], [0, 0]], [[1, 0], [0, 0]]), ((1, 1), (3, 5)), 1.0, (2, 3)),
    ],
)
@pytest.mark.parametrize("ridge", [0.0, 1e-9])
def test_the_worked_examples(grams: Any, weights: Any, off_diagonal: float, expected: Any, ridge: float) -> None:
    """The last has an input that is always 0: there the mean stays."""
    stats = [torch.tensor(gram, dtype=torch.float32) for gram in grams]
    experts = [torch.tensor([pair], dtype=torch.float32) for pair in weights]
    merged = regmean(experts, stats=stats, off_diagonal=off_diagonal, ridge=ridge)
    np.testing.assert_allclose(merged[0], expected, rtol=1e-6)


@pytest.mark.parametrize("transposed", [False, True])
def test_without_ridge_and_factor_it_is_the_least_squares_solution(transposed: bool) -> None:
    inputs = [drawn(1, 40, 5), drawn(2, 25, 5) * torch.tensor([3.0, 1, 0.2, 1, 1])]
    experts = [drawn(3, 4, 5), drawn(4, 4, 5)]
    stats = [x.T @ x / len(x) for x in inputs]
    given = [expert.T if transposed else expert for expert in experts]
    site = Site("h.0.c_fc.weight", tuple(given[0].shape), 0, "matrix", not transposed, "", 0, 1, ("a", "b"), 0)
    merged = regmean(given, stats=stats, off_diagonal=1.0, ridge=0.0, site=site)
    expected = least_squares([double(e) for e in experts], [double(x) for x in inputs])
    np.testing.assert_allclose(merged.T if transposed else merged, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("off_diagonal", [0.0, 0.6, 1.0])
def test_the_printed_formula_is_met_for_any_factor(off_diagonal: float) -> None:
    inputs, experts = [drawn(5, 30, 4), drawn(6, 30, 4)], [drawn(7, 3, 4), drawn(8, 3, 4)]
    stats = [x.T @ x for x in inputs]
    merged = regmean(experts, stats=stats, off_diagonal=off_diagonal, ridge=0.0)
    expected = reference([double(e) for e in experts], [double(g) for g in stats], off_diagonal)
    np.testing.assert_allclose(merged, expected, rtol=1e-4, atol=1e-5)


def test_a_large_ridge_gives_the_mean_and_weights_move_it() -> None:
    experts, stats = [drawn(7, 3, 4), drawn(8, 3, 4)], [torch.eye(4), torch.eye(4)]
    torch.testing.assert_close(regmean(experts, stats=stats, ridge=1e9), (experts[0] + experts[1]) / 2)
    for given in (stats, None):
        torch.testing.assert_close(
            regmean(experts, stats=given, weights=[1.0, 3.0]), experts[0] / 4 + 3 * experts[1] / 4
        )


def test_fewer_inputs_than_dimensions_leave_the_mean_where_nothing_was_seen() -> None:
    """One input a task: in the two directions that they span the experts' outputs are met, elsewhere the mean stays."""
    first, second = torch.tensor([1.0, 1, 0, 0]), torch.tensor([0.0, 0, 1, -1])
    experts = [drawn(9, 2, 4), drawn(10, 2, 4)]
    merged = regmean(experts, stats=[first.outer(first), second.outer(second)], off_diagonal=1.0, ridge=0.0)
    mean = (experts[0] + experts[1]) / 2
    for direction, expected in ((first, experts[0]), (second, experts[1])):
        torch.testing.assert_close(merged @ direction, expected @ direction)
    for unseen in (torch.tensor([1.0, -1, 0, 0]), torch.tensor([0.0, 0, 1, 1])):
        torch.testing.assert_close(merged @ unseen, mean @ unseen)


def test_what_cannot_be_is_refused() -> None:
    experts = [drawn(7, 3, 4), drawn(8, 3, 4)]
    with pytest.raises(IncompatibleModels, match="expected 4 × 4"):
        regmean(experts, stats=[torch.eye(3), torch.eye(3)])
    with pytest.raises(ConfigError, match="at least 0"):
        regmean(experts, weights=[-1.0, 2.0])


@pytest.mark.parametrize("block", [2, 3, 8])
def test_the_upper_half_of_a_gram_matrix_is_whole(block: int) -> None:
    rows = drawn(1, 6, 7)
    torch.testing.assert_close(upper_gram(rows, block).triu(), (rows.T @ rows).triu())


def deep(seed: int) -> Deep:
    torch.manual_seed(seed)
    model = Deep()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7)
    return model


def test_grams_are_those_of_the_tokens_that_count_in_batches_of_any_size(tmp_path: Path) -> None:
    tokens, mask = drawn(1, 5, 4, 3), torch.arange(4) < torch.tensor([[4], [2], [1], [3], [4]])
    task = Points("own", Toy(Deep), {"points": tokens, "mask": mask})
    context = Kept(tmp_path).context(task.family)
    counted = tokens[mask]
    for batch in (1, 2, 5):
        found = collect_grams(task, deep(0), context, examples=5, batch=batch)
        torch.testing.assert_close(found["first.weight"], counted.T @ counted / len(counted))
    assert set(found) == {"first.weight", "blocks.0.linear.weight", "blocks.1.linear.weight"}
    assert task.asked == [False] * 3
    fewer = collect_grams(task, deep(0), context, examples=2, batch=2)["first.weight"]
    torch.testing.assert_close(fewer, tokens[:2][mask[:2]].T @ tokens[:2][mask[:2]] / 6)


def test_maps_of_one_input_share_the_products_and_no_hook_is_left_behind(clip_folder: Path, cache: Path) -> None:
    family = family_named("clip")
    module = load_module(family, open_source(clip_folder))
    grams = InputGrams(module, family)
    images = {"pixel_values": drawn(1, 2, 3, 32, 32)}
    seen: dict[str, Tensor] = {}
    sites = {site.name: site.module for site in family.linears(module)}  # type: ignore[attr-defined]
    handles = [
        site.register_forward_pre_hook(lambda _, given, n=name: seen.update({n: given[0]}))
        for name, site in sites.items()
    ]
    grams.watch(lambda: family.features(module, images))
    for handle in handles:
        handle.remove()
    assert len(sites) == 12
    for name, given in seen.items():
        rows = given.reshape(-1, given.shape[-1])
        torch.testing.assert_close(grams.means()[f"{name}.weight"], rows.T @ rows / 34)
    with pytest.raises(ZeroDivisionError):
        grams.watch(lambda: 1 / 0)
    assert not any(site._forward_pre_hooks for site in sites.values())


def test_a_family_without_linear_maps_is_refused(tmp_path: Path) -> None:
    class Bare:
        name = "bare"

    task = Points("own", Toy(Softmax), {"points": drawn(1, 2, 3)})
    for call in (
        lambda context: collect_grams(task, Softmax(), context),
        lambda context: regmean_plusplus(Pool(None, {}), {}, context),
    ):
        with pytest.raises(MissingPart, match="linear maps"):
            call(Kept(tmp_path).context(Bare()))


def pool_of(*models: nn.Module) -> Pool:
    sources = {f"e{i}": TensorSource(f"e{i}", m.state_dict(), {"model_type": "toy"}) for i, m in enumerate(models)}
    return Pool(None, sources, tasks={name: name for name in sources})


def test_what_has_no_gram_is_named_in_the_report(tmp_path: Path) -> None:
    kept, pool = Kept(tmp_path), pool_of(deep(0), deep(1))
    tasks = {name: Points(name, Toy(Deep), {"points": drawn(1, 4, 3)}) for name in pool.experts}
    context = kept.context(Toy(Deep))
    collect_all(pool, tasks, context, collect_grams, method="regmean", values={"examples": 4, "split": "train"})
    sources = {name: open_source(tmp_path / "statistics" / name) for name in pool.experts}
    report_missing(Pool(None, pool.experts, statistics=sources), context)
    (note,) = kept.notes
    assert note.startswith("3 of 10 tensors have statistics")
    assert note.endswith("unused.weight")


def test_stored_statistics_are_held_against_method_and_model(tmp_path: Path) -> None:
    pool = pool_of(deep(0), deep(1))
    for name, source in pool.experts.items():
        text = {"method": "regmean", "model": source.fingerprint()}
        save_artefact(tmp_path / "good", name, {"first.weight": torch.eye(3)}, text)
        save_artefact(tmp_path / "other", name, {"first.weight": torch.eye(3)}, {**text, "model": "sha256:0"})
        save_artefact(tmp_path / "fisher", name, {"first.weight": torch.eye(3)}, {**text, "method": "fisher"})

    def plan(folder: str) -> Any:
        return plan_of(pool, MethodConfig.read({"name": "regmean", "statistics": str(tmp_path / folder)}))

    assert {step.output.name for step in plan("good") if step.statistics} == {"first.weight"}
    with pytest.raises(ConfigError, match="collected for the model sha256:0"):
        plan("other")
    with pytest.raises(ConfigError, match="collected for the method fisher"):
        plan("fisher")
    with pytest.raises(Exception, match="has none of the expert 'e0'"):
        plan("nowhere")
    with pytest.raises(ConfigError, match="fusionbench run"):
        plan_of(pool, MethodConfig.read({"name": "regmean"}))


class Step(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(1, 1, bias=False)

    def forward(self, given: Tensor) -> Tensor:
        return self.map(given)


class Steps(nn.Module):
    """x·w₁·w₂, each factor a block."""

    def __init__(self, first: float = 0.0, second: float = 0.0) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Step(), Step()])
        for block, value in zip(self.blocks, (first, second), strict=True):
            nn.init.constant_(block.map.weight, value)

    def forward(self, given: Tensor) -> Tensor:
        for block in self.blocks:
            given = block(given)
        return given


def test_the_worked_example_of_blocks_that_see_what_is_merged_before_them(tmp_path: Path) -> None:
    """x = 1, w₁ = 1, 3 and w₂ = 2, 4: on the experts' own inputs w₂ is (1·2 + 9·4)/10, on the merged ones 3."""
    pool = pool_of(Steps(1.0, 2.0), Steps(3.0, 4.0))
    tasks = {name: Points(name, Toy(Steps), {"points": torch.ones(2, 1)}) for name in pool.experts}
    kept = Kept(tmp_path)
    context = kept.context(Toy(Steps))
    fused = regmean_plusplus(pool, tasks, context, examples=2)
    weights: dict[str, Tensor] = fused.weights  # type: ignore[attr-defined]
    assert {n: t.item() for n, t in weights.items()} == {"blocks.0.map.weight": 2.0, "blocks.1.map.weight": 3.0}
    assert kept.used["adapted"] == {"split": "train", "tasks": ("e0", "e1"), "count": 4}
    grams = [collect_grams(tasks[f"e{i}"], Steps(w, 0.0), context)["blocks.1.map.weight"] for i, w in enumerate((1, 3))]
    merged = regmean([torch.tensor([[2.0]]), torch.tensor([[4.0]])], stats=grams)
    assert merged.item() == pytest.approx(3.8, rel=1e-5)


def test_blocks_are_merged_on_the_outputs_of_merged_blocks_with_all_their_arguments(tmp_path: Path) -> None:
    """The second block's inputs are made here by hand from the averaged and merged parts before it."""
    models = [deep(0), deep(1)]
    pool, points = pool_of(*models), [drawn(1, 9, 3), drawn(2, 9, 3)]
    tasks = {f"e{i}": Points(f"e{i}", Toy(Deep), {"points": p}) for i, p in enumerate(points)}
    kept = Kept(tmp_path)
    fused = regmean_plusplus(pool, tasks, kept.context(Toy(Deep)), examples=9, batch=4, off_diagonal=0.8, ridge=0.0)
    merged: dict[str, Tensor] = fused.weights  # type: ignore[attr-defined]
    states = [model.state_dict() for model in models]
    for name in ("first.weight", "norm.weight", "unused.weight", "blocks.1.linear.bias"):
        torch.testing.assert_close(merged[name], (states[0][name] + states[1][name]) / 2)
    hidden = [p @ merged["first.weight"].T + merged["first.bias"] for p in points]
    for block in ("blocks.0", "blocks.1"):
        name = f"{block}.linear.weight"
        expected = reference([double(s[name]) for s in states], [double(h.T @ h) for h in hidden], 0.8)
        np.testing.assert_allclose(merged[name], expected, rtol=1e-3, atol=1e-4)
        shifts = [p.mean(dim=-1, keepdim=True) for p in points]
        hidden = [
            h + torch.tanh(h @ merged[name].T + merged[f"{block}.linear.bias"]) + s
            for h, s in zip(hidden, shifts, strict=True)
        ]
    assert kept.notes == ["linear maps outside the blocks are averaged: first, unused"]


@pytest.mark.parametrize("factor", [0.95, 0.6])
def test_fusion_bench_computes_the_same_from_the_same_grams(factor: float) -> None:
    models, statistics = golden_inputs("regmean")
    merged = fuse("regmean", None, models, {"off_diagonal": factor, "ridge": 0.0}, statistics=statistics)
    for name, expected in golden_result("regmean", factor).items():
        torch.testing.assert_close(merged[name], expected, rtol=2e-5, atol=2e-5)


def test_the_memory_that_a_merge_needs_counts_the_gram_matrices() -> None:
    """A 1 × 600 map: its Gram matrices, not its weights, decide how much a job holds (7 rows and the blocks)."""
    models = {f"e{i}": {"w": drawn(i, 1, 600)} for i in range(2)}
    statistics = {name: {"w": torch.eye(600)} for name in models}
    with pytest.raises(ConfigError, match="needs at least"):
        fuse("regmean", None, models, run={"memory": 7 * 600 * 600 * 4}, statistics=statistics)
    fuse("regmean", None, models, run={"memory": 2**26}, statistics=statistics)
