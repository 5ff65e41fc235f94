"""Whatever is in a file or an override: it is read, or refused by an error of ours that says so; nothing else."""

import json
import string
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from spoiling import JUNK, TEXT, read_or_refused, spoiled

from checkpoints import raw_safetensors
from fusionbench.config import Recipe, read_documents
from fusionbench.overrides import apply, parse, sweep
from fusionbench.provenance import verify
from fusionbench.records import Report
from fusionbench.weights.lock import LOCK, read_lock
from fusionbench.weights.sources import open_source

KEYS = [
    "suite", "base", "experts", "family", "space", "batch_norm", "tasks", "method", "slices", "vocabulary", "seed",
    "output", "runtime",
]  # fmt: skip
METHODS = ["ties", "dare", "simple_average", "adamerging", "slerp", "passthrough", {"name": "ties", "density": 0.2}]
TRUE = {
    "base": "./base",
    "experts": {"a": "./a", "b": {"model": "./b"}},
    "method": {"name": "ties", "density": 0.2},
    "output": {"dtype": "float32"},
    "runtime": {"threads": 2, "launcher": {"name": "processes"}},
}


@settings(max_examples=200)
@given(st.one_of(st.dictionaries(st.sampled_from(KEYS) | TEXT, JUNK | st.sampled_from(METHODS)), spoiled(TRUE), JUNK))
def test_any_document_is_a_recipe_or_refused(document: object) -> None:
    read_or_refused(Recipe.read, document)


@settings(max_examples=200)
@given(st.text(alphabet=string.printable + "é日\x00\ud800\u2028", max_size=60) | st.binary(max_size=60))
def test_any_file_is_a_recipe_or_refused(tmp_path_factory: pytest.TempPathFactory, content: str | bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "recipe.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    read_or_refused(read_documents, path)
    read_or_refused(Recipe.load, path)


@settings(max_examples=100)
@given(spoiled(TRUE))
def test_a_spoiled_recipe_in_yaml_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, document: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "spoiled.yaml"
    path.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8", errors="surrogatepass")
    read_or_refused(Recipe.load, path)


OVERRIDES = st.one_of(
    st.text(alphabet="abc.=+~,[]{}()'\"\\${}:0123456789 -_\n", max_size=30),
    st.builds(
        "{}{}={}".format,
        st.sampled_from(["", "+", "++", "~"]),
        st.sampled_from(["method", "method.density", "experts.a", "runtime.launcher.workers", "tasks.seen", "seed"]),
        st.text(max_size=15),
    ),
)


@settings(max_examples=300)
@given(st.lists(OVERRIDES, max_size=3))
def test_any_override_is_followed_or_refused(overrides: list[str]) -> None:
    for text in overrides:
        read_or_refused(parse, text)
    read_or_refused(apply, TRUE, overrides)
    read_or_refused(Recipe.load, None, ["experts.a=./a", "method=ties", *overrides])


@settings(max_examples=100)
@given(st.lists(OVERRIDES, max_size=2))
def test_any_sweep_is_spread_or_refused(overrides: list[str]) -> None:
    # Ranges of millions are a matter of the next test.
    read_or_refused(sweep, [text for text in overrides if "range" not in text])


INDEX = {"metadata": {"total_size": 4}, "weight_map": {"a": "model-1.safetensors", "b": "model-1.safetensors"}}


@settings(max_examples=150)
@given(st.one_of(spoiled(INDEX), JUNK, st.sampled_from([{"weight_map": {"a": "../../etc/passwd"}}])))
def test_any_index_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, document: object) -> None:
    folder = tmp_path_factory.getbasetemp() / "sharded"
    folder.mkdir(exist_ok=True)
    entries = {name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * n, 4 * n + 4]} for n, name in enumerate("ab")}
    (folder / "model-1.safetensors").write_bytes(raw_safetensors(entries, bytes(8)))
    (folder / "model.safetensors.index.json").write_text(json.dumps(document))
    read_or_refused(open_source, folder)


LOCKED = {
    "schema": 2,
    "recipe": {"experts": {"a": "./a"}, "method": "ties"},
    "identity": "sha256:0",
    "inputs": {"a": {"reference": "./a", "fingerprint": "fp:0", "files": {"m.safetensors": {"bytes": 8}}}},
    "outputs": {"model.safetensors": {"bytes": 8, "fingerprint": "fp:0", "sha256": "0"}},
}


@settings(max_examples=200)
@given(spoiled(LOCKED) | JUNK)
def test_any_lock_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, document: object) -> None:
    folder: Path = tmp_path_factory.getbasetemp() / "locked"
    folder.mkdir(exist_ok=True)
    (folder / LOCK).write_text(json.dumps(document))
    read_or_refused(read_lock, folder)
    read_or_refused(verify, folder)


SCORED = {"digits": {"seen": True, "accuracy": {"value": 0.5, "n": 4, "stderr": 0.25}}}
REPORTED = {
    "schema": 1, "identity": "sha256:" + "0" * 64, "suite": None, "seed": 0,
    "method": {"name": "ties", "version": 1, "params": {}, "compat": None, "inner": None},
    "metrics": {"accuracy": {"unit": "fraction", "better": "higher"}},
    "variants": [{
        "label": None, "params": {}, "tasks": SCORED, "average": {"accuracy": 0.5}, "unseen_average": None,
        "normalized": None, "model": {"kind": "weights", "parameters": 1, "trainable": 0, "bytes": 4},
    }],
    "tasks": SCORED, "average": {"accuracy": 0.5}, "unseen_average": None,
    "primary_average": {"value": 0.5, "metric": "accuracy"},
    "inputs": {"base": "fp:0"}, "adapted_on": None, "selected_on": None, "skipped": {}, "notes": [],
}  # fmt: skip


@settings(max_examples=200)
@given(spoiled(REPORTED) | JUNK)
def test_any_report_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, document: object) -> None:
    path = tmp_path_factory.getbasetemp() / "report.json"
    path.write_text(json.dumps(document))
    read_or_refused(Report.load, path)


def test_what_is_spoiled_was_good(tmp_path: Path) -> None:
    """Else every document above would be refused at its first key."""
    assert list(Recipe.read(TRUE).experts) == ["a", "b"]
    Report.model_validate_json(json.dumps(REPORTED))
    (tmp_path / LOCK).write_text(json.dumps(LOCKED))
    assert read_lock(tmp_path) == LOCKED
    entries = {name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * n, 4 * n + 4]} for n, name in enumerate("ab")}
    (tmp_path / "model-1.safetensors").write_bytes(raw_safetensors(entries, bytes(8)))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(INDEX))
    assert sorted(open_source(tmp_path).specs) == ["a", "b"]
