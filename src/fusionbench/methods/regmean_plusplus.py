"""RegMean++: RegMean block by block, on the inputs that the blocks before it make once they are merged."""

from collections.abc import Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from fusionbench.config import MethodConfig
from fusionbench.errors import MissingPart
from fusionbench.families.base import Batch, Family, HasParts, HasTokens
from fusionbench.merge import Pool, plan_of
from fusionbench.methods._context import Context
from fusionbench.methods._method import merge_method
from fusionbench.methods._statistics import CollectSplit, InputGrams, SharedModule, drawn, own_task
from fusionbench.methods.regmean import Ridge, regmean
from fusionbench.mixing import Fused, FusedWeights
from fusionbench.parameters import Count, Share
from fusionbench.registry import methods
from fusionbench.tasks import Task
from fusionbench.tasks.base import WritesAnswers
from fusionbench.weights.engine import run_plan
from fusionbench.weights.plan import Plan
from fusionbench.weights.tensors import MemorySink


class _Reached(Exception):
    """The block in question has run; what comes after it does not matter."""


@merge_method(
    "regmean_plusplus",
    paper="arXiv:2508.03121",
    kind="whole",
    category="merge",
    version=1,
    base="unused",
    parts=("linears", "blocks"),
    needs=("unlabelled",),
    compat={"paper": {}, "fusion_bench": {"ridge": 0.0}},
)
def regmean_plusplus(
    pool: Pool, tasks: Mapping[str, Task], context: Context, *, off_diagonal: Share = 0.95, ridge: Ridge = 1e-6,
    examples: Count = 256, batch: Count = 32, split: CollectSplit = "train",
) -> Fused:  # fmt: skip
    """Return RegMean's merge with Gram matrices of inputs that the merged blocks before made (arXiv:2508.03121, §4).

    All tensors begin as the experts' average. Then, block by block, each expert's block runs on its task's inputs as
    merged blocks before it pass them on, and its linear maps are merged by RegMean. Other maps stay averaged.

    Args:
        pool: experts, each with its task; a base is not needed.
        tasks: those that experts were trained on; their inputs are read without labels.
        context: of the run.
        off_diagonal: α, the factor on Gram matrices off their diagonal; the paper's is 0.95.
        ridge: as in `regmean`.
        examples: how many inputs of each task; the paper's is 256.
        batch: inputs that are run together; changes nothing but rounding.
        split: where the inputs come from.

    Raises:
        MissingPart: where the family names no blocks or linear maps.
        ConfigError: where an expert's task is not known.
        MissingData: where a task lacks the split, before anything long.

    Others: fusion_bench leaves what stands outside the blocks pretrained, and calls blocks without attention mask and
    position information; here the whole module runs up to the block, so every architecture has its own.
    """
    family = context.family
    if not isinstance(family, HasParts):
        raise MissingPart(family.name, "list of blocks and linear maps", ("regmean_plusplus",))
    tasks = {expert: own_task(pool, tasks, expert) for expert in pool.experts}
    count = sum(min(examples, task.size(split)) for task in tasks.values())
    shared = SharedModule(pool, family, context.device)
    plan = plan_of(pool, MethodConfig.read({"name": "simple_average"}))
    merged = _average(plan)
    draw = partial(drawn, split=split, context=context, examples=examples, batch=batch)
    written = {expert: _written(shared, expert, task, draw(task)) for expert, task in tasks.items()}
    shared.put({name: merged[name] for name in shared.inside})
    blocks = family.blocks(shared.module)
    for done, block in enumerate(blocks):
        if context.loop.progress is not None:
            context.loop.progress("merging by regmean_plusplus", done, len(blocks))
        grams = {}
        for expert, task in tasks.items():
            shared.load(expert, f"{block}.")
            grams[expert] = _grams_of_block(shared.module, family, task, block, written[expert] or draw(task))
        for name, tensor in _merge_block(shared, plan, grams, off_diagonal, ridge).items():
            merged[name] = tensor.to(merged[name].dtype).cpu()
        shared.put({name: merged[name] for name, own in shared.inside.items() if own.startswith(f"{block}.")})
    _report(shared, family, blocks, context)
    context.used("adapted", split=split, tasks=tuple(dict.fromkeys(t.name for t in tasks.values())), count=count)
    return FusedWeights({name: merged[name] for name in shared.inside}, family, pool.reference)


def _written(shared: SharedModule, expert: str, task: Task, data: Iterable[Batch]) -> list[Batch]:
    """Return inputs with the expert's own answers, where these are written token by token; else nothing."""
    if not isinstance(task, WritesAnswers):
        return []
    shared.load(expert)
    predict = task.bind(shared.module)
    return [task.written(predict, one) for one in data]


def _average(plan: Plan) -> dict[str, Tensor]:
    sink = MemorySink([step.output for step in plan])
    run_plan(plan, methods["simple_average"], sink, values={}, threads=1)
    return sink.weights


def _grams_of_block(
    module: nn.Module, family: Family, task: Task, block: str, data: Iterable[Batch]
) -> dict[str, Tensor]:
    """Return the Gram matrices of one block's linear maps on a task's inputs, by module name of their weights."""
    grams = InputGrams(module, family, f"{block}.")
    predict = task.bind(module)

    def stop(*_: object) -> None:
        raise _Reached

    handle = module.get_submodule(block).register_forward_hook(stop)
    try:
        for one in data:
            mask = family.token_mask(one) if isinstance(family, HasTokens) else None
            try:
                grams.watch(lambda given=one: predict(given), mask)  # type: ignore[misc]
            except _Reached:
                continue
    finally:
        handle.remove()
    return grams.means()


def _merge_block(
    shared: SharedModule, plan: Plan, grams: Mapping[str, Mapping[str, Tensor]], off_diagonal: float, ridge: float,
) -> dict[str, Tensor]:  # fmt: skip
    """Return the merged weights of the linear maps for which every expert has a Gram matrix, by canonical name."""
    found = {}
    sites = {step.output.name: step.site for step in plan}
    for name in shared.names:
        inside = shared.inside[name]
        if all(inside in known for known in grams.values()):
            tensors = [shared.read(expert, name) for expert in grams]
            stats = [known[inside] for known in grams.values()]
            with torch.no_grad():
                found[name] = regmean(tensors, off_diagonal=off_diagonal, ridge=ridge, site=sites[name], stats=stats)
    return found


def _report(shared: SharedModule, family: HasParts, blocks: list[str], context: Context) -> None:
    """Note the linear maps outside all blocks, which are averaged."""
    outside = [s.name for s in family.linears(shared.module) if not any(s.name.startswith(f"{b}.") for b in blocks)]
    if outside:
        context.note(f"linear maps outside the blocks are averaged: {', '.join(outside)}")
