"""The mistakes a user can make: each error says what is wrong, where, with which value, and what to do.

The command line prints these without a traceback and ends with exit code 2; all else is a bug of ours (exit code 1).
"""


class FusionBenchError(Exception):
    """Root of every error that the user can mend.

    Attributes:
        about: the method whose page explains it, which the command line then names; None where no method does.
    """

    def __init__(self, message: str = "", *, about: str | None = None) -> None:
        super().__init__(message)
        self.about = about


class ConfigError(FusionBenchError):
    """A recipe, an override or a parameter is wrong."""


class CheckpointError(FusionBenchError):
    """A checkpoint is missing, truncated, corrupt, or in a form that is refused."""


class IncompatibleModels(FusionBenchError):
    """The models of a pool do not fit together: names, shapes, kinds of numbers, or architectures differ."""


class NotFinite(FusionBenchError):
    """An input or a result holds NaN or Inf."""


class OutputError(FusionBenchError):
    """The result cannot be written where it was asked for."""


class MissingData(FusionBenchError):
    """A data set, a split or a column that a task needs is not there."""


class MissingPart(FusionBenchError):
    """A family lacks a part that a method needs."""

    def __init__(self, family: str, part: str, methods: tuple[str, ...] = ()) -> None:
        needed = f" ({', '.join(methods)} need it)" if methods else ""
        super().__init__(f"The family {family!r} has no {part}{needed}. Choose a method that does without it.")


class MissingHead(FusionBenchError):
    """A task needs a trained head, and none is there."""


class MissingExtra(FusionBenchError):
    """An optional package is not installed."""

    def __init__(self, feature: str, install: str) -> None:
        super().__init__(f"{feature} needs a package that is not installed. Run: pip install {install}")


class NotAdaptable(FusionBenchError):
    """A task has no objective that works without labels."""


class Interrupted(FusionBenchError):
    """The user stopped the run; what was finished is kept."""
