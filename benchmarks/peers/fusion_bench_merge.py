"""Merge Llama folders with fusion-bench, in its own environment: METHOD BASE OUT EXPERT...

Models are loaded in bfloat16, as they are stored; for methods that decompose matrices in float32, since torch has no
SVD of bfloat16 on the CPU.
"""

import sys

import torch
from fusion_bench.method import SimpleAverageAlgorithm, TaskArithmeticAlgorithm, TiesMergingAlgorithm
from fusion_bench.method.isotropic_merging.iso import ISO_C_Merge
from fusion_bench.method.task_singular_vector import TaskSingularVectorMerging
from fusion_bench.modelpool import BaseModelPool
from transformers import AutoModelForCausalLM

ALGORITHMS = {
    "linear": lambda: SimpleAverageAlgorithm(),
    "task_arithmetic": lambda: TaskArithmeticAlgorithm(scaling_factor=0.3),
    "ties": lambda: TiesMergingAlgorithm(scaling_factor=0.3, threshold=20, remove_keys=[], merge_func="sum"),
    "tsv_m": lambda: TaskSingularVectorMerging(),
    "iso_c": lambda: ISO_C_Merge(scaling_factor=1.0),
}

method, base, out, *experts = sys.argv[1:]
torch.set_num_threads(2)
dtype = torch.float32 if method in ("tsv_m", "iso_c") else torch.bfloat16
load = lambda folder: AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)  # noqa: E731
models = {f"e{i}": load(folder) for i, folder in enumerate(experts)}
if method != "linear":
    models = {"_pretrained_": load(base), **models}
ALGORITHMS[method]().run(BaseModelPool(models)).save_pretrained(out)
