"""What starts the runs of a sweep, beside this process."""

from typing import Annotated, Literal

from pydantic import Field

from fusionbench.config.fields import Config, Count, Text


class LauncherConfig(Config):
    """Where many runs are done. A bare `launcher: processes` is its name."""

    name: Literal["processes", "ray", "slurm"] = Field(
        description="processes: of this machine; ray: tasks of a Ray cluster; slurm: jobs, through submitit"
    )
    workers: Count | None = Field(
        default=None, description="runs at once; null: here runtime.threads / cpus, on a cluster what fits, slurm 16"
    )
    cpus: Count = Field(default=1, description="processors, and so threads, of each run")
    gpus: Annotated[float, Field(ge=0)] = Field(default=0.0, description="of each run; with ray also a part of one")
    address: Text | None = Field(
        default=None,
        description="of a Ray cluster, null: one is started here; with slurm, local: job files run on this machine",
    )
