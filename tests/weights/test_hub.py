import importlib
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from fusionbench.errors import CheckpointError
from fusionbench.weights.hub import resolve

# The library has changed its HTTP client before; the errors of the one it uses are what must be understood.
http = importlib.import_module(HTTPError.__module__.partition(".")[0])
MAIN, OLDER = "a" * 40, "b" * 40


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A hub cache with two revisions of org/tiny, as the hub's own library lays them out."""
    root = tmp_path / "hub"
    repository = root / "models--org--tiny"
    (repository / "refs").mkdir(parents=True)
    for branch, commit in (("main", MAIN), ("v1", OLDER)):
        (repository / "refs" / branch).write_text(commit)
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text("{}")
        (snapshot / "model.safetensors").write_bytes(b"")
    # The library reads its environment when it is imported.
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return repository


@pytest.mark.parametrize(
    ("reference", "commit"),
    [("org/tiny", MAIN), ("org/tiny@main", MAIN), ("org/tiny@v1", OLDER), (f"org/tiny@{OLDER}", OLDER)],
)
def test_a_cached_model_is_found_offline(reference, commit, cache):
    assert resolve(reference) == cache / "snapshots" / commit


@pytest.mark.parametrize("reference", ["org/absent", "org/tiny@v2", f"org/tiny@{'c' * 40}"])
def test_what_is_not_cached_is_an_error_that_tells_how_to_fetch_it(reference, cache):
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set") as error:
        resolve(reference)
    assert f"hf download {reference.partition('@')[0]}" in str(error.value)
    assert reference in str(error.value)


def test_a_folder_wins_over_a_hub_id_of_the_same_spelling(cache, tmp_path):
    (tmp_path / "org" / "tiny").mkdir(parents=True)
    assert resolve("org/tiny") == Path("org/tiny")


def test_a_path_that_is_not_there_is_answered_by_what_lies_beside_it(tmp_path):
    (tmp_path / "digits").mkdir()
    (tmp_path / "letters").mkdir()
    with pytest.raises(CheckpointError, match=r"holds: digits, letters\.$"):
        resolve(tmp_path / "sonnets")
    with pytest.raises(CheckpointError, match=r"Did you mean .*digits\?$"):
        resolve(tmp_path / "digit")


def test_the_folder_that_commands_are_given_in_is_named_in_words(tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"at \./sonnets\. The current folder holds: digits\.$"):
        resolve("./sonnets")


@pytest.mark.parametrize(
    "reference", ["./absent", "../absent/model", "~/absent", "~nobody_of_this_name/model", "/absent/x/y", "a/b/c/d"]
)
def test_a_path_that_is_not_there_is_never_looked_for_on_the_hub(reference, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    with pytest.raises(CheckpointError, match="no model at"):
        resolve(reference)


@pytest.mark.parametrize(
    "reference", ["", "a b", "org/tiny@", "@main", "x" * 5000, "a\0b", "org/tiny@re v", "äö/é", "\n"]
)
def test_what_is_neither_path_nor_hub_id_is_refused(reference, cache):
    with pytest.raises(CheckpointError):
        resolve(reference)


@pytest.mark.parametrize("safe", [True, False])
def test_pickled_files_are_fetched_only_where_there_are_no_safetensors(safe, tmp_path, monkeypatch):
    held = ["config.json", "pytorch_model-1.bin", "README.md", "optimizer.pt", *(["model.safetensors"] if safe else [])]
    asked = []

    def fetch(repository, revision, allow_patterns):
        asked.append((repository, revision))
        for name in held:
            if any(Path(name).match(pattern) for pattern in allow_patterns):
                (tmp_path / name).write_bytes(b"")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert resolve("org/some@v2") == tmp_path
    wanted = {"config.json", "model.safetensors"} if safe else {"config.json", "pytorch_model-1.bin"}
    assert {path.name for path in tmp_path.iterdir()} == wanted
    assert asked == [("org/some", "v2")] * (1 if safe else 2)


def response(status: int):
    return http.Response(status, request=http.Request("GET", "https://hub.invalid/api"))


ANSWERS = [
    (GatedRepoError("no", response=response(403)), "is gated"),
    (RevisionNotFoundError("no", response=response(404)), "no revision 'v9'"),
    (RepositoryNotFoundError("no", response=response(404)), "no such repository"),
    (HfHubHTTPError("500 Server Error\nmore", response=response(500)), "500 Server Error"),
    (LocalEntryNotFoundError("no"), "the hub cannot be reached"),
    (http.ConnectError("no route to host"), "no route to host"),
    (http.ReadTimeout(""), "ReadTimeout"),
    (OSError("disk trouble"), "disk trouble"),
]


@pytest.mark.parametrize(("answer", "words"), ANSWERS, ids=lambda item: type(item).__name__)
def test_every_refusal_of_the_hub_becomes_one_clear_error(answer, words, monkeypatch):
    def refuse(*args, **kwargs):
        raise answer

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(CheckpointError, match=words) as error:
        resolve("org/some@v9")
    assert "org/some" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("offline", "words"), [(True, "HF_HUB_OFFLINE is set"), (False, "cannot be reached")])
def test_the_error_says_why_the_hub_was_not_asked(offline, words, monkeypatch):
    def refuse(*args, **kwargs):
        raise LocalEntryNotFoundError("no")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    with pytest.raises(CheckpointError, match=words):
        resolve("org/some")
