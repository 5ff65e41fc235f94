"""Time and memory of a step of layer-wise AdaMerging and Concrete task arithmetic, beside fusion-bench and the floor.

All run on the same randomly initialised CLIP ViT-B/32 (the real configuration) with eight experts and batches of 16
images of 224 × 224 made here. The floor is the bare forward and backward pass to all weights for each task. Each figure
is of a process of its own: the median of its steps after the first, and the high-water mark of its resident memory.

    python benchmarks/adaptation.py --fusion-bench ENV/bin/python --record docs/results/adaptation.json
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from measure import measure
from record import write_record

HERE = Path(__file__).parent
OURS: dict[str, dict[str, Any]] = {
    "adamerging": {"method": "adamerging", "batches": 1},
    "adamerging, bfloat16 deltas": {"method": "adamerging", "batches": 1, "deltas": "bfloat16"},
    "adamerging, bfloat16 deltas, 4 at once": {
        "method": "adamerging",
        "batches": 1,
        "deltas": "bfloat16",
        "together": 4,
    },
    "adamerging, deltas on disk": {"method": "adamerging", "batches": 1, "deltas": "disk"},
    "concrete_task_arithmetic": {"method": "concrete_task_arithmetic"},
}
PEER = ("adamerging", "concrete_task_arithmetic")
TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64}
CLASSES = 50


def main() -> None:
    options = _options()
    if options.worker:
        WORKERS[options.worker](options)
        return
    load = os.getloadavg()[0]
    if load > 1 and not options.force:
        sys.exit(f"The machine is busy (load {load:.1f}): figures would mean nothing. Wait, or add --force.")
    make_models(options.folder, options.experts, tiny=options.tiny)
    rows = []
    for tasks in map(int, options.tasks.split(",")):
        for label, command in _commands(options, tasks):
            if label in options.skip.split(";") or (options.only and label not in options.only.split(";")):
                continue
            row = {"what": label, "tasks": tasks, **_figures(command)}
            rows.append(row)
            shown = (
                row["failed"]
                if "failed" in row
                else f"{row['step']:8.3f} s a step, {row['cpu']:8.3f} s of CPU  {row['resident']:7.0f} MB"
            )
            print(f"{tasks} tasks  {label:42} {shown}", flush=True)
    if options.record:
        found = {"experts": options.experts, "batch": options.batch, "load": load, "tiny": options.tiny, "rows": rows}
        write_record(options.record, found)


def _figures(command: list[str]) -> dict[str, Any]:
    """Return the median step of a process and its peak, or why it failed; one that does must not end the others."""
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log"
        try:
            figures = measure(command, log=log)
        except RuntimeError as error:
            return {"failed": str(error)}
        (said,) = [line for line in log.read_text().splitlines() if line.startswith('{"steps"')]
    wall, cpu = (statistics.median(column) for column in zip(*json.loads(said)["steps"][1:], strict=True))
    return {"step": wall, "cpu": cpu, "resident": figures.resident}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "fusionbench-adaptation")
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--tasks", default="2,8", help="how many tasks, separated by commas")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=4, help="the first is not counted")
    parser.add_argument("--fusion-bench", help="path of the python that has fusion-bench")
    parser.add_argument("--record", type=Path)
    parser.add_argument("--tiny", action="store_true", help="a small model, to see that all runs")
    parser.add_argument("--skip", default="", help="labels that are not measured, separated by semicolons")
    parser.add_argument("--only", default="", help="labels that are measured, separated by semicolons; else all")
    parser.add_argument("--force", action="store_true", help="measure on a busy machine")
    parser.add_argument("--worker", choices=("floor", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--settings", type=json.loads, default={}, help=argparse.SUPPRESS)
    return parser.parse_args()


def _commands(options: argparse.Namespace, tasks: int) -> Iterator[tuple[str, list[str]]]:
    common = ["--folder", str(options.folder), "--tasks", str(tasks), "--batch", str(options.batch)]
    common += ["--steps", str(options.steps), "--experts", str(options.experts)]
    ours = [sys.executable, str(HERE / "adaptation.py"), *common]
    yield "floor", [*ours, "--worker", "floor"]
    for label, settings in OURS.items():
        yield f"fusionbench {label}", [*ours, "--worker", "ours", "--settings", json.dumps(settings)]
    if options.fusion_bench:
        for method in PEER:
            script = str(HERE / "peers" / "fusion_bench_adaptation.py")
            yield f"fusion-bench {method}", [options.fusion_bench, script, method, *common]


def make_models(folder: Path, experts: int, *, tiny: bool) -> None:
    """Write a base `CLIPModel` and so many image towers near it; those that are there are kept."""
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPVisionModel

    wanted = {"experts": experts, "tiny": tiny}
    mark = folder / "made.json"
    if mark.is_file() and json.loads(mark.read_text()) == wanted:
        return
    torch.manual_seed(0)
    vision = TINY if tiny else {}
    base = CLIPModel(
        CLIPConfig(vision_config=vision, text_config=_small_text() if tiny else {}, projection_dim=64 if tiny else 512)
    )
    base.save_pretrained(folder / "base")
    tower = CLIPVisionModel(base.config.vision_config)
    start = {name: tensor.clone() for name, tensor in base.vision_model.state_dict().items()}
    inside = tower.state_dict().keys()
    prefix = "" if next(iter(start)) in inside else "vision_model."
    for number in range(experts):
        near = {
            f"{prefix}{n}": t + 0.01 * torch.randn(t.shape) if t.is_floating_point() else t for n, t in start.items()
        }
        tower.load_state_dict(near)
        tower.save_pretrained(folder / f"expert{number}")
    mark.write_text(json.dumps(wanted))


def _small_text() -> dict[str, int]:
    return {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 64,
    }


def images(count: int, size: int, batch: int) -> Iterator[Any]:
    """Yield batches of images for ever, the same few."""
    import torch

    generator = torch.Generator().manual_seed(count)
    kept = [torch.randn(batch, 3, size, size, generator=generator) for _ in range(2)]
    while True:
        yield from kept


def head(number: int, width: int) -> Any:
    """Return the frozen head of a task: directions of its classes, `(classes, width)`."""
    import torch

    generator = torch.Generator().manual_seed(1000 + number)
    return torch.nn.functional.normalize(torch.randn(CLASSES, width, generator=generator), dim=-1)


def floor(options: argparse.Namespace) -> None:
    """Time forward and backward passes to all weights of one image tower."""
    import torch
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained(options.folder / "base").eval()
    tower, projection = model.vision_model, model.visual_projection
    model.text_model = None
    projection.requires_grad_(False)
    size, width = model.config.vision_config.image_size, model.config.projection_dim
    tasks = [(images(n, size, options.batch), head(n, width)) for n in range(int(options.tasks))]
    marks = [now()]
    for _ in range(options.steps):
        tower.zero_grad()
        for batches, directions in tasks:
            features = projection(tower(pixel_values=next(batches)).pooler_output)
            entropy(100 * torch.nn.functional.normalize(features, dim=-1) @ directions.T).backward()
        marks.append(now())
    say(marks)


def now() -> tuple[float, float]:
    """Return the clock and the CPU time of this process, all its threads together, in seconds."""
    return time.perf_counter(), time.process_time()


def say(marks: list[tuple[float, float]]) -> None:
    """Print what each step took, of clock and of CPU."""
    steps = [[b - a for a, b in zip(sooner, later, strict=True)] for sooner, later in itertools.pairwise(marks)]
    print(json.dumps({"steps": steps}))


def entropy(logits: Any) -> Any:
    """Return the mean entropy of predictions."""
    logs = logits.log_softmax(dim=-1)
    return -(logs.exp() * logs).sum(dim=-1).mean()


def ours(options: argparse.Namespace) -> None:
    """Time the steps of one of our methods, as its loop reports them."""
    import torch

    from fusionbench.families import family_named
    from fusionbench.methods._context import Context
    from fusionbench.registry import methods
    from fusionbench.suites.opening import open_models
    from fusionbench.training import Loop

    folder = options.folder
    models = {"base": folder / "base", **{f"e{n}": folder / f"expert{n}" for n in range(options.experts)}}
    pool = open_models(models)
    family = family_named("clip")
    config = pool.reference.config
    size, width = config["vision_config"].get("image_size", 224), config["projection_dim"]
    tasks = {f"e{n}": RandomTask(f"e{n}", n, family, size, width) for n in range(int(options.tasks))}
    marks: list[tuple[float, float]] = []

    def progress(*_: object) -> None:
        marks.append(now())

    context = Context(
        seed=0, device=torch.device("cpu"), memory=None, family=family, loop=Loop(progress=progress),
        save=lambda *_: None, load=lambda _: None, evaluate=lambda _: {}, used=lambda *_, **__: None,
        note=lambda _: None,
    )  # fmt: skip
    settings = dict(options.settings)
    method = methods[settings.pop("method")].load()
    method(pool, tasks, context, steps=options.steps + 1, batch=options.batch, **settings)
    # The loop reports after each step, so that the differences are whole steps, batches and optimizer included.
    say(marks)


class RandomTask:
    """A task of random images with a random frozen head."""

    version = 1
    metrics = ()

    def __init__(self, name: str, number: int, family: Any, size: int, width: int) -> None:
        self.name, self.family = name, family
        self._number, self._size, self._head = number, size, head(number, width)

    def batches(self, *_: str, size: int, **__: Any) -> Iterator[Mapping[str, Any]]:
        for batch in images(self._number, self._size, min(size, 16)):
            yield {"pixel_values": batch}

    def bind(self, backbone: Any) -> Any:
        from torch.nn.functional import normalize

        return lambda batch: 100 * normalize(self.family.features(backbone, batch), dim=-1) @ self._head.T

    def objective(self, predict: Any, batch: Mapping[str, Any]) -> Any:
        return entropy(predict(batch))


WORKERS = {"floor": floor, "ours": ours}

if __name__ == "__main__":
    main()
