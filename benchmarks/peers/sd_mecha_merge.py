"""Merge Llama files with sd-mecha, in its own environment: METHOD BASE OUT EXPERT...

It reads one safetensors file a model and writes one, without configurations. Everything is its default (sums in
float32) but the output's bfloat16, for float16, and two threads. Of deltas it makes nothing in files of an architecture
that it does not know: 1.1.8 cannot add one to a model ("'NoneType' object has no attribute 'identifier'").
"""

import sys
from pathlib import Path

import sd_mecha
import torch

method, base, out, *experts = sys.argv[1:]
Path(out).mkdir(parents=True)
models = [sd_mecha.model(f"{folder}/model.safetensors") for folder in experts]
origin = sd_mecha.model(f"{base}/model.safetensors")
recipe = sd_mecha.n_average(*models) if method == "linear" else sd_mecha.slerp(origin, models[0], alpha=0.5)
sd_mecha.merge(recipe, output=f"{out}/model.safetensors", output_dtype=torch.bfloat16, threads=2)
