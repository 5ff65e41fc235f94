"""How the work of a run is done: what changes no number."""

import os
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field

from fusionbench.config.fields import Bytes, Config, Count, Device
from fusionbench.config.launcher import LauncherConfig
from fusionbench.errors import ConfigError
from fusionbench.overrides import apply

TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]
"""Who may be sent the curves of what is trained."""


def _launcher(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class RuntimeConfig(Config):
    """How the work is done. Never in the identity: it changes no number."""

    device: Device = "auto"
    threads: Count = Field(default_factory=lambda: _cpus(), description="of the processor")
    memory: Bytes | None = Field(default=None, description="most that may be used; a number of bytes, 2GB or 500MB")
    launcher: Annotated[LauncherConfig | None, BeforeValidator(_launcher)] = Field(
        default=None, description="what starts the runs of a sweep; null: this process"
    )
    trackers: tuple[TrackerName, ...] = Field(default=(), description="who is sent the curves of what is trained")

    @classmethod
    def load(cls, overrides: Sequence[str]) -> Self:
        """Read overrides that say only how the work is done, such as `launcher=processes runtime.threads=4`.

        Raises:
            ConfigError: where one says something else, or a wrong value.
        """
        document = apply({}, overrides)
        other = sorted({*document} - {"runtime"})
        if other:
            raise ConfigError(
                f"{', '.join(other)}: what is run is settled here; only how can be said, by launcher=… and runtime.…"
            )
        return cls.read(document.get("runtime", {}), "What is said of the runtime")


def _cpus() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
