"""Tied tensors that are stored twice are merged as one and written under both names."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fusionbench.compat import load_recipe
from fusionbench.errors import IncompatibleModels
from fusionbench.merge import merge
from fusionbench.registry import methods
from fusionbench.weights import aliases
from fusionbench.weights.aliases import written_once
from fusionbench.weights.checks import fit
from fusionbench.weights.engine import run_plan
from fusionbench.weights.plan import Plan, build_plan
from fusionbench.weights.tensors import MemorySink, TensorSource

TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"
TIED = {"model_type": "llama", "tie_word_embeddings": True}


def source(label: str, config: dict[str, object] | None = None, **tensors: Tensor) -> TensorSource:
    return TensorSource(label, {name.replace("__", "."): t.clone() for name, t in tensors.items()}, config or {})


def table(number: float, rows: int = 4) -> Tensor:
    return torch.arange(2.0 * rows).view(rows, 2) + number


def tied(label: str, number: float, config: dict[str, object] | None = None, **other: Tensor) -> TensorSource:
    return source(label, config, shared__weight=table(number), lm_head__weight=table(number), **other)


def test_tables_of_the_same_bytes_in_all_models_are_one() -> None:
    found = fit(tied("base", 0), {"x": tied("x", 1), "y": tied("y", 2)})
    assert found.aliases == {"lm_head.weight": "shared.weight"}
    assert found.scope == ("shared.weight", "lm_head.weight")
    assert found.notes == ("lm_head.weight is shared.weight once more (they are tied): merged as one tensor",)


def test_tables_that_are_apart_in_one_model_are_two() -> None:
    apart = source("y", shared__weight=table(2), lm_head__weight=table(3))
    assert fit(tied("base", 0), {"x": tied("x", 1), "y": apart}).aliases == {}
    late = source("y", shared__weight=table(0), lm_head__weight=table(0) + torch.tensor([[0, 0]] * 3 + [[0, 1]]))
    assert fit(late, {"x": tied("x", 1)}).aliases == {}


def test_a_head_that_the_configuration_says_is_apart_is_so_but_tables_of_one_kind_are_not_heads() -> None:
    untied = {"model_type": "t5", "tie_word_embeddings": False}
    models = [tied(name, n, untied, encoder__embed_tokens__weight=table(n)) for n, name in enumerate(("base", "x"))]
    assert fit(models[0], {"x": models[1]}).aliases == {"encoder.embed_tokens.weight": "shared.weight"}


def test_equal_tables_of_positions_are_two_tables() -> None:
    base = source("base", encoder__embed_positions__weight=table(0), decoder__embed_positions__weight=table(0))
    assert fit(base, {"x": base}).aliases == {}


def test_a_model_that_stores_a_tied_tensor_once_has_it_under_both_names() -> None:
    base = tied("base", 0)
    for own in ("shared.weight", "lm_head.weight"):
        expert = source("x", **{own: table(1)})
        found = fit(base, {"x": expert, "y": tied("y", 2)})
        assert found.names[0] == {"shared.weight": own, "lm_head.weight": own}


def test_a_model_that_lacks_an_untied_head_is_refused() -> None:
    base = source("base", shared__weight=table(0), lm_head__weight=table(5))
    with pytest.raises(IncompatibleModels, match=r"x: has no lm_head\.weight"):
        fit(base, {"x": source("x", shared__weight=table(1))})


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A base, two experts that store the tied table twice, once; and all of it stored once, in `once`."""
    for place, both in (("twice", (True, True, False)), ("once", (False, False, False))):
        for number, (name, doubled) in enumerate(zip(("base", "x", "y"), both, strict=True)):
            random = torch.Generator().manual_seed(number)
            tensors = {TABLE: torch.randn(6, 4, generator=random), "model.w": torch.randn(5, 4, generator=random)}
            folder = tmp_path / place / name
            folder.mkdir(parents=True)
            save_file({**tensors, **({HEAD: tensors[TABLE].clone()} if doubled else {})}, folder / "model.safetensors")
            (folder / "config.json").write_text(json.dumps(TIED))
    return tmp_path


@pytest.mark.parametrize("method", ["ties", "dare", "task_arithmetic", "tsv_m", "simple_average"])
def test_a_merge_is_that_of_models_which_store_it_once_and_has_it_where_the_base_has(method: str, models: Path) -> None:
    made = {}
    for place in ("twice", "once"):
        folder = models / place
        given = [f"base={folder / 'base'}", *(f"experts.{name}={folder / name}" for name in "xy")]
        read, _ = load_recipe(None, [*given, f"method={method}", "runtime.threads=1"])
        done = merge(read, models / f"{method}-{place}")
        made[place] = load_file(done.folder / "model.safetensors")
        assert done.parameters == (68 if place == "twice" else 44)
    assert torch.equal(made["twice"].pop(HEAD), made["twice"][TABLE])
    assert made["twice"].keys() == made["once"].keys()
    assert all(torch.equal(tensor, made["once"][name]) for name, tensor in made["twice"].items())


def test_layers_are_stacked_with_the_tied_table_under_both_names(models: Path) -> None:
    for name in ("base", "x"):
        file = models / "twice" / name / "model.safetensors"
        tensors = load_file(file)
        save_file({**tensors, "model.layers.0.w": tensors["model.w"].clone()}, file)
    slices = "[{sources: [{expert: x, layers: [0, 1]}]}, {sources: [{expert: b, layers: [0, 1]}]}]"
    given = [f"experts.x={models / 'twice' / 'x'}", f"experts.b={models / 'twice' / 'base'}", "method=passthrough"]
    merge(load_recipe(None, [*given, f"slices={slices}"])[0], models / "out")
    made, first = (
        load_file(models / "out" / "model.safetensors"),
        load_file(models / "twice" / "x" / "model.safetensors"),
    )
    assert torch.equal(made[HEAD], first[TABLE])
    assert torch.equal(made[TABLE], first[TABLE])


def plan_of_tied() -> Plan:
    base, expert = tied("base", 0), tied("x", 1)
    experts = {"x": expert}
    return build_plan(base, experts, fit(base, experts), method="m", parameters=(), values={})


def test_only_what_is_finished_under_all_its_names_is_finished() -> None:
    plan = plan_of_tied()
    sink = MemorySink([step.output for step in plan])
    assert written_once(plan, sink, {"shared.weight"})[2] == frozenset()
    once, _, finished = written_once(plan, sink, {"shared.weight", "lm_head.weight"})
    assert finished == {"shared.weight", "lm_head.weight"}
    assert [step.output.name for step in once] == ["shared.weight"]


def test_a_name_that_is_finished_is_not_written_again() -> None:
    written: list[str] = []

    class Sink:
        def write(self, name: str, content: memoryview, start: int = 0) -> None:
            written.append(f"{name} {len(content)} {start}")

    _, both, _ = written_once(plan_of_tied(), Sink(), {"lm_head.weight"})
    both.write("shared.weight", memoryview(b"1234"), 2)
    both.write("other", memoryview(b"1"))
    assert written == ["shared.weight 4 2", "other 1 0"]


def test_a_plan_without_tied_tensors_is_left_as_it_is() -> None:
    base = source("base", w=table(0))
    plan = build_plan(base, {"x": base}, fit(base, {"x": base}), method="m", parameters=(), values={})
    sink = MemorySink([])
    assert written_once(plan, sink, ["w"]) == (plan, sink, frozenset({"w"}))


def test_tables_that_differ_late_are_two_whatever_is_read_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aliases, "GLIMPSE", 2)
    late = source("y", shared__weight=table(0), lm_head__weight=table(0) + torch.tensor([[0, 0]] * 3 + [[0, 1]]))
    assert fit(late, {"x": tied("x", 1)}).aliases == {}
    assert fit(tied("base", 0), {"x": tied("x", 1)}).aliases == {"lm_head.weight": "shared.weight"}
    # A glimpse is for `inspect`, which answers from headers.
    assert fit(late, {"x": tied("x", 1)}, glimpse=True).aliases == {"lm_head.weight": "shared.weight"}


def test_a_second_name_with_parameters_of_its_own_is_merged_by_itself() -> None:
    base, experts = tied("base", 0), {"x": tied("x", 1)}
    values = {"weights": 1.0, "scale": [{"filter": "lm_head", "value": 0.0}, {"value": 0.5}]}
    entry = methods["task_arithmetic"]
    plan = build_plan(
        base, experts, fit(base, experts), method="task_arithmetic", parameters=entry.parameters, values=values
    )
    assert plan.aliases == {}
    assert not [note for note in plan.notes if "merged as one" in note]
    sink = MemorySink([step.output for step in plan])
    run_plan(plan, entry, sink, values=values)
    assert torch.equal(sink.weights["shared.weight"], table(0.5))
    assert torch.equal(sink.weights["lm_head.weight"], table(0))
