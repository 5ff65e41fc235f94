"""The balance loss of mixtures of experts: routers are to send as many tokens to one expert as to another."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fusionbench.errors import ConfigError
from fusionbench.families import Family, HasRouters


def balance_loss(logits: Tensor, chosen: Tensor, real: Tensor | None = None) -> Tensor:
    """Return N·Σₑ fₑ·Pₑ of one router, N experts (arXiv:2101.03961, eq. 4 to 6); its least is k, the experts a token.

    fₑ is how often expert e was chosen a token, over real tokens, and Pₑ the mean of its probability. Only P has a
    gradient.

    Args:
        logits: `(tokens, experts)`.
        chosen: numbers of the chosen experts, `(tokens, k)`.
        real: `(tokens,)`, false where a token is padding; None where there is none.

    Others: transformers 5 takes f and P over the tokens of all layers together, so that layers that favour different
    experts count as balanced.
    """
    probabilities = logits.float().softmax(dim=-1)
    taken = torch.zeros_like(probabilities).scatter_(1, chosen, 1.0)
    if real is not None:
        probabilities, taken = probabilities[real], taken[real]
    return logits.shape[1] * (taken.mean(dim=0) * probabilities.mean(dim=0)).sum()


class Routers:
    """The routers of a module that choose experts, and what they chose since they were last asked."""

    def __init__(self, module: nn.Module, family: Family) -> None:
        """Find them.

        Raises:
            ConfigError: where the model has none.
        """
        names: Sequence[str] = family.routers(module) if isinstance(family, HasRouters) else ()
        if not names:
            raise ConfigError(
                "recipe.balance: the model has no routers that choose experts, as a Mixtral has. Leave it out."
            )
        self._modules = [module.get_submodule(name) for name in names]

    @contextmanager
    def watched(self) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """Collect logits and choices of every router that runs in a `with` block."""
        seen: list[tuple[Tensor, Tensor]] = []
        hooks = [
            part.register_forward_hook(lambda _module, _inputs, made: seen.append((made[0], made[2])))
            for part in self._modules
        ]
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()


def mean_balance(seen: Sequence[tuple[Tensor, Tensor]], mask: Tensor | None) -> Tensor:
    """Return the mean of the layers' balance losses.

    Args:
        seen: logits and choices of each layer.
        mask: which tokens are real, in any shape of as many entries; None where all are.
    """
    real = None if mask is None else mask.flatten().to(seen[0][0].device)
    return torch.stack([balance_loss(logits, chosen, real) for logits, chosen in seen]).mean()
