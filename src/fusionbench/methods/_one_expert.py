"""Methods that look at one expert: which of the pool's it is."""

from collections.abc import Sequence

from fusionbench.weights.stacking import index_of


def check_expert(experts: Sequence[str], *, expert: str | None) -> None:
    """Refuse an expert that is not there; see `index_of`.

    Raises:
        ConfigError: where it is not there, or none is named and there are several.
    """
    index_of(expert, experts)
