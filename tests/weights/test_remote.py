"""Models of the hub that are not downloaded are planned and looked at from their headers."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_server import COMMIT, Hub, hub_of
from huggingface_hub import constants

from checkpoints import save_model
from fusionbench import forecast as forecasting
from fusionbench.config import Recipe
from fusionbench.errors import CheckpointError
from fusionbench.forecast import forecast
from fusionbench.weights import remote
from fusionbench.weights.inspection import inspect
from fusionbench.weights.remote import RemoteSource, is_remote, open_headers
from fusionbench.weights.safetensors import open_safetensors


def tensors(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"embed.weight": (3000, 40), "a.weight": (300, 400), "b.weight": (300, 400), "norm.weight": (40,)}
    found = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {**found, "lm_head.weight": found["embed.weight"].clone()}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for number, name in enumerate(("base", "math", "code")):
        save_model(tmp_path / "served" / "org" / name, tensors(number), {"model_type": "toy"}, shards=1 + number)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    remote._remote.cache_clear()
    with hub_of(tmp_path / "served") as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server
    remote._remote.cache_clear()


@pytest.mark.parametrize("name", ["base", "math", "code"])
def test_tensors_configuration_and_sizes_are_those_of_the_files(name: str, hub: Hub) -> None:
    folder = hub.root / "org" / name
    local = open_safetensors("m", folder)
    found = open_headers(f"org/{name}")
    assert isinstance(found, RemoteSource)
    assert dict(found.specs) == dict(local.specs)
    assert found.config == {"model_type": "toy"}
    assert found.file_bytes == sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert found.fingerprint() == f"hub:org/{name}@{COMMIT}"
    assert bytes(found.read("a.weight", 5, 1000)) == bytes(local.read("a.weight", 5, 1000))
    assert bytes(found.read("norm.weight")) == bytes(local.read("norm.weight"))
    assert bytes(found.read("norm.weight", 40)) == b""


def test_only_headers_are_fetched_and_nothing_is_kept(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "FIRST_BYTES", 60)
    found = open_headers("org/code")
    assert len(found.specs) == 5
    assert hub.sent < 10_000 < 1_900_000 < found.file_bytes
    assert not (tmp_path / "cache").exists()
    # The header of each of three files in two parts, the index, the configuration, and what there is.
    assert len([path for path, _ in hub.asked if "org/code" in path]) == 3 * 2 + 3


def test_what_is_here_is_read_from_here(hub: Hub, tmp_path: Path) -> None:
    assert not is_remote(tmp_path / "served" / "org" / "base")
    assert isinstance(
        open_headers(tmp_path / "served" / "org" / "base"), type(open_safetensors("m", hub.root / "org/base"))
    )
    snapshot = tmp_path / "cache" / "models--org--base" / "snapshots" / COMMIT
    save_model(snapshot, tensors(0), {"model_type": "toy"})
    (tmp_path / "cache" / "models--org--base" / "refs").mkdir()
    (tmp_path / "cache" / "models--org--base" / "refs" / "main").write_text(COMMIT)
    assert not is_remote("org/base@main")
    assert is_remote("org/math")


def test_a_download_that_was_interrupted_is_not_here(hub: Hub, tmp_path: Path) -> None:
    snapshot = tmp_path / "cache" / "models--org--code" / "snapshots" / COMMIT
    save_model(snapshot, tensors(2), {"model_type": "toy"}, shards=3)
    (snapshot / "model-00002-of-00003.safetensors").unlink()
    (tmp_path / "cache" / "models--org--code" / "refs").mkdir()
    (tmp_path / "cache" / "models--org--code" / "refs" / "main").write_text(COMMIT)
    assert is_remote("org/code")


def test_a_merge_of_models_that_are_not_downloaded_is_planned(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecasting, "LONG_ENOUGH", 0.0)
    asked = [
        "experts.math=org/math@main",
        f"experts.code={hub.root / 'org' / 'code'}",
        "method=ties",
        "runtime.threads=1",
    ]
    found = forecast(Recipe.load(None, ["base=org/base", *asked]), tmp_path / "out")
    local = forecast(Recipe.load(None, [f"base={hub.root / 'org' / 'base'}", *asked]), tmp_path / "out")
    assert (found.tensors, found.parameters, found.read, found.written) == (
        local.tensors, local.parameters, local.read, local.written
    )  # fmt: skip
    sizes = [
        path.stat().st_size for name in ("base", "math") for path in (hub.root / "org" / name).glob("*.safetensors")
    ]
    assert found.fetched == sum(sizes)
    assert local.fetched == sum(sizes[1:])
    assert not (tmp_path / "cache").exists()
    assert hub.sent < 4_000_000 < sum(sizes) * 2


def test_models_that_are_not_downloaded_are_inspected(hub: Hub) -> None:
    found = inspect([open_headers("org/base"), open_headers("org/math")])
    assert found.misfits == ()
    assert [facts.parameters for facts in found.facts] == [480_040, 480_040]
    assert any("lm_head.weight is embed.weight once more" in note for note in found.notes)


def test_an_adapter_of_the_hub_is_downloaded_as_before(hub: Hub) -> None:
    folder = hub.root / "org" / "lora"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"")
    assert not is_remote("org/lora")


def refusal(reference: str) -> str:
    with pytest.raises(CheckpointError) as error:
        open_headers(reference)
    return str(error.value)


def test_what_the_hub_does_not_have_is_one_error(hub: Hub) -> None:
    assert "no such repository" in refusal("org/absent")
    assert "has no revision 'v9'" in refusal("org/base@v9")
    (hub.root / "org" / "pickled").mkdir()
    (hub.root / "org" / "pickled" / "pytorch_model.bin").write_bytes(b"")
    assert "hf download org/pickled" in refusal("org/pickled")


def test_a_hub_that_is_not_there_or_not_to_be_asked_is_told_with_the_fix(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "the hub cannot be reached (" in (said := refusal("org/base"))
    assert "hf download org/base" in said
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in (said := refusal("org/base"))
    assert "hf download org/base" in said


def test_files_that_lie_and_servers_that_send_all_are_refused(hub: Hub) -> None:
    file = hub.root / "org" / "base" / "model.safetensors"
    whole = file.read_bytes()
    for damaged in (whole[:-8], b"\xff" * 8 + whole[8:], whole[:40] + b"}" + whole[41:], b"x"):
        file.write_bytes(damaged)
        assert "model.safetensors of org/base" in refusal("org/base")
    file.write_bytes(whole)
    hub.in_parts = False
    assert "does not give parts of model.safetensors of org/base" in refusal("org/base")
    (hub.root / "org" / "code" / "model.safetensors.index.json").write_text("[]")
    assert "org/code" in refusal("org/code")


def test_the_command_asks_the_address_that_the_environment_names(hub: Hub, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "fusionbench.cli", "inspect", "org/base", "org/math", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert '"parameters": 480040' in done.stdout
