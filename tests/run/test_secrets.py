"""Nothing of the environment, of which tokens are a part, is in what a run leaves."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fusionbench.config import Recipe
from fusionbench.merge import merge
from fusionbench.report import report
from fusionbench.run import run

Make = Callable[..., Recipe]
SECRETS = {
    "HF_TOKEN": "hf_a1b2c3d4e5f6g7h8",
    "HUGGING_FACE_HUB_TOKEN": "hf_z9y8x7w6v5u4t3s2",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIK7MDENG",
    "WANDB_API_KEY": "0123456789abcdefcafe",
    "NOBODY_KNOWS_THIS_ONE": "sesame-open-yourself",
}


@pytest.fixture(autouse=True)
def told_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def holding(folder: Path) -> list[str]:
    """Files in and below a folder in which a secret, or the name of one, stands."""
    words = [word.encode() for pair in SECRETS.items() for word in pair]
    return [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and any(word in path.read_bytes() for word in words)
    ]


@pytest.mark.parametrize(
    "asked",
    [
        ("task_arithmetic",),
        ("adamerging", "method.steps=2", "method.batch=4", "method.batches=1", "method.checkpoint_every=1"),
        ("fisher", "method.examples=4"),
    ],
)
def test_no_file_of_a_run_or_its_report_holds_a_secret(
    asked: tuple[str, ...], recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(recipe(*asked), out=tmp_path / "runs" / "one")
    report([tmp_path / "runs"], ("md", "csv", "html", "json-long"), tmp_path / "runs" / "report")
    assert len(list((tmp_path / "runs").rglob("*"))) > 10
    assert holding(tmp_path) == []


def test_no_file_of_a_merge_holds_a_secret(suite: Path, tmp_path: Path) -> None:
    models = suite.parent
    named = [f"base={models / 'base'}", f"experts.cats={models / 'cats'}", f"experts.dogs={models / 'dogs'}"]
    merge(Recipe.load(None, [*named, "method=ties", "runtime.threads=1"]), tmp_path / "out", digest=True)
    assert (tmp_path / "out" / "fusion.lock.json").is_file()
    assert holding(tmp_path / "out") == []


def test_a_secret_that_lies_in_a_file_would_be_found(tmp_path: Path) -> None:
    """Else the tests above could not fail."""
    (tmp_path / "a").write_text(f"x{os.environ['HF_TOKEN']}y")
    (tmp_path / "b").write_text("NOBODY_KNOWS_THIS_ONE")
    assert holding(tmp_path) == ["a", "b"]
