"""What a suite needs is fetched once; what cannot be had is told all at once, each with its fix."""

import json
from pathlib import Path

import pytest

from fusionbench.errors import CheckpointError, MissingData
from fusionbench.suites import Suite
from fusionbench.suites.fetching import fetch_suite
from fusionbench.suites.paper import describe, suite_of
from fusionbench.tasks.datasets import open_splits
from fusionbench.weights.hub import resolve
from hub_stand_in import HubCache


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubCache:
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path / "cache"))
    return HubCache(tmp_path / "hub").use(monkeypatch)


def add_model(hub: HubCache, name: str) -> Path:
    place = hub.model(name)
    (place / "config.json").write_text("{}")
    (place / "model.safetensors").write_bytes(b"weights")
    return place


def add_data(hub: HubCache, name: str, config: str) -> None:
    import datasets

    held = datasets.Dataset.from_dict({"sentence": ["a", "b"], "label": [0, 1]})
    hub.dataset(name, {"train": held, "validation": held}, config)


def glue(*experts: str) -> Suite:
    return suite_of("gpt2/glue7", describe("gpt2/glue7")).restricted(experts, None)


def test_everything_that_is_there_is_said_to_be_there_once(hub):
    for name in ("gpt2", "tanganke/gpt2_cola", "tanganke/gpt2_sst2"):
        add_model(hub, name)
    add_data(hub, "nyu-mll/glue", "cola")
    add_data(hub, "nyu-mll/glue", "sst2")
    told: list[str] = []
    found = fetch_suite(glue("cola", "sst2"), lambda what, done, total: told.append(f"{what} {done}/{total}"))
    assert [(item.what, item.reference) for item in found] == [
        ("model base", "gpt2"), ("model cola", "tanganke/gpt2_cola"), ("model sst2", "tanganke/gpt2_sst2"),
        ("data cola", "nyu-mll/glue (cola)"), ("data sst2", "nyu-mll/glue (sst2)"),
    ]  # fmt: skip
    assert [item.problem for item in found] == [None] * 5
    assert told[0] == "fetching gpt2 0/5"
    assert told[-1] == "fetching 5/5"


def test_what_is_missing_is_told_all_at_once_with_how_to_have_it(hub):
    add_model(hub, "gpt2")
    problems = {item.what: item.problem for item in fetch_suite(glue("cola"))}
    assert problems["model base"] is None
    assert "HF_HUB_OFFLINE is set" in str(problems["model cola"])
    assert "fusionbench fetch" in str(problems["data cola"])


def test_local_files_are_asked_for_with_their_place_and_source(hub, tmp_path):
    suite = suite_of("openclip-vit-b32/ta8", describe("openclip-vit-b32/ta8")).restricted(("mnist",), None)
    problems = {item.what: str(item.problem) for item in fetch_suite(suite)}
    assert set(problems) == {"model base", "model mnist", "head mnist", "data mnist"}
    for what, file in (("model base", "zeroshot.pt"), ("head mnist", "head_MNIST.pt")):
        assert str(tmp_path / "cache" / "models" / "task_vectors" / "ViT-B-32" / file) in problems[what]
        assert "github.com/mlfoundations/task_vectors" in problems[what]


def test_a_download_that_stopped_before_the_weights_is_not_used(hub):
    place = hub.model("org/begun")
    (place / "config.json").write_text("{}")
    blobs = place.parents[1] / "blobs"
    blobs.mkdir()
    (blobs / "abc.incomplete").write_bytes(b"half")
    with pytest.raises(
        CheckpointError, match=r"downloaded only in part: its weights .*go on with: hf download org/begun"
    ):
        resolve("org/begun")
    (blobs / "abc.incomplete").unlink()
    assert resolve("org/begun") == place


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_a_download_that_stopped_between_shards_is_not_used(hub, form):
    place = hub.model("org/sharded")
    names = [f"model-0000{number}-of-00002.{form}" for number in (1, 2)]
    index = {"weight_map": {"a": names[0], "b": names[1]}}
    stem = "model.safetensors" if form == "safetensors" else "pytorch_model.bin"
    (place / f"{stem}.index.json").write_text(json.dumps(index))
    (place / names[0]).write_bytes(b"one")
    with pytest.raises(CheckpointError, match=f"only in part: {names[1]} is missing"):
        resolve("org/sharded@main")
    (place / names[1]).write_bytes(b"two")
    assert resolve("org/sharded") == place


def test_a_repository_that_holds_older_weights_too_is_whole_without_them(hub):
    place = add_model(hub, "org/both")
    (place / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "pytorch_model-1.bin"}}))
    assert resolve("org/both") == place


def test_older_weights_are_fetched_where_there_are_no_others(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def download(repository, *, revision, allow_patterns):
        asked.append(allow_patterns)
        if any(pattern.endswith(".bin") for pattern in allow_patterns):
            (tmp_path / "a" / "snapshots" / "b" / "pytorch_model.bin").write_bytes(b"weights")
        return str(tmp_path / "a" / "snapshots" / "b")

    (tmp_path / "a" / "snapshots" / "b").mkdir(parents=True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    resolve("org/older")
    assert len(asked) == 2
    assert not any(pattern.endswith(".bin") for pattern in asked[0])


def test_data_that_are_not_there_are_one_error_with_the_fix(hub):
    with pytest.raises(MissingData, match=r"cannot be had: .* fusionbench fetch suite=NAME.*hf auth login") as error:
        open_splits("org/absent", None, None)
    assert "\n" not in str(error.value)
