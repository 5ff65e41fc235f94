"""DOGE-TA: a common correction of all task vectors that lowers their conflict outside of the subspace they share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fusionbench.kernels.selection import Keep, Thresholds, kept, thresholds, tiles_of
from fusionbench.methods._method import merge_method
from fusionbench.methods._quantiles import one_for_all
from fusionbench.methods._rows import whole
from fusionbench.methods._sparsify import largest
from fusionbench.methods._spectral import adam, factors, is_matrix, oriented, rounding
from fusionbench.parameters import Count, Density, PerExpert, Positive, StepCount, per_expert
from fusionbench.registry import Workspace
from fusionbench.weights.plan import Site

Chunks = Iterator[tuple[Site, Tensor, Sequence[Tensor]]]


def prepare_doge(read: Callable[[], Chunks], at: Mapping[str, Mapping[str, Any]], *, keep: Keep) -> Thresholds | None:
    """Find the cuts of the task vectors, each over all its matrices.

    Raises:
        ConfigError: where the density differs from tensor to tensor.
    """
    one_for_all(at, "density")

    def matrices() -> Chunks:
        for site, base, experts in read():
            if is_matrix(base, site, embeddings=at[site.name]["embeddings"]):
                yield site, base, experts

    return thresholds(tiles_of(matrices), at, scope="model", keep=keep)


@merge_method(
    "doge_ta",
    paper="arXiv:2501.01230",
    kind="stream",
    category="merge",
    version=1,
    unit="tensor",
    prepare=prepare_doge,
    workspace=Workspace(fixed=16, each=3.3),
    laws=("identity", "order"),
    exempt={
        "scale_zero": "eta takes its place, and is positive",
        "shift": "deltas are rounded differently when all inputs move, which can change which entries are kept",
        "single": "a single task vector is scaled and trimmed too",
    },
    compat={"paper": {}, "fusion_bench": {"keep": "official"}},
)
def doge_ta(
    base: Tensor, experts: Sequence[Tensor], *, eta: Positive = 0.07, density: PerExpert[Density] = 0.3,
    subspace: Count = 6, steps: StepCount = 400, learning_rate: Positive = 1e-4, keep: Keep = "exact",
    embeddings: bool = False, site: Site | None = None, prepared: Thresholds | None = None,
) -> Tensor:  # fmt: skip
    """Return θ₀ + Σᵢ λᵢ·(τᵢ + δ)⊙mᵢ with λᵢ = η/‖τᵢ‖ and a common δ (arXiv:2501.01230).

    δ starts at 0 and lowers Σⱼ ‖rowsum(τⱼ⊙(τⱼ − Σᵢ λᵢ(τᵢ + δ)))‖² by Adam, each gradient projected out of the shared
    subspace: the first ⌊r/s⌋ left singular vectors of the tasks' joined leading ⌊r/N⌋ ones, r = min(m, n). mᵢ keeps an
    expert's largest entries of all its matrices. Tensors that are no matrices keep the base.

    Args:
        base: the pretrained tensor, of any shape.
        experts: the same tensor from each fine-tuned model.
        eta: η; every task matrix enters with this norm. 0.07.
        density: share of the entries of each expert's matrices that is kept, in (0, 1]; 0.3.
        subspace: s; 1 closes all shared directions to δ, more than r opens all. 6.
        steps: of Adam; 0 leaves δ at 0. 400.
        learning_rate: of Adam. The loss goes with the fourth power of the task vectors, the step length does not.
        keep: `exact` keeps ⌊density·size⌋ entries, `official` one more and all its ties.
        embeddings: treat embedding tables and output heads as matrices too, not only linear layers.
        site: where the tensor stands, and which axis holds the outputs; without it every two-dimensional tensor is a
            matrix, `(outputs, inputs)`.
        prepared: the cuts of the whole model; of this tensor alone where they are missing.

    Others: fusion_bench takes tensors with "encoder" and "weight" but no "layer_norm" in their names, and keeps
    singular vectors of value 0 in the shared subspace, which are arbitrary.
    """
    if not is_matrix(base, site, embeddings=embeddings):
        return base.clone()
    deltas = [expert - base for expert in experts]
    masks = _masks(deltas, per_expert(density, len(experts)), keep, site, prepared)
    stacked = torch.stack([oriented(delta, site) for delta in deltas]).double()
    del deltas
    norms = torch.linalg.matrix_norm(stacked)
    scales = torch.where(norms > 0, eta / torch.where(norms > 0, norms, 1.0), 0.0)
    shift = _shift(stacked, scales, _shared(stacked, rounding(base), subspace), steps, learning_rate)
    moved = (scale * (matrix + shift) for scale, matrix in zip(scales, stacked, strict=True))
    merged = sum(oriented(m, site) * mask for m, mask in zip(moved, masks, strict=True))
    return base + torch.as_tensor(merged).to(base.dtype)


def _shared(deltas: Tensor, limit: float, subspace: int) -> Tensor:
    """Return an orthonormal basis of the shared subspace in columns, `(m, ⌊r/s⌋)`; zero where there are fewer."""
    size = min(deltas.shape[1:])
    joined = [factors(delta, limit, size // len(deltas)).left for delta in deltas]
    together = torch.cat(joined, dim=1)
    if together.shape[1] == 0:
        return together
    return factors(together, limit, min(size // subspace, *together.shape)).left


def _shift(deltas: Tensor, scales: Tensor, basis: Tensor, steps: int, rate: float) -> Tensor:
    """Return δ `(m, n)` for task matrices `(N, m, n)`."""
    weight = scales.sum()
    mixed = (scales[:, None, None] * deltas).sum(0)
    rests = (deltas - mixed).mul_(deltas).sum(2).T.float()
    rows = deltas.transpose(0, 1).to(torch.float32, memory_format=torch.contiguous_format)

    def gradient(shift: Tensor) -> Tensor:
        errors = rests - (rows @ shift[:, :, None])[:, :, 0] * weight.float()
        # Adam would walk along what rounding leaves in the subspace: the projection, and it alone, is in float64.
        slope = (errors[:, None, :] @ rows)[:, 0, :].double() * (-2 * weight)
        return (slope - basis @ (basis.T @ slope)).float()

    return adam(gradient, mixed.float(), steps, rate).double()


def _masks(
    deltas: Sequence[Tensor], shares: Sequence[float], keep: Keep, site: Site | None, prepared: Thresholds | None
) -> list[Tensor]:
    """Return which entries each expert keeps."""
    if prepared is None or site is None:
        counts = [kept(share, delta.numel(), keep) for delta, share in zip(deltas, shares, strict=True)]
        return [largest(whole(d), count).view(d.shape) for d, count in zip(deltas, counts, strict=True)]
    masks = []
    for delta, cut, quota in zip(deltas, *prepared.at((site.name, site.start)), strict=True):
        patterns = delta.float().abs().contiguous().view(torch.int32).flatten()
        tied = patterns == int(cut)
        masks.append(((patterns > int(cut)) | (tied & (tied.cumsum(0) <= int(quota)))).view(delta.shape))
    return masks
