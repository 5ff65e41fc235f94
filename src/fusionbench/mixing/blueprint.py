"""`fusion_config.json`: which modules of a model were replaced, and by what, to build it again. No torch here."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr

from fusionbench.config import Config
from fusionbench.errors import CheckpointError, ConfigError
from fusionbench.weights.documents import read_json

FUSION_CONFIG = "fusion_config.json"
Described = TypeVar("Described", bound=Config)
Value = StrictBool | StrictInt | StrictFloat | StrictStr


class SiteRecord(Config):
    """What stands at one module's place."""

    kind: StrictStr
    settings: dict[StrictStr, Value] = Field(default={})


class Blueprint(Config):
    """How a model differs from the architecture of its `config.json`.

    Attributes:
        format: of this file.
        family: that runs the model.
        method: by which it was made, with its version and parameters.
        experts: names, in the order of whatever the modules hold of each.
        sites: by the name of the replaced module.
    """

    format: Literal[1] = 1
    family: StrictStr
    method: StrictStr
    version: StrictInt = 1
    params: dict[StrictStr, Any] = Field(default={})
    experts: tuple[StrictStr, ...]
    sites: dict[StrictStr, SiteRecord] = Field(min_length=1)

    def write(self, folder: Path) -> None:
        """Write the file into a folder."""
        (folder / FUSION_CONFIG).write_text(json.dumps(self.model_dump(mode="json"), indent=1) + "\n")


def read_blueprint(folder: Path | None) -> Blueprint | None:
    """Return what a model's folder says of its replaced modules; None where it is a plain model.

    Raises:
        CheckpointError: where the file is damaged, naming every wrong key.
    """
    if folder is None or not (folder / FUSION_CONFIG).is_file():
        return None
    return read_description(folder / FUSION_CONFIG, Blueprint)


def read_description(path: Path, schema: type[Described]) -> Described:
    """Return what a JSON file says of the model that it lies beside.

    Raises:
        CheckpointError: where the file is damaged, naming every wrong key.
    """
    try:
        document = read_json(path)
        if not isinstance(document, Mapping):
            raise ConfigError(f"{path} should hold a JSON object, it holds a {type(document).__name__}.")
        return schema.read(document, str(path))
    except (OSError, ValueError, RecursionError, ConfigError) as error:
        reason = str(error) if isinstance(error, ConfigError) else f"{path} is no JSON: {error}."
        raise CheckpointError(f"{reason}\nThe model cannot be built from it; fuse it again.") from None
