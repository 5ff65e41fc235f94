"""Throughput of evaluation and fine-tuning on the mini suites, against bare PyTorch loops with the same batches.

Run on an idle machine: python benchmarks/throughput.py [--suites clip t5 …] [--threads 2] [--rounds 5] [--out NAME].
The bare loops call the Hugging Face module and torch on batches in memory: for evaluation a forward pass with head or
`generate`, for fine-tuning loss, backward and fused AdamW. Ours are `evaluate` and the loop of `finetune`, which also
read, collate, check, count and keep a curve. Both are timed in turns, the best round counts. With --cpu it
is the process's time that is compared, for a machine on which others work. The goal is 0.85.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from record import write_record
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from fusionbench.families import Batch, family_for, load_module
from fusionbench.finetune.recipe import FinetuneRecipe
from fusionbench.finetune.start import Checkpoint
from fusionbench.finetune.tune import train
from fusionbench.mixing import FusedModule
from fusionbench.suites.load import load_suite
from fusionbench.suites.tasks import open_tasks
from fusionbench.tasks import Task, evaluate
from fusionbench.training import Loop
from fusionbench.weights.sources import open_source

TASKS = {"clip": "mnist", "image": "mnist", "encoder": "inference", "gpt2": "inference", "t5": "inference",
         "causal_lm": "arithmetic", "scene": "segmentation"}  # fmt: skip
EVALUATED = {"scene": 300}
"""Batches of a single reading of large images are cut by their pixels; others take `evaluate`'s 256."""


def logits_of(kind: str, module: nn.Module, head: nn.Module | None, batch: Batch) -> Tensor:
    """Return a classifier's logits, or a dense task's maps, as plain code computes them."""
    if kind == "clip":
        return head(module.get_image_features(pixel_values=batch["pixel_values"]).pooler_output)
    if kind == "image":
        return head(module(pixel_values=batch["pixel_values"]).pooler_output.flatten(1))
    if kind == "scene":
        pixels = batch["pixel_values"]
        return interpolate(
            head(module(pixels).permute(0, 2, 3, 1)), size=pixels.shape[-2:], mode="bilinear", align_corners=False
        )
    inputs = {key: item for key, item in batch.items() if key != "labels"}
    if kind == "encoder":
        return head(module(**inputs).pooler_output)
    hidden = module(**inputs).last_hidden_state
    last = batch["attention_mask"].sum(dim=1) - 1
    return head(hidden[torch.arange(len(hidden)), last])


def bare_loss(kind: str, module: nn.Module, head: nn.Module | None, batch: Batch) -> Tensor:
    labels = batch["labels"]
    if kind == "t5":
        return module(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
    if kind == "causal_lm":
        said = labels.clamp(min=0)
        asked, mask = batch["input_ids"], batch["attention_mask"]
        tokens, real = torch.cat([asked, said], 1), torch.cat([mask, (labels >= 0).long()], 1)
        places = (real.cumsum(-1) - 1).clamp(min=0)
        logits = module(input_ids=tokens, attention_mask=real, position_ids=places, use_cache=False).logits
        return cross_entropy(logits[:, asked.shape[1] - 1 : -1].flatten(0, 1), labels.flatten())
    return cross_entropy(logits_of(kind, module, head, batch), labels, ignore_index=-1 if kind == "scene" else -100)


def bare_answers(kind: str, module: nn.Module, head: nn.Module | None, batch: Batch, task: Any) -> object:
    if kind in ("t5", "causal_lm"):
        asked = {key: batch[key] for key in ("input_ids", "attention_mask")}
        written = module.generate(**asked, max_new_tokens=task.tokens, do_sample=False, pad_token_id=task.codec.pad,
                                  eos_token_id=task.codec.end)  # fmt: skip
        return task.codec.decode(written.tolist())
    return logits_of(kind, module, head, batch).argmax(1)


@dataclass
class Bench:
    """One suite's model and task, and the clock."""

    kind: str
    folder: str
    task: Task
    recipe: FinetuneRecipe
    clock: Callable[[], float]

    def module(self, *, train: bool = False) -> nn.Module:
        source = open_source(self.folder)
        module = load_module(self.task.family, source).float()
        tower = {own for own in self.task.family.names(source.specs).values() if own.startswith(self.task.family.tower)}
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(train and name in tower)
        return module

    def evaluation(self, rounds: int) -> dict[str, float]:
        module, head = self.module().eval(), getattr(self.task, "head", None)
        fused = FusedModule(module, self.task.family)
        batches = list(self.task.batches("test", size=EVALUATED.get(self.kind, 256)))

        def bare() -> None:
            with torch.inference_mode():
                for batch in batches:
                    bare_answers(self.kind, module, head, batch, self.task)

        return self.compared(bare, lambda: evaluate(fused, self.task, "test"), rounds, self.task.size("test"))

    def training(self, rounds: int, steps: int) -> dict[str, float]:
        head = getattr(self.task, "head", None)
        drawn = list(islice(self.task.batches("train", size=self.recipe.batch, seed=0), steps))
        recipe = self.recipe.model_copy(update={"steps": steps, "warmup": 0})
        source = open_source(self.folder)
        ours, plain = Checkpoint(self.folder, source, self.task.family, "full", recipe), self.module(train=True).train()
        optimizer = torch.optim.AdamW(
            [p for p in plain.parameters() if p.requires_grad], 1e-5, weight_decay=0.01, fused=True
        )

        def bare() -> None:
            for batch in drawn:
                bare_loss(self.kind, plain, head, batch).backward()
                optimizer.step()
                optimizer.zero_grad()

        def loop() -> None:
            train(ours, {self.task.name: self.task}, recipe, Loop(), "throughput")

        return self.compared(bare, loop, rounds, steps * self.recipe.batch)

    def compared(
        self, bare: Callable[[], object], ours: Callable[[], object], rounds: int, examples: int
    ) -> dict[str, float]:
        """Return examples a second of both, the best of the rounds after one that does not count."""
        best = {"bare": float("inf"), "ours": float("inf")}
        for number in range(rounds + 1):
            for name, run in (("bare", bare), ("ours", ours)):
                started = self.clock()
                run()
                if number:
                    best[name] = min(best[name], self.clock() - started)
        return {
            "bare": examples / best["bare"],
            "ours": examples / best["ours"],
            "ratio": best["bare"] / best["ours"],
        }


def benches(given: argparse.Namespace) -> Iterator[Bench]:
    for kind in given.suites:
        suite = load_suite(f"mini/{kind}", size=given.size).suite
        base = open_source(str(suite.pool.base))
        task = open_tasks(suite, [TASKS[kind]], base=base)[TASKS[kind]]
        assert task.family.name == family_for(base.config).name
        yield Bench(
            kind, str(suite.pool.base), task, FinetuneRecipe(batch=given.batch, learning_rate=1e-5, weight_decay=0.01),
            time.process_time if given.cpu else time.perf_counter,
        )  # fmt: skip


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--suites", nargs="+", default=list(TASKS), choices=list(TASKS))
    arguments.add_argument("--size", default="small")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--steps", type=int, default=20)
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--cpu", action="store_true")
    arguments.add_argument("--out", default="throughput")
    given = arguments.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(given.threads)
    rows = {}
    for bench in benches(given):
        row = {"evaluation": bench.evaluation(given.rounds), "training": bench.training(given.rounds, given.steps)}
        rows[f"mini/{bench.kind}"] = {"task": bench.task.name, **row}
        for what, numbers in row.items():
            print(f"{bench.kind:10} {what:10} " + "  ".join(f"{key} {value:,.2f}" for key, value in numbers.items()))
    settings = {"size": given.size, "threads": given.threads, "batch": given.batch, "steps": given.steps}
    write_record(
        Path("docs/results") / f"{given.out}.json",
        {"clock": "cpu" if given.cpu else "wall", **settings, "suites": rows},
    )


if __name__ == "__main__":
    main()
