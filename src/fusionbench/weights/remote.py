"""Models of the hub that are not downloaded: their headers and configuration alone. No torch here.

Each file's header is fetched as a range of bytes, and read as if an enemy had written it, like those of local files.
"""

import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from fusionbench.errors import CheckpointError
from fusionbench.weights.adapters.configuration import CONFIG_NAME
from fusionbench.weights.headers import ITEM_BYTES, Source, TensorSpec
from fusionbench.weights.hub import hub_errors, is_cached, on_hub
from fusionbench.weights.safetensors import INDEX_NAME, SINGLE_NAMES, header_bytes, parse_header
from fusionbench.weights.sources import open_source

FIRST_BYTES = 100_000
"""Fetched at once: more than most headers have."""
AT_ONCE = 8


def open_headers(reference: str | Path) -> Source:
    """Open a model as `open_source` does; of one that is on the hub alone, only headers are fetched.

    Raises:
        CheckpointError: as `open_source`; also where the hub holds the model in another form than safetensors.
    """
    return _remote(str(reference)) or open_source(reference)


def is_remote(reference: str | Path) -> bool:
    """Tell whether a model is on the hub alone; adapters are not counted, which are small and downloaded."""
    return _remote(str(reference)) is not None


@cache
def _remote(reference: str) -> "RemoteSource | None":
    match = on_hub(reference)
    if match is None:
        return None
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE or is_cached(reference):
        return None
    with hub_errors(reference, match["repo"], match["revision"]):
        info = HfApi().model_info(match["repo"], revision=match["revision"])
        names = {file.rfilename for file in info.siblings or ()}
        repository = _Repository(reference, match["repo"], str(info.sha))
        files = _weight_files(repository, names)
        if CONFIG_NAME in names and not files:
            return None
        if not files:
            raise CheckpointError(
                f"{reference} holds no safetensors, so its headers cannot be fetched apart. With a network, run once: "
                f"hf download {match['repo']}"
            )
        config = json.loads(repository.fetch("config.json")[0]) if "config.json" in names else {}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            headers = [*pool.map(repository.header, files)]
    return RemoteSource(repository, headers, config if isinstance(config, dict) else {})


def _weight_files(repository: "_Repository", names: set[str]) -> Sequence[str]:
    """Return the files that hold the weights, by the index where there are shards."""
    single = next((name for name in SINGLE_NAMES[:2] if name in names), None)
    if single is not None or INDEX_NAME not in names:
        return [single] if single else []
    return sorted({str(file) for file in json.loads(repository.fetch(INDEX_NAME)[0])["weight_map"].values()})


class _Header:
    """One file's tensors: their kinds and shapes, and where they begin in the file."""

    def __init__(self, file: str, size: int, begin: int, specs: Mapping[str, TensorSpec], places: Mapping[str, int]):
        self.file, self.size, self.begin, self.specs, self.places = file, size, begin, specs, places


class _Repository:
    """One revision of a repository."""

    def __init__(self, reference: str, name: str, commit: str) -> None:
        self.reference, self.name, self.commit = reference, name, commit

    def fetch(self, file: str, start: int = 0, stop: int | None = None) -> tuple[bytes, int]:
        """Return bytes `start` to `stop` of a file, or all, and the size of the file."""
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

        url = hf_hub_url(self.name, file, revision=self.commit)
        wanted = {} if stop is None else {"Range": f"bytes={start}-{stop - 1}"}
        with get_session().stream("GET", url, headers={**build_hf_headers(), **wanted}) as response:
            hf_raise_for_status(response)
            said = re.fullmatch(r"bytes \d+-\d+/(\d+)", response.headers.get("Content-Range", ""))
            if stop is not None and said is None:
                # The whole file would come, which may be terabytes.
                raise CheckpointError(f"The hub does not give parts of {file} of {self.reference}. Download it whole.")
            content = response.read()
        return content, int(said[1]) if said else len(content)

    def header(self, file: str) -> _Header:
        """Fetch and check the header of a safetensors file."""
        label = f"{file} of {self.reference}"
        first, size = self.fetch(file, 0, FIRST_BYTES)
        length = header_bytes(label, first[:8], size)
        raw = first[8 : 8 + length]
        if len(raw) < length:
            raw += self.fetch(file, len(first), 8 + length)[0]
        _, specs, places = parse_header(label, raw, size - 8 - length)
        return _Header(file, size, 8 + length, specs, places)


class RemoteSource:
    """A model of the hub of which nothing is on disk.

    Attributes:
        label: the reference.
        specs: every tensor by name.
        config: of the model.
        folder: None; its other files are not fetched.
        file_bytes: of all its weights, which a merge downloads.
    """

    def __init__(self, repository: _Repository, headers: Sequence[_Header], config: Mapping[str, Any]) -> None:
        self._repository = repository
        self._header_of = {name: header for header in headers for name in header.specs}
        self.label = repository.reference
        self.specs: Mapping[str, TensorSpec] = {name: h.specs[name] for name, h in self._header_of.items()}
        self.config = config
        self.folder: Path | None = None
        self.file_bytes = sum(header.size for header in headers)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> memoryview:
        """Fetch the bytes of flat entries `start` to `stop` of a tensor."""
        header, spec = self._header_of[name], self.specs[name]
        item = ITEM_BYTES[spec.dtype]
        first = header.begin + header.places[name]
        last = spec.size if stop is None else stop
        if start >= last:
            return memoryview(b"")
        with hub_errors(self.label, self._repository.name, None):
            return memoryview(self._repository.fetch(header.file, first + start * item, first + last * item)[0])

    def fingerprint(self) -> str:
        """Return the repository and the commit, which name the content."""
        return f"hub:{self._repository.name}@{self._repository.commit}"
