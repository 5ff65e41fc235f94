"""EMR-Merging: elect a unified task vector, mask it for each task, rescale it."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from fusionbench.merge import Pool
from fusionbench.methods._context import Context
from fusionbench.methods._masked import MaskedModels, Masks, own_statistics, pack, plan_for, read_merged
from fusionbench.methods._method import merge_method
from fusionbench.methods._sums import absolute_sum
from fusionbench.mixing import Fused
from fusionbench.tasks import Task

Norm = Literal["global", "tensor_mean"]
ZeroSign = Literal["zero", "negative"]


def elected(deltas: Sequence[Tensor], zero_sign: ZeroSign = "zero") -> Tensor:
    """Return τ_uni = γ⊙max{|τᵢ| : sgn τᵢ = γ} with γ = sgn Στᵢ (arXiv:2405.17461, Eq. 3).

    Args:
        deltas: τᵢ, one an expert, of any shape.
        zero_sign: what an exactly cancelled sum elects: nothing, or the largest negative entry as the authors' code.
    """
    total = deltas[0]
    for delta in deltas[1:]:
        total = total + delta
    sign = total.sign()
    if zero_sign == "negative":
        sign = torch.where(sign == 0, -1.0, sign)
    largest = torch.zeros_like(total)
    for delta in deltas:
        largest = torch.maximum(largest, torch.where(delta.sign() == sign, delta.abs(), 0.0))
    return sign * largest


@merge_method(
    "emr",
    paper="arXiv:2405.17461",
    kind="whole",
    category="merge",
    version=1,
    compat={
        "official": {"norm": "tensor_mean", "zero_sign": "negative"},
        "fusion_bench": {"norm": "tensor_mean", "zero_sign": "negative"},
    },
)
def emr(
    pool: Pool, tasks: Mapping[str, Task], context: Context, *, norm: Norm = "global", zero_sign: ZeroSign = "zero"
) -> Fused:  # fmt: skip
    """Return one model a task, θ₀ + λₜ·Mₜ⊙τ_uni: shared weights, a bit mask and a factor each (arXiv:2405.17461).

    Mₜ = 1[τₜ⊙τ_uni > 0] and λₜ = ‖τₜ‖₁ / ‖Mₜ⊙τ_uni‖₁. No data is looked at.

    Args:
        pool: base and experts; a task's model is that of the expert which was trained on it.
        tasks: not looked at.
        context: of the run.
        norm: how λₜ compares lengths: over all entries at once, as the paper, or by sums of each tensor's mean, so that
            a bias counts as much as a matrix, as the authors' code by name.
        zero_sign: what the sign of an exactly cancelled sum is.

    Others: the authors' code for flat vectors is the paper's formula; their code by name, and fusion_bench's, take
    `norm=tensor_mean` and `zero_sign=negative`.
    """
    plan = plan_for(pool, "emr", {"norm": norm, "zero_sign": zero_sign}, context.seed)
    unified: dict[str, Tensor] = {}
    bits: dict[str, dict[str, Tensor]] = {name: {} for name in pool.experts}
    lengths = {name: [0.0, 0.0] for name in pool.experts}
    for step, base, experts in read_merged(plan):
        name = step.output.name
        deltas = [expert - base for expert in experts]
        unified[name] = vector = elected(deltas, zero_sign)
        # A tied tensor that the files store twice has its length once.
        share = 0.0 if name in plan.aliases else 1 / max(base.numel(), 1) if norm == "tensor_mean" else 1.0
        for expert, delta in zip(pool.experts, deltas, strict=True):
            mask = delta * vector > 0
            bits[expert][name] = pack(mask)
            lengths[expert][0] += share * float(absolute_sum(delta))
            lengths[expert][1] += share * float(absolute_sum(mask * vector))
    scales = {name: own / masked if masked else 0.0 for name, (own, masked) in lengths.items()}
    masks = Masks(unified, bits, scales, own_statistics(plan, list(pool.experts)))
    context.note(
        f"storage beside the base: {masks.bytes:,} bytes; factors "
        + ", ".join(f"{name} {scale:.4f}" for name, scale in scales.items())
    )
    return MaskedModels(masks, pool, context.family, method="emr", device=context.device)
