"""Coefficients of a run as matrices, from a file that is written here."""

import sys

import fsspec
import numpy as np
import pytest
from safetensors.numpy import save_file

from fusionbench.cli import main
from fusionbench.errors import MissingData
from fusionbench.report.analysis.coefficients import coefficients

NAMES = ("m.embed.weight", "m.layers.0.a.weight", "m.layers.0.b.weight", "m.layers.1.a.weight")


def keep(folder, values, names=NAMES):
    place = folder / "artefacts" / "coefficients"
    place.mkdir(parents=True)
    text = {"experts": "x\ny", "names": "\n".join(names)}
    save_file({"coefficients": np.array(values, np.float32)}, place / "model.safetensors", metadata=text)
    return folder


def test_the_mean_of_each_block_and_each_tensor(tmp_path):
    found = coefficients(keep(tmp_path, [[0.5, 0.25, 0.75, 1.0], [0.0, 0.5, 0.0, 0.25]]))
    assert list(found) == ["coefficients", "coefficients-tensors"]
    blocks, tensors = found.values()
    assert (list(blocks.rows), list(blocks.columns)) == (["x", "y"], ["outside", "block 0", "block 1"])
    assert blocks.values.tolist() == [[0.5, 0.5, 1.0], [0.0, 0.25, 0.25]]
    assert (list(tensors.rows), list(tensors.columns)) == (
        ["embed.weight", "layers.0.a.weight", "layers.0.b.weight", "layers.1.a.weight"], ["x", "y"],
    )  # fmt: skip
    assert tensors.values.tolist() == [[0.5, 0.0], [0.25, 0.5], [0.75, 0.0], [1.0, 0.25]]


def test_one_coefficient_an_expert_is_one_column(tmp_path):
    found = coefficients(keep(tmp_path, [[0.5], [0.25]]))
    assert list(found) == ["coefficients"]
    assert found["coefficients"].values.tolist() == [[0.5], [0.25]]
    assert list(found["coefficients"].columns) == ["all tensors"]


def test_two_stacks_are_told_apart(tmp_path):
    names = ("encoder.block.0.a.weight", "decoder.block.0.a.weight")
    found = coefficients(keep(tmp_path, [[0.5, 1.0], [0.25, 0.0]], names))
    assert list(found["coefficients"].columns) == ["encoder block 0", "decoder block 0"]


def test_a_run_without_coefficients_is_refused_with_what_to_give(tmp_path):
    with pytest.raises(MissingData, match="finished run of adamerging"):
        coefficients(tmp_path)


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_those_of_a_run_at_an_address_are_those_of_its_folder(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path / "cache"))
    run = keep(tmp_path / "run", [[0.5, 0.25, 0.75, 1.0], [0.0, 0.5, 0.0, 0.25]])
    (run / "report.json").write_text("{}")
    address = f"file://{tmp_path}/store/run" if kind == "file" else "memory://store/run"
    system, top = fsspec.core.url_to_fs(address)
    try:
        system.put(str(run), top, recursive=True)
        for place in (run, address):
            asked = ["analyze", "coefficients", str(place), "--out", str(tmp_path / "out" / str(place == run))]
            monkeypatch.setattr(sys, "argv", ["fusionbench", *asked])
            with pytest.raises(SystemExit) as ended:
                main()
            assert not ended.value.code
        found, expected = ((tmp_path / "out" / name / "coefficients.csv").read_text() for name in ("False", "True"))
        assert found == expected
    finally:
        fsspec.filesystem("memory").store.clear()
