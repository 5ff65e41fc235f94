"""Code that lies beside a model is never run, whoever would answer transformers' question."""

import json
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from transformers import AutoImageProcessor, AutoTokenizer

from fusionbench.errors import CheckpointError
from fusionbench.families import family_named
from fusionbench.families.hugging_face import loaded
from fusionbench.families.image_processor import read_image_processor
from fusionbench.families.tokens import tokenizer_in
from fusionbench.weights.sources import open_source
from tiny_clip import clip_folder

__all__ = ["clip_folder"]
OWN = "from pathlib import Path\nPath({ran!r}).write_text('')\nclass Own:\n    pass\n"


@pytest.fixture
def hostile(clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose tokenizer and image processor are classes of its own, and somebody who says yes to all."""
    folder = tmp_path / "model"
    shutil.copytree(clip_folder, folder)
    (folder / "own.py").write_text(OWN.format(ran=str(tmp_path / "ran")))
    for name, kind, mapped in (
        ("tokenizer_config.json", "tokenizer_class", {"AutoTokenizer": [None, "own.Own"]}),
        ("preprocessor_config.json", "image_processor_type", {"AutoImageProcessor": "own.Own"}),
    ):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {kind: "Own", "auto_map": mapped}))
    # Without a known kind of model transformers has no tokenizer of its own to fall back on.
    shutil.copytree(folder, tmp_path / "texts", ignore=shutil.ignore_patterns("config.json", "*.safetensors"))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    return folder


def test_left_to_itself_transformers_would_have_run_it(hostile: Path, tmp_path: Path) -> None:
    """Else the tests below could not fail."""
    with suppress(Exception):
        AutoTokenizer.from_pretrained(tmp_path / "texts")("cat")
    assert (tmp_path / "ran").exists()


def test_a_tokenizer_of_its_own_is_refused(hostile: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"texts needs Python code of its own for its tokenizer, which is never"):
        tokenizer_in(tmp_path / "texts")
    with suppress(CheckpointError):
        family_named("clip").tokenize(open_source(hostile), ["cat"])
    assert not (tmp_path / "ran").exists()


def test_an_image_processor_of_its_own_is_refused(hostile: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="needs Python code of its own for its imageprocessor"):
        loaded(AutoImageProcessor, hostile, backend="pil")
    assert not (tmp_path / "ran").exists()


def test_a_model_of_its_own_is_never_built_from_its_code(hostile: Path, tmp_path: Path) -> None:
    config = {**json.loads((hostile / "config.json").read_text()), "auto_map": {"AutoModel": "own.Own"}}
    assert type(family_named("clip").skeleton(config)).__name__ == "CLIPModel"
    assert read_image_processor(open_source(hostile), 32).size == 32
    assert not (tmp_path / "ran").exists()


def test_a_damaged_tokenizer_is_an_error_of_ours(clip_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(clip_folder, tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text("{")
    (tmp_path / "model" / "tokenizer_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"model: AutoTokenizer cannot read it"):
        tokenizer_in(tmp_path / "model")
