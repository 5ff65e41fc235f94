"""The kinds of module that a rebuilt model may hold, each built from the module it replaces and a few numbers."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn

from fusionbench.config import Config
from fusionbench.errors import CheckpointError, ConfigError
from fusionbench.mixing.bits import BitSettings, build_bits
from fusionbench.mixing.blueprint import SiteRecord
from fusionbench.mixing.preferred import PreferredSettings, build_preferred
from fusionbench.mixing.rank_one import RankOneSettings, build_rank_one
from fusionbench.mixing.routed import RoutedSettings, build_routed
from fusionbench.mixing.smile import SmileSettings, build_smile
from fusionbench.registry import suggestion


class Kind(NamedTuple):
    """How one kind of module is made."""

    settings: type[Config]
    build: Callable[[nn.Module, Any], nn.Module]
    """From the replaced module and the settings to a module on the meta device."""


KINDS: Mapping[str, Kind] = {
    "bits": Kind(BitSettings, build_bits),
    "preferred": Kind(PreferredSettings, build_preferred),
    "rank_one_mlp": Kind(RankOneSettings, build_rank_one),
    "routed_mlp": Kind(RoutedSettings, build_routed),
    "smile": Kind(SmileSettings, build_smile),
}


def build(name: str, module: nn.Module, record: SiteRecord) -> nn.Module:
    """Return what takes a module's place, its parameters on the meta device.

    Args:
        name: of the module, for messages.
        module: what it replaces.
        record: kind and settings.

    Raises:
        CheckpointError: where the kind is not known, or its settings are wrong.
    """
    if record.kind not in KINDS:
        raise CheckpointError(
            f"{name}: there is no module of the kind {record.kind!r}. {suggestion(record.kind, list(KINDS))}"
        )
    kind = KINDS[record.kind]
    try:
        settings = kind.settings.read(record.settings, f"{name}: its settings as {record.kind!r}")
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    return kind.build(module, settings)
