"""RegMean: of each linear map the weight whose outputs are nearest, in least squares, to all experts' on their data."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from fusionbench.errors import IncompatibleModels, MissingPart
from fusionbench.families.base import HasParts, HasTokens
from fusionbench.methods._context import Context
from fusionbench.methods._method import merge_method
from fusionbench.methods._statistics import CollectSplit, InputGrams, drawn, shares_of
from fusionbench.parameters import Count, PerExpert, Range, Share
from fusionbench.registry import Workspace
from fusionbench.tasks import Task
from fusionbench.tasks.base import WritesAnswers
from fusionbench.weights.plan import Site

Ridge = Annotated[float, Range(0)]


def collect_grams(
    task: Task, backbone: nn.Module, context: Context, *, examples: Count = 256, batch: Count = 32,
    split: CollectSplit = "train",
) -> dict[str, Tensor]:  # fmt: skip
    """Return G = Xᵀ·X / tokens, `(in, in)`, by the name of each linear map's weight; padding does not count.

    Where answers are written token by token, inputs are those of every position of the model's own answers.

    Args:
        task: whose inputs are looked at.
        backbone: in eval mode.
        context: of the run.
        examples: how many inputs of each task, in a random order of the seed, without labels.
        batch: inputs that are run together; changes nothing but rounding.
        split: where the inputs come from.

    Raises:
        MissingPart: where the family names no linear maps.
    """
    family = context.family
    if not isinstance(family, HasParts):
        raise MissingPart(family.name, "list of linear maps", ("regmean", "regmean_plusplus"))
    grams = InputGrams(backbone, family)
    predict = task.bind(backbone)
    for read in drawn(task, split, context, examples=examples, batch=batch):
        one = task.written(predict, read) if isinstance(task, WritesAnswers) else read
        mask = family.token_mask(one) if isinstance(family, HasTokens) else None
        grams.watch(lambda given=one: predict(given), mask)  # type: ignore[misc]
    return grams.means()


@merge_method(
    "regmean",
    paper="arXiv:2212.09849",
    kind="stream",
    category="merge",
    version=1,
    parts=("linears",),
    needs=("unlabelled",),
    unit="tensor",
    base="unused",
    collect=collect_grams,
    workspace=Workspace(fixed=17),
    laws=("identity", "order", "shift", "single"),
    exempt={"scale_zero": "there is no scale"},
    compat={
        "paper": {},
        "fusion_bench": {"ridge": 0.0},
    },
)
def regmean(
    experts: Sequence[Tensor], *, off_diagonal: Share = 0.9, ridge: Ridge = 1e-6, weights: PerExpert[float] = 1.0,
    site: Site | None = None, stats: Sequence[Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """Return W̄ + Σ (Wᵢ − W̄)·Ĝᵢ · (Σ Ĝᵢ + ε·I)⁻¹ (arXiv:2212.09849, eq. 2), with Ĝ = α·G + (1 − α)·diag(G).

    With ε = 0 and G of full rank this is the paper's Σ Wᵢ·Ĝᵢ · (Σ Ĝᵢ)⁻¹; in directions that no input takes it is the
    mean W̄, which the paper leaves open. Tensors without a Gram matrix are averaged. Solved in float64.

    Args:
        experts: the same tensor from each fine-tuned model: `(out, in)`, or `(in, out)` in GPT-2's Conv1D.
        off_diagonal: α, the factor on G off its diagonal, in [0, 1]; the paper's is 0.9 (0.1 for T5), fusion_bench's
            tables have 0.6, its release 0.95.
        ridge: ε as a share of the mean of Σ Ĝᵢ's diagonal, at least 0, on the deviation from the mean.
        weights: a factor on each expert's Gram matrix and in the mean, at least 0.
        site: which way the matrix lies; without it `(out, in)`.
        stats: G of each expert, `(in, in)`.

    Raises:
        ConfigError: where a weight is negative or all are 0.
        IncompatibleModels: where a Gram matrix does not have the size of the map's input.

    Others: fusion_bench and the authors count padding as inputs and invert in float32 without a ridge, which fails or
    explodes for inputs that are always 0; the authors' `gram_n_example` counts batches.
    """
    shares = shares_of(weights, len(experts))
    mean = experts[0] + sum(
        (share * (expert - experts[0]) for share, expert in zip(shares, experts, strict=True)),
        torch.zeros_like(experts[0]),
    )
    if stats is None or not mean.numel():
        return mean
    inputs_last = site is None or site.inputs_last
    width = experts[0].shape[-1 if inputs_last else 0]
    if experts[0].ndim != 2 or any(tuple(g.shape) != (width, width) for g in stats):
        raise IncompatibleModels(
            f"{site.name if site else 'The weight'} is {list(experts[0].shape)}, its Gram matrices are "
            f"{[list(g.shape) for g in stats]}; expected {width} × {width}. Collect the statistics anew."
        )
    total = torch.zeros(width, width, dtype=torch.float64, device=mean.device)
    pulled = torch.zeros(width, mean.numel() // width, dtype=torch.float64, device=mean.device)
    for share, expert, statistic in zip(shares, experts, stats, strict=True):
        shrunk = _shrunk(statistic.double(), off_diagonal) * share
        deviation = expert.double() - mean.double()
        total += shrunk
        pulled += shrunk @ (deviation.T if inputs_last else deviation)
    solved = _solve(total, pulled, ridge)
    return (mean.double() + (solved.T if inputs_last else solved)).to(mean.dtype)


def _shrunk(gram: Tensor, off_diagonal: float) -> Tensor:
    return gram * off_diagonal + torch.diag(gram.diagonal() * (1 - off_diagonal))


def _solve(total: Tensor, pulled: Tensor, ridge: float) -> Tensor:
    """Return (total + ε·I)⁻¹·pulled; where that is singular, the shortest solution: nothing moves in its null space."""
    width = len(total)
    identity = torch.eye(width, dtype=total.dtype, device=total.device)
    factor, failed = torch.linalg.cholesky_ex(total + ridge * total.diagonal().mean() * identity)
    reliable = not bool(failed) and bool(factor.diagonal().min() > 1e-7 * factor.diagonal().max())
    if reliable:
        return torch.cholesky_solve(pulled, factor)
    solution: Tensor = torch.linalg.pinv(total, rtol=1e-12, hermitian=True) @ pulled
    return solution
