"""How the work of a run is done: what changes no number."""

import os
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from fusionbench.config.fields import Bytes, Config, Count, Device
from fusionbench.config.launcher import LauncherConfig

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


def _cpus() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
