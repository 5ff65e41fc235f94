"""Write what fusion-bench computes on the golden inputs: ``golden/fusion_bench/<method>.safetensors``.

Run by an interpreter that has fusion-bench 0.2.33 (it is not a dependency of this project):
``python make_fusion_bench_goldens.py``. Cases named ``all_*`` use every entry (statistics and the tied head count as
parameters, as this peer has it), the others only the entries in ``golden_inputs.PLAIN``. Tensors are named
``<case>/<tensor>``, or ``<case>/<expert>/<tensor>`` where there is one result an expert.
"""

# ruff: noqa: T201

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import types
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fusion_bench
import torch
from fusion_bench.method.dare.task_arithmetic import DareTaskArithmetic
from fusion_bench.method.doge_ta.doge_ta import DOGE_TA_Algorithm
from fusion_bench.method.emr_merging.utils import emr_merge
from fusion_bench.method.isotropic_merging.iso import ISO_C_Merge, ISO_CTS_Merge
from fusion_bench.method.knots.knots_utils import subspace_alignment
from fusion_bench.method.linear.expo import ExPOAlgorithm
from fusion_bench.method.magmax.magmax import MagMaxAlgorithm
from fusion_bench.method.model_stock.model_stock import ModelStock
from fusion_bench.method.simple_average import SimpleAverageAlgorithm
from fusion_bench.method.slerp.slerp import SlerpMergeAlgorithm
from fusion_bench.method.tall_mask.task_arithmetic import TallMaskTaskArithmeticAlgorithm
from fusion_bench.method.tall_mask.utils import generate_task_masks
from fusion_bench.method.task_arithmetic import TaskArithmeticAlgorithm
from fusion_bench.method.task_singular_vector.TSVM import TaskSingularVectorMerging
from fusion_bench.method.ties_merging.ties_merging import TiesMergingAlgorithm
from fusion_bench.method.weighted_average.weighted_average import WeightedAverageAlgorithm
from fusion_bench.method.wudi.wudi import WUDIMerging
from fusion_bench.modelpool import BaseModelPool
from fusion_bench.utils import state_dict_to_vector, vector_to_state_dict
from golden_inputs import COUNTER, GOLDEN, PLAIN, read_inputs, save_golden
from golden_modules import module_of
from torch import Tensor, nn

State = dict[str, Tensor]
EXPERTS = ("a", "b", "c")
# A zero delta makes this peer divide 0 by 0 here, so these tensors get a case of their own.
MOVING = tuple(name for name in PLAIN if name != "frozen.weight")
ENCODER = ("linear.weight", "square.weight", "embed.weight")


def states(names: tuple[str, ...] | None, precision: str = "fp32", prefix: str = "") -> dict[str, State]:
    """Read the inputs, restricted to ``names``."""
    return {
        model: {prefix + name: tensor for name, tensor in state.items() if names is None or name in names}
        for model, state in read_inputs(precision).items()
    }


def pool_of(models: dict[str, State], experts: tuple[str, ...] = EXPERTS, base: bool = True) -> BaseModelPool:
    """Make a pool of fresh modules (this peer changes its inputs)."""
    chosen = {"_pretrained_": models["base"]} if base else {}
    chosen |= {name: models[name] for name in experts}
    return BaseModelPool({name: module_of(state) for name, state in chosen.items()})


def result_of(model: nn.Module) -> State:
    """Copy a result's state dict."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}


class Files:
    """Collects cases until they are written."""

    def __init__(self) -> None:
        """Start empty."""
        self.tensors: dict[str, State] = {}
        self.notes: dict[str, dict[str, Any]] = {}

    def add(
        self,
        method: str,
        case: str,
        parameters: dict[str, Any],
        produce: Callable[[], State],
        experts: tuple[str, ...] = EXPERTS,
    ) -> None:
        """Run one case; an exception becomes the case's ``refused`` note."""
        precision = "bf16" if case.startswith("bf16") else "fp32"
        note: dict[str, Any] = {"parameters": parameters, "experts": experts, "inputs": precision}
        note["base"] = method not in ("simple_average", "weighted_average", "slerp")
        self.notes.setdefault(method, {})[case] = note
        self.tensors.setdefault(method, {})
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                result = produce()
        except Exception as error:  # a refusal is a result too
            words = re.sub(r"key '[^']*'", "key ...", str(error))  # which key comes first depends on the hash seed
            note["refused"] = f"{type(error).__name__}: {words}"[:200]
            print("refused", method, case, note["refused"])
            return
        self.tensors[method].update({f"{case}/{name}": tensor.contiguous() for name, tensor in result.items()})

    def write(self, folder: Path) -> None:
        """Write one file a method."""
        folder.mkdir(parents=True, exist_ok=True)
        for method, group in self.tensors.items():
            metadata = {
                "peer": "fusion_bench",
                "version": version("fusion-bench"),
                "torch": version("torch"),
                "cases": json.dumps(self.notes[method], sort_keys=True),
            }
            path = folder / f"{method}.safetensors"
            save_golden(path, group, metadata)
            print(method, len(self.notes[method]), "cases", path.stat().st_size)


def merge(algorithm: Callable[[], Any], models: dict[str, State], **pool: Any) -> Callable[[], State]:
    """Return a thunk: run a fresh algorithm on a fresh pool."""
    return lambda: result_of(algorithm().run(pool_of(models, **pool)))


def seeded(algorithm: Any) -> Any:
    """Seed torch before a random algorithm runs."""
    torch.manual_seed(5)
    return algorithm


def linear(files: Files) -> None:
    """Averages, task arithmetic, ExPO, MagMax, SLERP, Model Stock."""
    everything, plain, low = states(None), states(PLAIN), states(PLAIN, "bf16")
    one, two = ("a",), ("a", "b")
    apart = {model: dict(state) for model, state in everything.items()}
    for model, count in zip(EXPERTS, (101, 103, 104), strict=True):
        apart[model][COUNTER] = torch.tensor(count)
    average = SimpleAverageAlgorithm
    files.add("simple_average", "all_entries", {}, merge(average, everything))
    files.add("simple_average", "all_counters_101_103_104", {}, merge(average, apart))
    files.add("simple_average", "bf16", {}, merge(average, low))
    for normalize in (True, False):
        params: dict[str, Any] = {"weights": [0.5, 0.3, 0.7], "normalize": normalize}
        name = f"normalize_{'on' if normalize else 'off'}"
        files.add("weighted_average", name, params, merge(lambda p=params: WeightedAverageAlgorithm(**p), plain))
    for scale in (0.3, 1.0):
        params = {"scaling_factor": scale}
        files.add(
            "task_arithmetic", f"scale_{scale}", params, merge(lambda p=params: TaskArithmeticAlgorithm(**p), plain)
        )
    params = {"scaling_factor": 0.9}
    files.add("task_arithmetic", "all_scale_0.9", params, merge(lambda: TaskArithmeticAlgorithm(0.9), everything))
    files.add("task_arithmetic", "all_counters_differ", params, merge(lambda: TaskArithmeticAlgorithm(0.9), apart))
    files.add("task_arithmetic", "bf16", {"scaling_factor": 0.3}, merge(lambda: TaskArithmeticAlgorithm(0.3), low))
    params = {"extrapolation_factor": 0.3}
    files.add("expo", "one", params, merge(lambda: ExPOAlgorithm(0.3), plain, experts=one), one)
    files.add("expo", "three", params, merge(lambda: ExPOAlgorithm(0.3), plain))
    for scale in (0.5, 1.0):
        params = {"scaling_factor": scale}
        files.add("magmax", f"scale_{scale}", params, merge(lambda p=params: MagMaxAlgorithm(**p), plain))
    for t in (0.25, 0.5):
        run = merge(lambda t=t: SlerpMergeAlgorithm(t), plain, base=False, experts=two)
        files.add("slerp", f"t_{t}", {"t": t}, run, two)
    for rescale in (True, False):
        dare = {"sparsity_ratio": 0.4, "rescale": rescale, "scaling_factor": 1.0, "only_on_linear_weights": False}
        run = merge(lambda p=dare: seeded(DareTaskArithmetic(**p)), plain, experts=one)
        files.add("dare", f"rescale_{'on' if rescale else 'off'}", dare | {"seed": 5}, run, one)
    files.add("model_stock", "two", {}, merge(ModelStock, plain, experts=two), two)
    files.add("model_stock", "three", {}, merge(ModelStock, plain))
    files.add(
        "model_stock", "ignored", {"ignore_keys": ["linear.bias"]}, merge(lambda: ModelStock(["linear.bias"]), plain)
    )


def ties(files: Files) -> None:
    """TIES over parameters, over everything, in bfloat16."""
    everything, plain, low = states(None), states(PLAIN), states(PLAIN, "bf16")
    for func, scale, keep in (
        ("sum", 0.3, 20),
        ("mean", 1.0, 20),
        ("max", 1.0, 20),
        ("mean", 1.0, 70),
        ("sum", 0.3, 1),
    ):
        params: dict[str, Any] = {"merge_func": func, "scaling_factor": scale, "threshold": keep, "remove_keys": []}
        run = lambda p=params: TiesMergingAlgorithm(**p)  # noqa: E731
        files.add("ties", f"{func}_{keep}", params, merge(run, plain))
        if keep == 20:
            files.add("ties", f"all_{func}_{keep}", params, merge(run, everything))
            files.add("ties", f"bf16_{func}_{keep}", params, merge(run, low))


def spectral(files: Files) -> None:
    """TSV-M, Iso-C, Iso-CTS, WUDI, KnOTS' basis, DOGE-TA."""
    plain, moving = states(PLAIN), states(MOVING)
    for alpha in (1.0, 0.6):
        params: dict[str, Any] = {"alpha": alpha}
        files.add("tsv_m", f"alpha_{alpha}", params, merge(lambda p=params: TaskSingularVectorMerging(**p), plain))
        files.add("iso_c", f"scale_{alpha}", {"scaling_factor": alpha}, merge(lambda a=alpha: ISO_C_Merge(a), plain))
    listed = {"alpha": [0.5, 1.0, 2.0]}
    files.add("tsv_m", "alpha_list", listed, merge(lambda: TaskSingularVectorMerging(**listed), plain))
    for common in (0.5, 0.8):
        params = {"scaling_factor": 1.0, "common_space_fraction": common}
        files.add("iso_cts", f"common_{common}", params, merge(lambda p=params: ISO_CTS_Merge(**p), plain))
    for steps in (300, 400):
        files.add("wudi", f"steps_{steps}", {"iter_num": steps}, merge(lambda s=steps: WUDIMerging(s), moving))
    files.add("wudi", "zero_delta", {"iter_num": 300}, merge(lambda: WUDIMerging(300), plain))
    for name, (origin, *experts) in {n: [m[n] for m in states(ENCODER).values()] for n in ENCODER}.items():
        taus = [expert - origin for expert in experts]
        files.add("knots", name, {"eps": 1e-4}, lambda t=taus: knots_parts(t))
    encoder = states(ENCODER, prefix="encoder.")
    for subspace, keep in ((6, 30), (1, 30), (2, 50), (3, 80)):
        params = {"subspace": subspace, "K": keep, "lamda": 0.07}
        files.add(
            "doge_ta", f"subspace_{subspace}_K_{keep}", params, merge(lambda p=params: DOGE_TA_Algorithm(**p), encoder)
        )


def knots_parts(taus: list[Tensor]) -> State:
    """Basis, singular values, right blocks, and their products with the values, of joined deltas."""
    left, values, blocks = subspace_alignment(taus)
    parts = {"left": left, "values": values}
    return parts | {f"right_{expert}": block.clone() for expert, block in zip(EXPERTS, blocks, strict=True)}


def masks(files: Files) -> None:
    """EMR, TALL masks (helper and algorithm)."""
    for label, names in (("plain", MOVING), ("with_frozen", PLAIN)):
        models = states(names)
        taus = [{n: models[e][n] - models["base"][n] for n in models["base"]} for e in EXPERTS]
        files.add("emr", label, {}, lambda t=taus: emr_parts(t))
    for threshold in (1.0, 0.5):
        params = {"tall_mask_lambda": threshold}
        # This peer's vector_to_state_dict overwrites the tensors of its reference: fresh ones each time.
        files.add("tall_mask", f"helper_{threshold}", params, lambda v=threshold: tall_parts(states(PLAIN), v))
    files.add("tall_mask", "algorithm_0.5", {"tall_mask_lambda": 0.5}, lambda: tall_algorithm(states(PLAIN)))


def emr_parts(taus: list[State]) -> State:
    """Return the unified delta, masks and scales."""
    unified, chosen, scales = emr_merge(taus)
    parts = {f"unified/{name}": tensor for name, tensor in unified.items()} | {"scales": scales}
    for name, group in chosen.items():
        parts |= {f"mask_{expert}/{name}": mask.to(torch.uint8) for expert, mask in zip(EXPERTS, group, strict=True)}
    return parts


def tall_parts(models: dict[str, State], threshold: float) -> State:
    """Masks of the (correct) helper."""
    base = state_dict_to_vector(models["base"])
    experts = torch.stack([state_dict_to_vector(models[expert]) for expert in EXPERTS])
    like = {name: tensor.clone() for name, tensor in models["base"].items()}
    flat = generate_task_masks(experts - base, experts, base, tall_mask_lambda=threshold)
    parts: State = {}
    for expert, mask in zip(EXPERTS, flat, strict=True):
        state = vector_to_state_dict(mask.float(), like)
        parts |= {f"{expert}/{name}": tensor.to(torch.uint8) for name, tensor in state.items()}
    return parts


def tall_algorithm(models: dict[str, State]) -> State:
    """What the (wrong) algorithm gives each task."""
    algorithm = TallMaskTaskArithmeticAlgorithm(tall_mask_lambda=0.5)
    fused = algorithm.run(pool_of(models))["models"]
    return {f"{expert}/{name}": tensor for expert in EXPERTS for name, tensor in result_of(fused[expert]).items()}


def opcm_class() -> Any:
    """Import OPCM past its package's __init__, which needs names that transformers 5 dropped."""
    package = types.ModuleType("fusion_bench.method.opcm")
    package.__path__ = [str(Path(fusion_bench.__file__).parent / "method" / "opcm")]
    sys.modules[package.__name__] = package
    return import_module("fusion_bench.method.opcm.opcm_general").OPCM


def sequential(files: Files) -> None:
    """OPCM in the given order."""
    opcm = opcm_class()
    # OPCM looks at leaf modules only: a parameter of the root would be left at the first expert's value.
    models = states(tuple(name for name in MOVING if name != "scale"))
    for alpha in (0.5, 0.2):
        params = {"alpha": alpha, "shuffle_order": False, "save_on_every_step": False, "evaluate_on_every_step": False}
        files.add("opcm", f"alpha_{alpha}", params, merge(lambda p=params: opcm(**p), models))


def main() -> None:
    """Run every case."""
    torch.set_num_threads(1)
    files = Files()
    for part in (linear, ties, spectral, masks, sequential):
        part(files)
    files.write(GOLDEN / "fusion_bench")


if __name__ == "__main__":
    main()
