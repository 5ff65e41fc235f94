"""References to models: a folder, a file, or `org/name[@revision]` of the Hugging Face hub. No torch here."""

import re
from pathlib import Path

from fusionbench.errors import CheckpointError

HUB_ID = re.compile(r"^(?P<repo>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?$")
PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


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
        return Path(snapshot_download(repository, revision=revision, allow_patterns=PATTERNS))
    except GatedRepoError:
        raise CheckpointError(
            f"{reference} is gated. Ask for access at its page on the hub, then run: hf auth login"
        ) from None
    except RevisionNotFoundError:
        raise CheckpointError(f"{repository} has no revision {revision!r}.") from None
    except RepositoryNotFoundError:
        raise CheckpointError(
            f"There is no folder {reference}, and no such repository on the hub (or it is private: run hf auth login)."
        ) from None
    except LocalEntryNotFoundError:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        raise CheckpointError(
            f"There is no folder {reference}; it is not in the hub's local cache either, and {why}. "
            f"With a network, run once: hf download {repository}"
        ) from None
    except Exception as error:
        # Besides the library's own errors, those of its HTTP client, which it has changed before.
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{reference} cannot be had from the hub: {why}") from None
