import itertools
import threading
from itertools import islice

import pytest
import torch
from engines import bits, models

from checkpoints import read_model, save_model
from fusing import fuse, plan_for
from fusionbench.errors import ConfigError
from fusionbench.kernels import prediction, tiles
from fusionbench.parameters import check
from fusionbench.registry import methods
from fusionbench.weights import arrays, engine
from fusionbench.weights.engine import run_plan
from fusionbench.weights.headers import WORDS
from fusionbench.weights.jobs import in_order, total_entries
from fusionbench.weights.tensors import MemorySink
from fusionbench.weights.writer import CheckpointWriter

CASES = {
    "simple_average": ("simple_average", {}),
    "weighted_average": ("weighted_average", {"weights": [0.5, 0.3, 0.7]}),
    "weighted_deltas": ("weighted_average", {"weights": [0.5, 0.3, 0.7], "relative_to_base": True}),
    "task_arithmetic": ("task_arithmetic", {"weights": [1, -1, 0.5]}),
    "ties of the model": ("ties", {"density": 0.29}),
    "ties of each tensor": ("ties", {"density": [0.1, 0.5, 1.0], "scope": "tensor", "combine": "sum"}),
    "ties of what changed": ("ties", {"density": 0.4, "scope": "changed", "combine": "max"}),
    "random ties": ("ties", {"density": 0.3, "trim": "random"}),
    "majority ties": ("ties", {"density": 0.3, "zero_sign": "majority", "keep": "official"}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_result_is_the_same_bits_whatever_the_tiles_the_blocks_and_the_threads(case, dtype, small_tiles):
    method, parameters = CASES[case]
    base, experts = models(dtype=dtype)
    expected = bits(fuse(method, base, experts, parameters))
    for tile, block, threads in ((16, 16, 1), (16, 64, 4), (16, 64, 2), (64, 192, 1), (7, 100, 4), (1000, 3000, 2)):
        small_tiles(tile, block)
        assert bits(fuse(method, base, experts, parameters, run={"threads": threads})) == expected


@pytest.mark.parametrize("case", CASES)
def test_the_result_is_the_same_bits_whatever_the_order_of_the_tensors_in_the_files(case):
    method, parameters = CASES[case]
    base, experts = models()
    expected = bits(fuse(method, base, experts, parameters))
    turned = {name: dict(reversed(state.items())) for name, state in experts.items()}
    assert bits(fuse(method, dict(reversed(base.items())), turned, parameters)) == expected


def test_the_result_is_the_same_bits_whatever_the_shards(tmp_path):
    from fusionbench.weights.checks import fit
    from fusionbench.weights.plan import build_plan
    from fusionbench.weights.sources import open_source

    base, experts = models()
    values = {p.name: p.default for p in methods["ties"].parameters}
    results = []
    for shards in (1, 2, 4):
        origin = open_source(save_model(tmp_path / f"base{shards}", base, shards=shards))
        sources = {n: open_source(save_model(tmp_path / f"{n}{shards}", s, shards=shards)) for n, s in experts.items()}
        entry = methods["ties"]
        plan = build_plan(
            origin, sources, fit(origin, sources), method="ties", parameters=entry.parameters, values=values
        )
        sink = MemorySink([step.output for step in plan])
        run_plan(plan, entry, sink, values=values, threads=2)
        results.append(dict(sorted(bits(sink.weights).items())))
    assert results[0] == results[1] == results[2]
    assert results[0] == dict(sorted(bits(fuse("ties", base, experts)).items()))


@pytest.mark.parametrize("case", CASES)
def test_inputs_are_left_as_they_were(case):
    method, parameters = CASES[case]
    base, experts = models()
    before = bits(base), {name: bits(state) for name, state in experts.items()}
    fuse(method, base, experts, parameters)
    assert (bits(base), {name: bits(state) for name, state in experts.items()}) == before


def test_whole_numbers_and_switches_are_copied_from_the_base():
    base, experts = models()
    merged = fuse("task_arithmetic", base, experts, {"scale": 1.0})
    assert merged["count"].tolist() == [0, 7]
    assert merged["mask"].tolist() == [True, True]


def test_whole_numbers_are_copied_from_the_first_expert_where_there_is_no_base():
    _, experts = models()
    assert fuse("simple_average", None, experts)["count"].tolist() == [1, 7]


@pytest.mark.parametrize("method", ["simple_average", "ties", "task_arithmetic"])
def test_single_numbers_and_tensors_without_entries_go_through(method):
    base, experts = models()
    merged = fuse(method, base, experts)
    assert merged["scale"].shape == ()
    assert merged["none"].shape == (0, 5)


def test_widths_may_be_mixed_and_the_output_has_the_bases():
    kinds = [torch.bfloat16, torch.float16, torch.float32]
    base = {"w": torch.tensor([1.0, -2.0, 0.5], dtype=torch.float16)}
    experts = {str(i): {"w": torch.tensor([2.0, 4.0, -0.5], dtype=kind)} for i, kind in enumerate(kinds)}
    merged = fuse("task_arithmetic", base, experts, {"scale": 0.5})
    assert merged["w"].dtype == torch.float16
    assert merged["w"].tolist() == [1 + 0.5 * 3, -2 + 0.5 * 18, 0.5 - 0.5 * 3]


def test_sums_are_rounded_once():
    """Eight steps of 0.003 from 1.0: each is lost where the sum is kept in bfloat16, together they are three steps."""
    base = {"w": torch.tensor([1.0], dtype=torch.bfloat16)}
    experts = {str(i): {"w": torch.tensor([1.003])} for i in range(8)}
    assert fuse("task_arithmetic", base, experts, {"scale": 1.0})["w"].item() == 1.0234375


@pytest.mark.parametrize("kind", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("stored", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_output_is_of_the_kind_that_is_asked_for_copied_tensors_too(kind, stored):
    base = {"in.w": torch.tensor([1.5], dtype=stored), "out.w": torch.tensor([0.25, -3.0], dtype=stored)}
    merged = fuse("task_arithmetic", base, {"x": base}, tower="in.", dtype=WORDS[kind])
    assert {tensor.dtype for tensor in merged.values()} == {getattr(torch, kind)}
    assert merged["out.w"].tolist() == [0.25, -3.0]


def test_double_precision_is_kept_where_the_base_has_it():
    base = {"w": torch.tensor([1.0], dtype=torch.float64)}
    experts = {"x": {"w": torch.tensor([1 + 2.0**-40], dtype=torch.float64)}}
    assert fuse("task_arithmetic", base, experts, {"scale": 1.0})["w"].item() == 1 + 2.0**-40


def minimum(plan, method: str = "ties", values=None) -> int:
    values = values or {p.name: p.default for p in methods[method].parameters}
    with pytest.raises(ConfigError) as error:
        run_plan(plan, methods[method], MemorySink([]), values=values, memory=1)
    assert "runtime.memory=1 bytes is too small" in str(error.value)
    return int(str(error.value).split()[-1].rstrip(".").replace(",", ""))


DEFAULTS = {p.name: p.default for p in methods["ties"].parameters}


def test_a_memory_budget_that_is_too_small_is_refused_with_the_least_that_would_do():
    base, experts = models()
    plan = plan_for("ties", base, experts)
    least = minimum(plan)
    sink = MemorySink([step.output for step in plan])
    with pytest.raises(ConfigError):
        run_plan(plan, methods["ties"], sink, values=DEFAULTS, memory=least - 1)
    run_plan(plan, methods["ties"], sink, values=DEFAULTS, memory=least)
    assert bits(sink.weights) == bits(fuse("ties", base, experts))


RANKING = {
    "ties": {"scope": "tensor", "density": 0.3},
    "sce": {"select_topk": 0.3},
    "breadcrumbs": {"density": 0.5, "top_drop": 0.1},
}


@pytest.mark.parametrize("method", RANKING)
def test_tensors_that_are_ranked_by_themselves_are_looked_at_tile_by_tile_where_blocks_do_not_fit(
    method, small_tiles, monkeypatch
):
    small_tiles(8, 64)
    sizes = {"a": 3, "b": 8, "c": 16, "d": 23, "e": 64, "f": 200, "g": 5}
    generator = torch.Generator().manual_seed(0)
    # Few values, so that cuts tear ties, in tiles other than the first too.
    base, *others = (
        {name: torch.randint(-3, 4, (size,), generator=generator).float() for name, size in sizes.items()}
        for _ in range(3)
    )
    experts = {str(i): other for i, other in enumerate(others)}
    entry, plan = methods[method], plan_for(method, base, experts, RANKING[method])
    values = check(method, entry.parameters, RANKING[method])
    widths = []
    real = engine.ArrayWorker._tile
    monkeypatch.setattr(
        engine.ArrayWorker,
        "_tile",
        lambda self, step, start, count: (widths.append(count), real(self, step, start, count))[1],
    )
    looked = []
    cut = arrays.batches
    monkeypatch.setattr(arrays, "batches", lambda *how: (looked.append(jobs) or jobs for jobs in cut(*how)))
    found = []
    for memory in (None, minimum(plan, method, values)):
        widths.clear()
        looked.clear()
        sink = MemorySink([step.output for step in plan])
        run_plan(plan, entry, sink, values=values, threads=2, memory=memory)
        found.append((max(widths), bits(sink.weights)))
    (wide, expected), (narrow, within) = found
    assert (wide, narrow) == (64, 8)
    assert within == expected
    # A state holds histograms of each long tensor in it.
    assert all(sum(job.stop - job.start >= 8 for job in jobs) <= 1 for jobs in looked)


def test_what_first_passes_hold_is_in_the_budget():
    base, experts = models()
    one = minimum(plan_for("task_arithmetic", base, experts), "task_arithmetic")
    # Four histograms of 2^16 whole numbers an expert.
    assert minimum(plan_for("ties", base, experts)) == one + 4 * len(experts) * 8 * 2**16


def test_a_budget_without_room_for_a_sample_costs_passes_and_changes_no_bit(monkeypatch, small_tiles):
    base = {"w": torch.zeros(3000)}
    experts = {"x": {"w": torch.linspace(-1, 2, 3000)}}
    small_tiles(64, 256)
    monkeypatch.setattr(prediction, "LEAST", 1)
    monkeypatch.setattr(prediction, "SPAN", 1 << 23)
    plan = plan_for("ties", base, experts)
    room = 2 * prediction.SAMPLE * 4
    found = {}
    for memory in (minimum(plan) + room - 1, minimum(plan) + room):
        sink = MemorySink([step.output for step in plan])
        found[run_plan(plan, methods["ties"], sink, values=DEFAULTS, threads=1, memory=memory)] = sink
    assert [*found] == [3, 2]
    assert bits(found[2].weights) == bits(found[3].weights)


def test_a_memory_budget_bounds_the_threads(monkeypatch, small_tiles):
    small_tiles(8, 8)
    base = {f"t{i}": torch.zeros(64) for i in range(40)}
    plan = plan_for("task_arithmetic", base, {"x": base})
    least = minimum(plan, "task_arithmetic")
    seen: set[int] = set()
    real = engine._run

    def watch(*arguments):
        seen.add(threading.get_ident())
        real(*arguments)

    monkeypatch.setattr(engine, "_run", watch)
    values = {"weights": 1.0, "scale": 1.0}
    sink = MemorySink([step.output for step in plan])
    run_plan(plan, methods["task_arithmetic"], sink, values=values, threads=8, memory=2 * least - 1)
    assert seen == {threading.get_ident()}


def test_a_block_of_torch_takes_more_memory_than_a_tile_of_a_kernel():
    """The kernel holds tiles; a torch function holds whole blocks of every expert."""
    large = {"w": torch.zeros(tiles.BLOCK)}
    kernel = plan_for("weighted_average", large, {"x": large})
    least = []
    for relative in (False, True):
        values = {"weights": 1.0, "normalize": True, "relative_to_base": relative}
        with pytest.raises(ConfigError) as error:
            run_plan(kernel, methods["weighted_average"], MemorySink([]), values=values, memory=1)
        least.append(int(str(error.value).split()[-1].rstrip(".").replace(",", "")))
    assert least[1] >= 2 * tiles.BLOCK * 4 * 2 > least[0] / 2


@pytest.mark.parametrize(
    ("method", "parameters", "passes"),
    [
        ("simple_average", {}, 1),
        ("task_arithmetic", {}, 1),
        ("weighted_average", {"relative_to_base": True}, 1),
        ("ties", {"density": 1.0}, 1),
        ("ties", {"density": 0.3, "scope": "model"}, 4),
        ("ties", {"density": 0.3, "scope": "tensor"}, 2),
        ("ties", {"density": 0.3, "scope": "model", "keep": "official"}, 3),
    ],
)
def test_the_passes_over_the_inputs_are_counted(method, parameters, passes):
    base, experts = models()
    plan = plan_for(method, base, experts, parameters)
    values = {p.name: p.default for p in methods[method].parameters} | parameters
    reads: dict[tuple[str, str], int] = {}
    for source in plan.sources:
        real, size = source.read, source.specs["embed"].size

        def count(name, start=0, stop=None, *, label=source.label, real=real, size=size):
            # A look at some entries is no pass.
            reads[label, name] = reads.get((label, name), 0) + (stop in (None, size))
            return real(name, start, stop)

        source.read = count
    found = run_plan(plan, methods[method], MemorySink([s.output for s in plan]), values=values, threads=1)
    assert found == passes
    assert reads["e1", "embed"] == passes


def test_ties_without_a_tie_at_the_cut_need_no_pass_for_them():
    base = {"w": torch.zeros(1000)}
    experts = {"x": {"w": torch.arange(1.0, 1001.0)}}
    plan = plan_for("ties", base, experts)
    assert run_plan(plan, methods["ties"], MemorySink([s.output for s in plan]), values=DEFAULTS, threads=1) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_guess_of_the_cut_saves_passes_and_changes_no_bit(dtype, small_tiles, monkeypatch):
    drawn = torch.Generator().manual_seed(0)
    names = {"b": (70, 50), "a": (30, 50), "c": (3,)}
    base, *experts = (
        {n: (torch.randn(s, generator=drawn) * 4).round().to(dtype) for n, s in names.items()} for _ in range(3)
    )
    experts = {"x": experts[0], "y": experts[1]}
    small_tiles(64, 256)
    expected = bits(fuse("ties", base, experts, {"density": 0.3}))
    monkeypatch.setattr(arrays, "SHARE", 2)
    for name, value in {"LEAST": 1, "SPAN": 1 << 23}.items():
        monkeypatch.setattr(prediction, name, value)
    plan = plan_for("ties", base, experts, {"density": 0.3})
    for threads in (1, 3):
        sink = MemorySink([step.output for step in plan])
        assert run_plan(plan, methods["ties"], sink, values={**DEFAULTS, "density": 0.3}, threads=threads) == 2
        assert bits(sink.weights) == expected


def test_progress_counts_every_entry_once(small_tiles):
    small_tiles(8, 16)
    base, experts = models()
    for method, threads in itertools.product(("task_arithmetic", "ties"), (1, 2)):
        done: list[int] = []
        fuse(method, base, experts, run={"threads": threads, "advance": done.append})
        assert sum(done) == total_entries(plan_for(method, base, experts)) == sum(t.numel() for t in base.values())


def test_a_method_that_needs_a_base_for_these_parameters_says_so():
    _, experts = models()
    with pytest.raises(ConfigError, match=r"method\.relative_to_base needs a base"):
        fuse("weighted_average", None, experts, {"relative_to_base": True})


@pytest.mark.parametrize("relative", [False, True])
def test_weights_that_cannot_be_normalised_are_an_error(relative):
    base, experts = models(2)
    with pytest.raises(ConfigError, match="sum to 0"):
        fuse("weighted_average", base, experts, {"weights": [1.0, -1.0], "relative_to_base": relative})


def test_a_density_for_each_expert_by_name_is_the_same_as_by_order():
    base, experts = models()
    by_order = fuse("ties", base, experts, {"density": [0.1, 0.5, 0.9]})
    by_name = fuse("ties", base, experts, {"density": {"e3": 0.9, "e1": 0.1, "e2": 0.5}})
    assert bits(by_order) == bits(by_name)
    assert bits(by_order) != bits(fuse("ties", base, experts, {"density": [0.9, 0.5, 0.1]}))


def test_a_density_that_follows_the_tensors_needs_cuts_of_tensors():
    base, experts = models()
    schedule = [{"value": 0.1, "filter": "embed"}, {"value": 0.9}]
    with pytest.raises(ConfigError, match=r"method\.scope=tensor"):
        fuse("ties", base, experts, {"density": schedule})
    merged = fuse("ties", base, experts, {"density": schedule, "scope": "tensor"})
    assert bits({"embed": merged["embed"]}) == bits(
        {"embed": fuse("ties", base, experts, {"density": 0.1, "scope": "tensor"})["embed"]}
    )
    assert bits({"b": merged["b"]}) == bits(
        {"b": fuse("ties", base, experts, {"density": 0.9, "scope": "tensor"})["b"]}
    )


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(threads):
    assert list(in_order(lambda item: item * item, range(50), threads)) == [i * i for i in range(50)]


def test_no_more_is_begun_than_is_soon_needed():
    begun = []

    def work(item: int) -> int:
        begun.append(item)
        return item

    results = in_order(work, range(1000), 2)
    for taken, _ in enumerate(islice(results, 100), start=1):
        assert len(begun) <= taken + 4
    results.close()
    assert len(begun) <= 104


def test_a_model_that_is_written_is_the_model_in_memory(tmp_path):
    base, experts = models(dtype=torch.bfloat16)
    plan = plan_for("ties", base, experts)
    with CheckpointWriter(tmp_path / "out", [s.output for s in plan], metadata={}, shard_bytes=1500) as writer:
        run_plan(plan, methods["ties"], writer, values=DEFAULTS, threads=2)
    assert dict(sorted(bits(read_model(tmp_path / "out")).items())) == dict(
        sorted(bits(fuse("ties", base, experts)).items())
    )
