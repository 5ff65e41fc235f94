"""What the verbs share: an option that takes folders only refuses addresses, before anything is done."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from fusionbench.cli.application import application


@pytest.mark.parametrize(
    "words",
    [["evaluate", "x", "suite=mini/clip"], ["finetune", "suite=mini/clip"], ["analyze", "cosine", "suite=mini/clip"]],
    ids=lambda words: words[0],
)
def test_an_address_is_no_folder(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(application, [*words, "--out", "s3://bucket/runs"])
    assert found.exit_code == 2
    assert "s3://bucket/runs is an address" in found.output.replace("\n", " ")
    assert not list(tmp_path.iterdir())
