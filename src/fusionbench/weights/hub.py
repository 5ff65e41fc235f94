"""References to models: a folder, a file, or `org/name[@revision]` of the Hugging Face hub. No torch here."""

import json
import re
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
            beside = (
                f" {path.parent} holds: {', '.join(sorted(p.name for p in path.parent.iterdir())[:8]) or 'nothing'}."
            )
    except (OSError, RuntimeError, ValueError):
        # A home that is not there, or a text that no file system takes for a name: no path, then.
        pass
    match = HUB_ID.fullmatch(text)
    if match is None or text.startswith((".", "/", "~")):
        raise CheckpointError(f"There is no model at {text or 'an empty reference'}.{beside}")
    return _fetch(text, match["repo"], match["revision"])


def _fetch(reference: str, repository: str, revision: str | None) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=PATTERNS))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(repository, revision=revision, allow_patterns=[*PATTERNS, *PICKLED]))
        _check_whole(reference, folder)
        return folder
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
    except LocalEntryNotFoundError:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        raise CheckpointError(
            f"There is no folder {reference}; it is not in the hub's local cache either, and {why}. "
            f"With a network, run once: hf download {repository}; or, for all that a suite needs: fusionbench fetch "
            "suite=NAME"
        ) from None
    except Exception as error:
        # Besides the library's own errors, those of its HTTP client, which it has changed before.
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{reference} cannot be had from the hub: {why}") from None


def _check_whole(reference: str, folder: Path) -> None:
    """Refuse a snapshot that an interrupted download left without some of its weights.

    Raises:
        CheckpointError: naming what is missing.
    """
    lacking = []
    for index in folder.glob("*.index.json"):
        try:
            files = {str(file) for file in json.loads(index.read_text())["weight_map"].values()}
        except (ValueError, KeyError, TypeError, AttributeError):
            # Whoever opens the index says what is wrong with it.
            continue
        # Repositories may hold the same weights in both forms, of which only one was fetched.
        held = {file for file in files if (folder / file).is_file()}
        other = any(folder.glob("*.safetensors")) and not any(file.endswith(".safetensors") for file in files)
        lacking += [] if other else sorted(files - held)
    begun = any((folder.parents[1] / "blobs").glob("*.incomplete"))
    whole = any(path.suffix in (".safetensors", ".bin") for path in folder.iterdir())
    if lacking or (begun and not whole):
        raise CheckpointError(
            f"{reference} was downloaded only in part: {', '.join(lacking[:3]) or 'its weights'} "
            f"{'are' if len(lacking) != 1 else 'is'} missing from {folder}. With a network, go on with: hf download "
            f"{reference.partition('@')[0]}; or: fusionbench fetch suite=NAME"
        )
