"""Entries that are not finite, results that overflow: each is named, and nothing is written."""

import pytest
import torch

from fusing import fuse, plan_for
from fusionbench.errors import ConfigError, NotFinite
from fusionbench.registry import methods
from fusionbench.weights.engine import run_plan
from fusionbench.weights.tensors import MemorySink, TensorSource
from fusionbench.weights.writer import CheckpointWriter

PATHS = {"kernel": "task_arithmetic", "torch": "weighted_average", "compiled": "ties", "direct": "dare"}


def parameters_of(path: str) -> dict[str, object]:
    return {"relative_to_base": True} if path == "torch" else {}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_an_entry_that_is_not_finite_is_named_with_its_model_its_tensor_and_its_place(path, value, kind, small_tiles):
    small_tiles(4, 8)
    base, experts = ({"w": torch.zeros(5, 6, dtype=kind)} for _ in range(2))
    bad = experts["w"].clone()
    bad[3, 2] = value
    with pytest.raises(NotFinite, match=rf"signs: w holds {value} at \[3, 2\]\. Nothing was written"):
        fuse(PATHS[path], base, {"digits": experts, "signs": {"w": bad}}, parameters_of(path))


@pytest.mark.parametrize("path", PATHS)
def test_an_entry_of_the_base_that_is_not_finite_is_named(path):
    base = {"w": torch.tensor([0.0, float("nan")])}
    with pytest.raises(NotFinite, match=r"base: w holds nan at \[1\]"):
        fuse(PATHS[path], base, {"x": {"w": torch.zeros(2)}}, parameters_of(path))


@pytest.mark.parametrize("path", PATHS)
def test_a_single_number_that_is_not_finite_is_named(path):
    with pytest.raises(NotFinite, match=r"x: w holds inf at \[\]"):
        fuse(PATHS[path], {"w": torch.tensor(0.0)}, {"x": {"w": torch.tensor(float("inf"))}}, parameters_of(path))


@pytest.mark.parametrize("path", PATHS)
def test_a_result_that_overflows_is_an_error_that_names_the_tensor(path):
    base, expert = {"w": torch.tensor([-3e38])}, {"w": torch.tensor([3e38])}
    values = {"scale": 3.0} if path != "torch" else {"weights": 3.0, "normalize": False, "relative_to_base": True}
    values |= {"density": 1.0} if path in ("compiled", "direct") else {}
    with pytest.raises(NotFinite, match="result for w"):
        fuse(PATHS[path], base, {"x": expert, "y": expert}, values)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("kind", "large", "over", "under"), [("F16", 65520.0, 1.0, 0.9999), ("BF16", 3.3e38, 1.0302, 1.025)]
)
def test_a_result_that_the_output_cannot_hold_is_an_error_that_names_the_tensor(path, kind, large, over, under):
    base, expert = {"w": torch.zeros(1)}, {"w": torch.tensor([large])}
    factor = "weights" if path == "torch" else "scale"
    whole = {"density": 1.0}
    others = {"torch": {"normalize": False, "relative_to_base": True}, "compiled": whole, "direct": whole}.get(path, {})
    for sign in (1, -1):
        with pytest.raises(NotFinite, match=r"result for w .*output\.dtype"):
            fuse(PATHS[path], base, {"x": expert}, {factor: sign * over, **others}, dtype=kind)
    assert fuse(PATHS[path], base, {"x": expert}, {factor: under, **others}, dtype=kind)["w"].isfinite().all()


def test_a_copied_tensor_that_the_output_cannot_hold_is_an_error_that_names_it():
    base = {"in.w": torch.zeros(1), "out.w": torch.tensor([70000.0])}
    with pytest.raises(NotFinite, match=r"out\.w"):
        fuse("task_arithmetic", base, {"x": base}, tower="in.", dtype="F16")


def test_a_copied_tensor_may_hold_what_it_holds():
    """Masks of attention are full of minus infinity; they are outside what is fused."""
    base = {"in.w": torch.zeros(1), "out.mask": torch.tensor([0.0, float("-inf")])}
    for dtype in ("base", "BF16", "F16", "F64"):
        merged = fuse("task_arithmetic", base, {"x": base}, tower="in.", dtype=dtype)
        assert merged["out.mask"].tolist() == [0.0, float("-inf")]


@pytest.mark.parametrize("threads", [1, 2])
def test_nothing_is_written_where_an_expert_holds_nan(threads, tmp_path, small_tiles):
    small_tiles(4, 8)
    base = {f"t{i}": torch.zeros(20) for i in range(20)}
    bad = {**base, "t19": torch.full((20,), float("nan"))}
    plan = plan_for("task_arithmetic", base, {"x": bad})
    values = {"weights": 1.0, "scale": 1.0}

    def write() -> None:
        with CheckpointWriter(tmp_path / "out", [step.output for step in plan], metadata={}) as writer:
            run_plan(plan, methods["task_arithmetic"], writer, values=values, threads=threads)

    with pytest.raises(NotFinite):
        write()
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_a_thread_stops_the_others(small_tiles):
    small_tiles(4, 8)
    base = {f"t{i:03}": torch.zeros(64) for i in range(200)}
    bad = {**base, "t000": torch.full((64,), float("nan"))}
    done = []
    with pytest.raises(NotFinite):
        fuse("task_arithmetic", base, {"x": bad}, run={"threads": 2, "advance": done.append})
    assert sum(done) < 200 * 64 / 2


@pytest.mark.parametrize(
    ("method", "based", "count", "words"),
    [
        ("slerp", True, 3, r"it got 3 experts and a base\. Name two"),
        ("slerp", False, 1, r"it got 1 expert\. Name two"),
        ("model_stock", True, 1, "needs two experts or more"),
    ],
)
def test_numbers_of_models_that_a_method_has_no_meaning_for_are_refused_before_anything_is_read(
    method, based, count, words, monkeypatch
):
    model = {"w": torch.ones(3)}
    plan = plan_for(method, model if based else None, {f"e{i}": model for i in range(count)})
    read = []
    monkeypatch.setattr(TensorSource, "read", lambda *place: read.append(place))
    with pytest.raises(ConfigError, match=words):
        run_plan(plan, methods[method], MemorySink([]), values={})
    assert read == []
