"""YAML read as text: a value stays what was written, so that the type of its key reads it and YAML guesses nothing."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from fusionbench.errors import ConfigError

LIMIT, MOST_ENTRIES, MOST_NESTED = 10_000_000, 100_000, 50
_NULL, _MERGE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"


class _TextLoader(yaml.SafeLoader):
    """Reads scalars as text, but for null; refuses tags and repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return the mapping; its keys are text, each once."""
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _NULL:
                raise yaml.MarkedYAMLError(problem="a key must be text", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} is there twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def refuse(self, node: yaml.Node) -> Any:
        """Refuse a node with a tag."""
        raise yaml.MarkedYAMLError(problem=f"the tag {node.tag} is not read", problem_mark=node.start_mark)


_TextLoader.yaml_implicit_resolvers = {
    first: kept
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    if (kept := [(tag, pattern) for tag, pattern in resolvers if tag in (_NULL, _MERGE)])
}
_TextLoader.yaml_constructors = {
    tag: construct
    if tag in (_NULL, *(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map")))
    else _TextLoader.refuse
    for tag, construct in yaml.SafeLoader.yaml_constructors.items()
}


def read_document(file: str | Path) -> dict[str, Any]:
    """Return what a YAML file says.

    Raises:
        ConfigError: where there is no such file, or it is not one YAML mapping; with the line.
    """
    return parse_document(_text_of(file), str(file))


def read_documents(file: str | Path) -> list[dict[str, Any]]:
    """Return what each document of a YAML file says, at least one; they are divided by lines of `---`.

    Raises:
        ConfigError: where there is no such file, or a document is not a mapping; with the line.
    """
    return _parse(_text_of(file), str(file))


def _text_of(file: str | Path) -> str:
    try:
        if (size := Path(file).stat().st_size) > LIMIT:
            raise ConfigError(f"{file} has {size:,} bytes, of at most {LIMIT:,} that are read of a YAML file.")
        return Path(file).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"There is no file {file}.") from None
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}.") from None


def parse_document(text: str, where: str) -> dict[str, Any]:
    """Return what a YAML text says: text, null, lists and mappings.

    Args:
        text: one YAML document.
        where: its name, for messages.

    Raises:
        ConfigError: where it is not one mapping, or is too large once its aliases are spelled out.
    """
    documents = _parse(text, where)
    if len(documents) > 1:
        raise ConfigError(f"{where} holds {len(documents)} YAML documents; one is read. Give each a file of its own.")
    return documents[0]


def _parse(text: str, where: str) -> list[dict[str, Any]]:
    try:
        documents = list(yaml.load_all(text, _TextLoader)) or [None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{where}{place}: {error.problem or error.context}.") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{where} is not YAML: {' '.join(str(error).split())}.") from None
    if not all(isinstance(document, dict) for document in documents):
        raise ConfigError(f"{where} is not a mapping of keys to values, such as 'method: ties'.")
    _Spelled(where).measure(documents, -1)
    return documents


class _Spelled:
    """Counts entries as if aliases were written out, so that a small file cannot fill the memory."""

    def __init__(self, where: str) -> None:
        self.where, self.entries = where, 0

    def measure(self, value: Any, depth: int) -> None:
        self.entries += 1
        if self.entries > MOST_ENTRIES or depth > MOST_NESTED:
            limits = f"more than {MOST_ENTRIES} entries or {MOST_NESTED} levels"
            raise ConfigError(f"{self.where} has {limits}, aliases included.")
        if isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                self.measure(item, depth + 1)
