"""AdaMerging and Concrete subspaces against steps of fusion-bench 0.2.33 on the same models, inputs and draws."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_inputs import GOLDEN
from safetensors.torch import load_file
from torch import Tensor, nn
from toys import Kept, Sides, Toy

from fusionbench.config import MethodConfig
from fusionbench.merge import Pool
from fusionbench.registry import methods
from fusionbench.weights.tensors import TensorSource

FOUND = load_file(GOLDEN / "fusion_bench_adaptation.safetensors")
POINTS = FOUND["points"]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 5, bias=False)
        self.last = nn.Linear(5, 4, bias=False)

    def forward(self, points: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(points)))


class Given(Sides):
    """A task whose batches are those that the peer was given."""

    def batches(self, split: str, *, size: int, start: int = 0, **_: Any) -> Iterator[dict[str, Any]]:
        for number in range(start // size, len(POINTS)):
            yield {"points": POINTS[number, self.seed]}


def part(prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in FOUND.items() if n.startswith(prefix)}


def fuse(folder: Path, method: str, **parameters: Any) -> dict[str, Tensor]:
    """Fuse with `compat=fusion_bench`, and return what the last checkpoint holds."""
    family = Toy(Net)
    sources = {name: TensorSource(name, part(f"{name}/"), {"model_type": "toy"}) for name in ("base", "e0", "e1")}
    pool = Pool(sources.pop("base"), sources, tasks={"e0": "e0", "e1": "e1"})
    tasks = {name: Given(name, family, number) for number, name in enumerate(sources)}
    config = MethodConfig.read(
        {"name": method, "compat": "fusion_bench", "checkpoint_every": 1, "batch": 6} | parameters
    )
    methods[method].load()(pool, tasks, Kept(folder).context(family), **config.params)
    phase = "adamerging" if method == "adamerging" else "concrete"
    content: dict[str, Any] = torch.load(folder / "training" / phase / "checkpoint.pt", weights_only=True)
    return content["tensors"] | content["extra"]


def serve(monkeypatch: pytest.MonkeyPatch, uniforms: Tensor) -> None:
    """Let the masks draw what the peer's drew, then anything."""
    left, plain = iter(uniforms), torch.rand

    def rand(*shape: Any, out: Tensor | None = None, **options: Any) -> Tensor:
        drawn = next(left, None)
        return out.copy_(drawn) if out is not None and drawn is not None else plain(*shape, out=out, **options)

    monkeypatch.setattr(torch, "rand", rand)


@pytest.mark.parametrize("granularity", ["task", "layer"])
def test_adamerging_takes_the_peers_steps(tmp_path: Path, granularity: str) -> None:
    found = fuse(tmp_path, "adamerging", granularity=granularity, steps=4, batches=1, learning_rate=0.01)
    expected = FOUND[f"adamerging/{granularity == 'layer'}"].view(2, -1)
    torch.testing.assert_close(found["coefficients"], expected, atol=1e-5, rtol=0)
    assert float((expected - 0.3).abs().min()) > 1e-3


@pytest.mark.parametrize("granularity", ["task", "layer"])
def test_concrete_adamerging_takes_the_peers_bilevel_steps(
    tmp_path: Path, granularity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = part(f"concrete/{granularity == 'layer'}/")
    serve(monkeypatch, golden["uniforms"])
    found = fuse(
        tmp_path, "concrete_adamerging", granularity=granularity, mask_steps=4, steps=1, inner_rate=0.1,
        learning_rate=0.05,
    )  # fmt: skip
    torch.testing.assert_close(found["inner"], golden["inner"].view(2, -1), atol=1e-4, rtol=0)
    for name in ("first.weight", "last.weight"):
        torch.testing.assert_close(found[name], golden[f"logits/{name}"].flatten(), atol=1e-4, rtol=0)
        assert float(found[name].abs().mean()) > 0.02


def test_concrete_task_arithmetic_takes_the_peers_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = part("arithmetic/")
    serve(monkeypatch, golden["uniforms"])
    found = fuse(tmp_path, "concrete_task_arithmetic", steps=4, learning_rate=0.05)
    for name in ("first.weight", "last.weight"):
        torch.testing.assert_close(found[name], golden[f"logits/{name}"].flatten(), atol=1e-4, rtol=0)
        assert float(found[name].abs().mean()) > 0.02


def test_plain_descent_from_a_fresh_point_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = part("concrete/True/")
    for change in ({"merge_point": "fresh"}, {"inner": "sgd"}):
        serve(monkeypatch, golden["uniforms"])
        found = fuse(
            tmp_path / next(iter(change)), "concrete_adamerging", mask_steps=4, steps=1, inner_rate=0.1,
            learning_rate=0.05, **change,
        )  # fmt: skip
        differs = (found["first.weight"] - golden["logits/first.weight"].flatten()).abs().max()
        assert float(differs) > 2e-3
