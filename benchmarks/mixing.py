"""Time and memory of a forward pass of mixtures on a model of the size of CLIP ViT-B/32, beside fusion-bench's.

Base, merged model, WEMoE (each sample's weights, or the batch's mean) and SMILE are built of the same randomly
initialised image tower and eight experts, each in a process of its own that waits; then both sides are timed in turn,
round by round, on the same batch of images of 224 × 224. A figure is the median of the rounds. Peak memory is the
high-water mark of resident memory during the passes, building not counted. Singular vectors of random weights mean
nothing and take minutes, so that both sides are given random ones; a pass takes the same time whatever they are.

    python benchmarks/mixing.py --fusion-bench ENV/bin/python --record docs/results/mixing.json
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adaptation import images, make_models
from record import write_record

HERE = Path(__file__).parent
VARIANTS = ("base", "merged", "wemoe per sample", "wemoe per batch", "smile")
AIM = 0.5
"""Share of fusion-bench's time that a mixture's pass should take at most."""
SIZES = {"gate_k": 16, "k": 128}


def main() -> None:
    options = arguments(__doc__)
    if options.variant:
        serve(options, BUILDERS[options.variant])
        return
    load = os.getloadavg()[0]
    if load > 1 and not options.force:
        sys.exit(f"The machine is busy (load {load:.1f}): figures would mean nothing. Wait, or add --force.")
    make_models(options.folder, options.experts, tiny=options.tiny)
    sides = {"fusionbench": (sys.executable, HERE / "mixing.py")}
    if options.fusion_bench:
        sides["fusion-bench"] = (options.fusion_bench, HERE / "peers" / "fusion_bench_mixing.py")
    rounds = {}
    for name in VARIANTS:
        rounds |= {(side, name): found for side, found in _rounds(sides, options, name).items()}
    rows = [{"side": side, "what": name, **_median(found)} for (side, name), found in rounds.items()]
    _print(rows)
    if options.record:
        values = {key: getattr(options, key) for key in ("experts", "batch", "threads", "rounds", "tiny")}
        write_record(options.record, {**values, "load": load, "rows": rows})


def _rounds(sides: Mapping[str, Any], options: argparse.Namespace, variant: str) -> dict[str, list[dict[str, float]]]:
    """Return each side's figures of one kind of model, the sides timed in turn; no more is in memory at a time."""
    workers = {}
    for side, (python, script) in sides.items():
        workers[side] = _start(python, script, options, variant)
        _line(workers[side])
    found: dict[str, list[dict[str, float]]] = {side: [] for side in workers}
    for _ in range(options.rounds):
        for side, worker in workers.items():
            print("go", file=worker.stdin, flush=True)
            found[side].append(json.loads(_line(worker)))
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    return found


def arguments(doc: str | None) -> argparse.Namespace:
    """Return the options, of the driver and of a worker alike."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "fusionbench-adaptation")
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fusion-bench", help="path of the python that has fusion-bench")
    parser.add_argument("--record", type=Path)
    parser.add_argument("--tiny", action="store_true", help="a small model, to see that all runs")
    parser.add_argument("--force", action="store_true", help="measure on a busy machine")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def _start(python: str, script: Path, options: argparse.Namespace, variant: str) -> Any:
    command = [python, str(script), "--folder", str(options.folder), "--variant", variant]
    for name in ("experts", "batch", "threads"):
        command += [f"--{name}", str(getattr(options, name))]
    command += ["--tiny"] if options.tiny else []
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _line(worker: Any) -> str:
    """Return the next line that a worker says for us; peers print besides."""
    for line in worker.stdout:
        if line.startswith("{"):
            return str(line)
    raise RuntimeError(f"{' '.join(map(str, worker.args))} ended with {worker.wait()}.")


def serve(options: argparse.Namespace, build: Callable[[argparse.Namespace], Callable[[Any], Any]]) -> None:
    """Build a model, say so, and time a pass for every line that comes in; a first pass is not counted."""
    import torch

    torch.set_num_threads(options.threads)
    forward = build(options)
    config = json.loads((options.folder / "base" / "config.json").read_text())
    batch = next(images(0, config["vision_config"].get("image_size", 224), options.batch))
    with torch.inference_mode():
        forward(batch)
        print(json.dumps({"ready": True}), flush=True)
        for _ in sys.stdin:
            # The kernel's high-water mark starts anew.
            Path("/proc/self/clear_refs").write_text("5")
            wall, cpu = time.perf_counter(), time.process_time()
            forward(batch)
            found = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "peak": _peak()}
            print(json.dumps(found), flush=True)


def _peak() -> float:
    """Return the high-water mark of resident memory in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM"))


def random_directions(seed: int = 0) -> None:
    """Let `torch.linalg.svd` return random factors of the right shapes from now on."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def factors(matrix: Any, full_matrices: bool = True, **_: Any) -> tuple[Any, Any, Any]:
        rows, columns = matrix.shape
        rank = min(rows, columns)
        left = torch.randn(rows, rows if full_matrices else rank, generator=generator) / rank**0.5
        right = torch.randn(columns if full_matrices else rank, columns, generator=generator) / rank**0.5
        return left, torch.ones(rank) * 0.01, right

    torch.linalg.svd = factors  # type: ignore[assignment]


def _pool(options: argparse.Namespace) -> Any:
    from fusionbench.suites.opening import open_models

    folder = options.folder
    return open_models({"base": folder / "base", **{f"e{n}": folder / f"expert{n}" for n in range(options.experts)}})


def _ours(fused: Any) -> Callable[[Any], Any]:
    from fusionbench.families import family_named

    family, module = family_named("clip"), fused.module
    return lambda batch: family.features(module, {"pixel_values": batch})


def _base(options: argparse.Namespace) -> Callable[[Any], Any]:
    from fusionbench.mixing.build import fused_weights
    from fusionbench.weights.tensors import LazyWeights

    pool = _pool(options)
    return _ours(fused_weights(LazyWeights(pool.base), pool))


def _merged(options: argparse.Namespace) -> Callable[[Any], Any]:
    from fusionbench import fuse

    return _ours(fuse("task_arithmetic", _pool(options), scale=0.3))


def _wemoe(route: str) -> Callable[[argparse.Namespace], Callable[[Any], Any]]:
    def build(options: argparse.Namespace) -> Callable[[Any], Any]:
        from types import SimpleNamespace

        import torch

        from fusionbench.families import family_named
        from fusionbench.methods._routing import build_routed_model

        context: Any = SimpleNamespace(family=family_named("clip"), seed=0, device=torch.device("cpu"))
        values = {"depth": 2, "init": 0.3, "route": route}
        return _ours(build_routed_model(_pool(options), context, "wemoe", values))

    return build


def _smile(options: argparse.Namespace) -> Callable[[Any], Any]:
    from fusionbench.mixing.assemble import in_memory
    from fusionbench.registry import methods

    random_directions()
    values = {"top_k": 1, "gate": "delta", "others": "base", **smile_sizes(options)}
    return _ours(in_memory(_pool(options), methods["smile"], values))


def smile_sizes(options: argparse.Namespace) -> dict[str, int]:
    """Return the published sizes of SMILE on CLIP, or small ones."""
    return {"gate_k": 2, "k": 8} if options.tiny else SIZES


def _median(found: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(one[key] for one in found) for key in found[0]}


def _print(rows: list[dict[str, Any]]) -> None:
    """Print each figure, with its share of fusion-bench's and of the same side's base."""
    by: Mapping[tuple[str, str], dict[str, Any]] = {(row["side"], row["what"]): row for row in rows}
    for row in rows:
        own = row["seconds"] / by[row["side"], "base"]["seconds"]
        line = (
            f"{row['side']:13}{row['what']:18}{row['seconds']:8.3f} s {row['cpu']:8.3f} s of CPU {row['peak']:8.0f} MB"
        )
        line += f"  {own:5.2f} × base"
        peer = by.get(("fusion-bench", row["what"]))
        if peer is not None and row["side"] == "fusionbench":
            share = row["seconds"] / peer["seconds"]
            row["share"], row["memory share"] = share, row["peak"] / peer["peak"]
            aim = f", aim {AIM}" if row["what"] not in ("base", "merged") else ""
            line += f"  {share:5.2f} of fusion-bench's time{aim}, {row['memory share']:.2f} of its memory"
        print(line, flush=True)


BUILDERS: Mapping[str, Callable[[argparse.Namespace], Callable[[Any], Any]]] = {
    "base": _base,
    "merged": _merged,
    "wemoe per sample": _wemoe("sample"),
    "wemoe per batch": _wemoe("batch"),
    "smile": _smile,
}

if __name__ == "__main__":
    main()
