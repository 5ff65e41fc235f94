"""An MLP of rank-one experts: which of them count, and how much, a router reads off its input."""

from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from fusionbench.config import Config
from fusionbench.errors import CheckpointError
from fusionbench.mixing.linear import replace_linears
from fusionbench.mixing.rank_one_linear import RankOneLinear
from fusionbench.mixing.routed import Route, RoutedMlp, Router, Size


class RankOneSettings(Config):
    """Sizes of an MLP of rank-one experts.

    Attributes:
        experts: how many models they come from.
        rank: triples of each of these.
        width: of the router's input.
        depth: layers of the router.
        route: whether each sample or each token has weights of its own, or the batch shares their mean.
        shared_by: how many samples of a batch share a mean, in their order; 0 is all of the batch.
        chosen: how many of all triples count; 0 is all.
        parts: names of the linear maps inside, comma-separated.
        transposed: those of them whose weight is `(in, out)`.
    """

    experts: Size
    rank: Size
    width: Size
    depth: Annotated[int, Field(ge=1, le=2)]
    route: Route = "sample"
    shared_by: Annotated[int, Field(ge=0, le=2**20)] = 0
    chosen: Annotated[int, Field(ge=0, le=2**20)] = 0
    parts: str
    transposed: str = ""


def build_rank_one(module: nn.Module, settings: RankOneSettings) -> RoutedMlp:
    """Return the form of an MLP with rank-one experts, its new parts on the meta device.

    Raises:
        CheckpointError: where a map is not there, or more triples are to count than there are.
    """
    triples = settings.experts * settings.rank
    if settings.chosen > triples:
        raise CheckpointError(f"The blueprint chooses {settings.chosen} of {triples} triples.")
    parts, transposed = settings.parts.split(","), settings.transposed.split(",")
    inner = replace_linears(module, parts, transposed, lambda _, form: RankOneLinear(form, triples, settings.chosen))
    with torch.device("meta"):
        router = Router(settings.width, triples, settings.depth, hidden=2 * triples)
        return RoutedMlp(inner, router, settings.route, settings.shared_by)
