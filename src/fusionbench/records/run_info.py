"""`run.json`: what a run took and where it ran; nothing here enters a run's identity or its numbers."""

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError

from fusionbench.errors import ConfigError
from fusionbench.records.files import write_whole
from fusionbench.records.scores import Record

RUN = "run.json"
PACKAGES = (
    "fusionbench",
    "torch",
    "transformers",
    "safetensors",
    "peft",
    "accelerate",
    "datasets",
    "numpy",
    "scipy",
    "numba",
    "pydantic",
)


class Environment(Record):
    """The machine and the versions that a run used."""

    python: str
    platform: str
    processor: str = ""
    cores: int | None = None
    device: str = "cpu"
    threads: int | None = None
    versions: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def capture(cls, *, device: str = "cpu", threads: int | None = None) -> Self:
        """Return this machine's description; versions come from package metadata, so that nothing is imported."""
        return cls(
            python=platform.python_version(),
            platform=platform.platform(),
            processor=platform.machine(),
            cores=os.cpu_count(),
            device=device,
            threads=threads,
            versions=_installed(PACKAGES),
        )


class RunInfo(Record):
    """The content of `run.json`, schema 1.

    `phases` holds seconds by phase (build, where a suite was built for it; load, fuse, write, evaluate …);
    `peak_memory` is in bytes; `passes` counts how often the sources were read.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    command: tuple[str, ...] = ()
    date: str
    host: str = ""
    seconds: float = Field(ge=0)
    phases: dict[str, float] = Field(default_factory=dict)
    peak_memory: int | None = Field(default=None, ge=0)
    passes: int | None = Field(default=None, ge=0)
    environment: Environment

    @classmethod
    def capture(
        cls,
        *,
        started: datetime,
        phases: Mapping[str, float],
        command: Sequence[str] = (),
        passes: int | None = None,
        device: str = "cpu",
        threads: int | None = None,
    ) -> Self:
        """Return the record of a run that ends now.

        Args:
            started: when it began, with a time zone.
            phases: seconds by phase.
            command: words of the command line.
            passes: how often the inputs were read; None where that was not counted.
            device: where tensors were worked on.
            threads: that were allowed; None where no number was set.
        """
        return cls(
            command=tuple(command),
            date=started.astimezone(UTC).isoformat(timespec="seconds"),
            host=platform.node(),
            seconds=(datetime.now(UTC) - started).total_seconds(),
            phases=dict(phases),
            peak_memory=peak_memory(),
            passes=passes,
            environment=Environment.capture(device=device, threads=threads),
        )

    @property
    def own_seconds(self) -> float:
        """Seconds of the run itself, without those in which its suite was built."""
        return max(0.0, self.seconds - self.phases.get("build", 0.0))

    def dump_json(self) -> str:
        """Return the file's text."""
        return json.dumps(self.model_dump(by_alias=True), indent=1, ensure_ascii=False) + "\n"

    def save(self, folder: Path) -> Path:
        """Write `run.json` into `folder`, whole or not at all, and return its path."""
        return write_whole(folder / RUN, self.dump_json())

    @classmethod
    def load(cls, file: Path) -> Self:
        """Return the record at `file`.

        Raises:
            ConfigError: where the file is not such a record.
        """
        try:
            return cls.model_validate_json(file.read_text(encoding="utf-8"))
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            raise ConfigError(f"{file} is not a run.json of schema 1: {problem['loc']}: {problem['msg']}.") from None


def peak_memory() -> int | None:
    """Return the most resident memory that this process has held, in bytes, or None where the system does not say."""
    if sys.platform == "win32":
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _installed(packages: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
