"""References to models: a folder, a file, or `org/name[@revision]` of the Hugging Face hub. No torch here."""

import difflib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fusionbench.errors import CheckpointError

HUB_ID = re.compile(r"^(?P<repo>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?$")
PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
PICKLED = ["pytorch_model*.bin", "adapter_model.bin", "pytorch_model.pt", "model.pt"]
"""Fetched only where there are no safetensors: the same weights again in most repositories."""


def resolve(reference: str | Path) -> Path:
    """Return the local folder or file that a reference names, fetching a hub model where that is allowed.

    A path that exists wins over a hub id of the same spelling. Offline (`HF_HUB_OFFLINE=1`), only the cache is asked.

    Raises:
        CheckpointError: where there is no such path, repository or revision, or no network; with the fix.
    """
    text, beside = str(reference), ""
    try:
        path = Path(reference).expanduser()
        if text and path.exists():
            return path
        if path.parent.is_dir():
            beside = _neighbours(path)
    except (OSError, RuntimeError, ValueError):
        # A home that is not there, or a text that no file system takes for a name: no path, then.
        pass
    match = HUB_ID.fullmatch(text)
    if match is None or text.startswith((".", "/", "~")):
        raise CheckpointError(f"There is no model at {text or 'an empty reference'}.{beside}")
    return _fetch(text, match["repo"], match["revision"])


def _neighbours(path: Path) -> str:
    """Return what else is in the folder of a path that is not there: the nearest name, or the first few."""
    names = sorted(found.name for found in path.parent.iterdir())
    if close := difflib.get_close_matches(path.name, names, n=1):
        return f" Did you mean {path.with_name(close[0])}?"
    folder = "The current folder" if path.parent == Path() else f"{path.parent}"
    return f" {folder} holds: {', '.join(names[:8]) or 'nothing'}."


def _fetch(reference: str, repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    with hub_errors(reference, repository, revision):
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=PATTERNS))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(repository, revision=revision, allow_patterns=[*PATTERNS, *PICKLED]))
        _check_whole(reference, folder)
        return folder


def on_hub(reference: str | Path) -> re.Match[str] | None:
    """Return repository and revision where a reference is an id of the hub and no path of this machine."""
    match = HUB_ID.fullmatch(str(reference))
    return None if match is None or os.path.exists(os.path.expanduser(reference)) else match


def is_cached(reference: str) -> bool:
    """Tell whether a model of the hub is whole in the local cache."""
    from huggingface_hub import snapshot_download

    match = on_hub(reference)
    if match is None:
        return False
    try:
        folder = Path(snapshot_download(match["repo"], revision=match["revision"], local_files_only=True))
        _check_whole(reference, folder)
    except Exception:
        # Whatever the library says of its cache: the model cannot be read from it.
        return False
    return any(path.suffix in (".safetensors", ".bin", ".pt") for path in folder.rglob("*"))


@contextmanager
def hub_errors(reference: str, repository: str, revision: str | None) -> Iterator[None]:
    """Turn what the hub's library raises into errors that name the reference and the fix.

    Raises:
        CheckpointError: where there is no such repository or revision, no right to it, or no network.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except CheckpointError:
        raise
    except GatedRepoError:
        raise CheckpointError(
            f"{reference} is gated. Ask for access at its page on the hub, then run: hf auth login"
        ) from None
    except RevisionNotFoundError:
        raise CheckpointError(
            f"{repository} has no revision {revision!r}. Name a branch, tag or commit of its page on the hub, or leave "
            f"@{revision} out."
        ) from None
    except RepositoryNotFoundError:
        raise CheckpointError(
            f"There is no folder {reference}, and no such repository on the hub (or it is private: run hf auth login)."
        ) from None
    except HfHubHTTPError as error:
        raise CheckpointError(f"{reference} cannot be had from the hub: {str(error).splitlines()[0]}") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HTTPError) as error:
        detail = f" ({str(error) or type(error).__name__})" if isinstance(error, HTTPError) else ""
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"the hub cannot be reached{detail}"
        raise CheckpointError(
            f"There is no folder {reference}; it is not in the hub's local cache either, and {why}. "
            f"With a network, run once: hf download {repository}; or, for all that a suite needs: fusionbench fetch "
            "suite=NAME"
        ) from None
    except Exception as error:
        # The library's errors are not one family, and what it reads may be anything.
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{reference} cannot be had from the hub: {why}") from None


def _check_whole(reference: str, folder: Path) -> None:
    """Refuse a snapshot that an interrupted download left without some of its weights.

    Raises:
        CheckpointError: naming what is missing.
    """
    lacking = []
    weights = (".safetensors", ".bin")
    # A folder of parts that answer together has its weights below; beside a model's own, such folders are another's.
    single = any(path.suffix in weights for path in folder.iterdir())
    for index in folder.glob("*.index.json") if single else folder.rglob("*.index.json"):
        try:
            files = {str(file) for file in json.loads(index.read_text())["weight_map"].values()}
        except (ValueError, KeyError, TypeError, AttributeError):
            # Whoever opens the index says what is wrong with it.
            continue
        # Repositories may hold the same weights in both forms, of which only one was fetched.
        place = index.parent
        held = {file for file in files if (place / file).is_file()}
        other = any(place.glob("*.safetensors")) and not any(file.endswith(".safetensors") for file in files)
        lacking += [] if other else sorted(files - held)
    begun = any((folder.parents[1] / "blobs").glob("*.incomplete"))
    whole = single or any(path.suffix in weights for path in folder.rglob("*"))
    if lacking or (begun and not whole):
        raise CheckpointError(
            f"{reference} was downloaded only in part: {', '.join(lacking[:3]) or 'its weights'} "
            f"{'are' if len(lacking) != 1 else 'is'} missing from {folder}. With a network, go on with: hf download "
            f"{reference.partition('@')[0]}; or: fusionbench fetch suite=NAME"
        )
