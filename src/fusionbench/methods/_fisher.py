"""The diagonal of the Fisher information of a model on a task, in four estimates of which only one is exact."""

import logging
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from fusionbench.errors import NotAdaptable
from fusionbench.families import Batch
from fusionbench.methods._context import Context
from fusionbench.methods._statistics import CollectSplit, drawn
from fusionbench.parameters import Count
from fusionbench.tasks import Task

logger = logging.getLogger(__name__)
Estimator = Literal["exact", "sampled", "empirical", "mergelm"]
Squares = Mapping[str, Tensor]
CHUNK_BYTES = 1 << 28
"""What the gradients of the examples that are differentiated together may take."""
LARGE = 1 << 20
"""Parameters from which one example fills the processor, and differentiating many together only costs memory."""


def collect_fisher(
    task: Task, backbone: nn.Module, context: Context, *, estimator: Estimator = "exact", examples: Count = 256,
    batch: Count = 32, shuffle: bool = True, split: CollectSplit = "train",
) -> dict[str, Tensor]:  # fmt: skip
    """Return the diagonal Fisher information of the parameters that ask for gradients, by name, each of its shape.

    Args:
        task: whose inputs are looked at, and whose head gives p(y|x).
        backbone: in eval mode.
        context: of the run.
        estimator: `exact` is Σ_x Σ_y p(y|x)·(∂log p(y|x)/∂θ)² / n, one backward pass an example and class; `sampled`
            draws one y an example from p (the paper for many classes); `empirical` takes the label's y; `mergelm`, as
            fusion_bench has it, squares the gradient of Σ_x Σ_y √p·log p of a whole batch.
        examples: how many inputs of each task.
        batch: inputs that are read together; part of what `mergelm` computes, no matter to the others.
        shuffle: read them in a random order of the seed; else the first ones, as fusion_bench 0.2.33 does for CLIP.
        split: where the inputs come from.

    Raises:
        NotAdaptable: where the task gives no distribution and the estimator needs one.
    """
    terms = Terms(task, backbone)
    free = {name: p for name, p in terms.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p) for name, p in free.items()}
    # Drawn at once, so that batches of another size use the same numbers.
    chance = torch.rand(examples, generator=torch.Generator().manual_seed(context.seed)).to(context.device)
    count = 0
    for one in drawn(
        task, split, context, examples=examples, batch=batch, shuffle=shuffle, labels=estimator == "empirical"
    ):
        size = _size(one)
        if estimator == "mergelm":
            squares = _square_of_batch(terms, free, one)
        else:
            squares = _sum_of_squares(terms, free, one, estimator, chance[count : count + size])
        for name, square in squares.items():
            total[name] += square
        count += size
    return {name.removeprefix("backbone."): value / count for name, value in total.items()}


class Terms(nn.Module):
    """What is differentiated, as a function of the backbone's parameters."""

    def __init__(self, task: Task, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self._task, self._predict = task, task.bind(backbone)

    def forward(self, batch: Batch) -> Tensor:
        """Return log-probabilities, `(examples, classes)`; of a labelled batch the loss, `(1, 1)`.

        Raises:
            NotAdaptable: where the task's head gives no distribution over classes.
        """
        if "labels" in batch:
            return self._task.loss(self._predict, batch).view(1, 1)
        logits = self._predict(batch)
        if not (isinstance(logits, Tensor) and logits.ndim == 2):
            raise NotAdaptable(
                f"The task {self._task.name} predicts no distribution over classes, over which the Fisher information "
                "is an expectation. Use method.estimator=empirical, which takes the loss of labelled examples."
            )
        return logits.log_softmax(dim=-1)


def _size(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _square_of_batch(terms: Terms, free: Mapping[str, Tensor], batch: Batch) -> Squares:
    """Return (∂/∂θ Σ_x Σ_y √p·log p)², with no gradient through √p."""
    logs = terms(batch)
    gradients = torch.autograd.grad((logs.detach().exp().sqrt() * logs).sum(), list(free.values()), allow_unused=True)
    return {name: g.detach() ** 2 for name, g in zip(free, gradients, strict=True) if g is not None}


def _sum_of_squares(
    terms: Terms, free: Mapping[str, Tensor], batch: Batch, estimator: Estimator, chance: Tensor
) -> Squares:
    """Return the sum over examples of the expected squared gradient of each example by itself."""
    if sum(p.numel() for p in free.values()) > LARGE:
        return _one_by_one(terms, free, batch, estimator, chance)
    try:
        return _together(terms, free, batch, estimator, chance)
    except NotAdaptable:
        raise
    except (RuntimeError, ValueError) as reason:
        # Some architectures look at their inputs' values, which is not possible for many examples at a time.
        logger.info("examples are differentiated one by one: %s", reason)
    return _one_by_one(terms, free, batch, estimator, chance)


def _directions(logs: Tensor, estimator: Estimator, chance: Tensor) -> Tensor:
    """Return of one example which combinations of its terms are differentiated, `(rows, terms)`.

    Each is multiplied by the square root of what its squared gradient counts, which costs less than to weigh gradients.
    """
    count = len(logs)
    if estimator == "sampled":
        bounds = logs.double().exp().cumsum(dim=-1)
        drawn_class = (bounds <= chance * bounds[-1]).sum(dim=-1)
        chosen = torch.arange(count, device=logs.device) == drawn_class
        return chosen.to(logs.dtype).unsqueeze(0)
    return torch.diag((logs / 2).exp() if estimator == "exact" else torch.ones_like(logs))


def _together(terms: Terms, free: Mapping[str, Tensor], batch: Batch, estimator: Estimator, chance: Tensor) -> Squares:
    """Differentiate as many examples at a time as fit, with one forward pass each."""
    values = {name: p.detach() for name, p in free.items()}
    names = list(values)

    def squares(example: Batch, drawn_number: Tensor) -> list[Tensor]:
        def terms_at(*parameters: Tensor) -> Tensor:
            one = {key: value.unsqueeze(0) for key, value in example.items()}
            found: Tensor = functional_call(terms, dict(zip(names, parameters, strict=True)), (one,))
            return found[0]

        logs, pull, *_ = vjp(terms_at, *values.values())
        first, *others = _directions(logs, estimator, drawn_number).unbind(0)
        total = [gradient.square() for gradient in pull(first)]
        for row in others:
            total = [torch.addcmul(t, g, g) for t, g in zip(total, pull(row), strict=True)]
        return total

    found = {name: torch.zeros_like(value) for name, value in values.items()}
    at_once = max(1, CHUNK_BYTES // (12 * sum(value.numel() for value in values.values())))
    for first in range(0, _size(batch), at_once):
        part = slice(first, first + at_once)
        examples = {key: value[part] for key, value in batch.items()}
        # Attention by plain matrix products is the only kind that can be differentiated for many examples at a time.
        with sdpa_kernel(SDPBackend.MATH):
            part_of_sum = vmap(squares)(examples, chance[part])
        for name, square in zip(names, part_of_sum, strict=True):
            found[name] += square.sum(dim=0)
    return found


def _one_by_one(
    terms: Terms, free: Mapping[str, Tensor], batch: Batch, estimator: Estimator, chance: Tensor
) -> Squares:
    """Differentiate one example after another, one backward pass a direction."""
    total = {name: torch.zeros_like(p) for name, p in free.items()}
    for index in range(_size(batch)):
        logs = terms({key: value[index : index + 1] for key, value in batch.items()})[0]
        for row in _directions(logs.detach(), estimator, chance[index]):
            gradients = torch.autograd.grad(logs, list(free.values()), row, retain_graph=True, allow_unused=True)
            for name, gradient in zip(free, gradients, strict=True):
                if gradient is not None:
                    total[name].addcmul_(gradient, gradient)
    return total
