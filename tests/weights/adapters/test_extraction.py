"""A LoRA made of two checkpoints: the best of its rank, and PEFT loads it."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel
from torch import nn

from adapted import ALL, GPT2_ALL, adapt, gpt2, llama, values
from checkpoints import read_model, save_model
from fusionbench.errors import ConfigError, IncompatibleModels, NotFinite
from fusionbench.weights.adapters import extract_lora, open_adapter
from fusionbench.weights.sources import open_source


def extract(folder: Path, rank: int, model: str = "merged1"):
    return extract_lora(open_source(folder / "base"), open_source(folder / model), rank, folder / "lora")


def by_peft(model: nn.Module, folder: Path) -> dict[str, torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(model, folder).merge_and_unload().state_dict()


@pytest.mark.parametrize(
    ("make", "config"),
    [
        (llama, LoraConfig(r=3, target_modules=[*ALL, "lm_head"], modules_to_save=["norm"])),
        (gpt2, LoraConfig(r=3, target_modules=GPT2_ALL, fan_in_fan_out=True)),
        (gpt2, LoraConfig(r=3, target_modules=["c_attn"], fan_in_fan_out=True, bias="all")),
    ],
    ids=["linear", "conv1d", "biases"],
)
def test_what_a_rank_can_hold_comes_back_from_the_adapter_by_us_and_by_peft(tmp_path, make, config):
    adapt(tmp_path, make(), config)
    found = extract(tmp_path, 3)
    assert all(share == pytest.approx(1, abs=1e-6) for share in found.kept.values())
    ours = open_adapter(found.folder, open_source(tmp_path / "base"))
    theirs = by_peft(make(), found.folder)
    for name, expected in read_model(tmp_path / "merged1").items():
        np.testing.assert_allclose(values(ours, name), expected.numpy(), atol=1e-5, err_msg=name)
        torch.testing.assert_close(theirs[name], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (5, 5)])
def test_no_matrix_of_the_rank_is_nearer(tmp_path, shape):
    torch.manual_seed(3)
    base, delta = torch.randn(shape), torch.randn(shape)
    save_model(tmp_path / "base", {"a.weight": base, "b.weight": torch.ones(1, 4)})
    save_model(tmp_path / "model", {"a.weight": base + delta, "b.weight": torch.ones(1, 4) * 3})
    found = extract(tmp_path, 2, "model")
    left, sigma, right = torch.linalg.svd(delta.double(), full_matrices=False)
    best = (left[:, :2] * sigma[:2]) @ right[:2]
    source = open_adapter(found.folder, open_source(tmp_path / "base"))
    np.testing.assert_allclose(values(source, "a.weight"), (base + best).numpy(), atol=1e-5)
    np.testing.assert_allclose(values(source, "b.weight"), np.full((1, 4), 3.0), atol=1e-6)
    assert found.kept["a.weight"] == pytest.approx(float((sigma[:2] ** 2).sum() / (sigma**2).sum()), abs=1e-6)


def test_matrices_that_did_not_change_are_left_out(tmp_path):
    adapt(tmp_path, llama(), LoraConfig(r=2, target_modules=["q_proj"]))
    found = extract(tmp_path, 2)
    assert set(found.kept) == {f"model.layers.{depth}.self_attn.q_proj.weight" for depth in (0, 1)}
    assert json.loads((found.folder / "adapter_config.json").read_text())["modules_to_save"] is None


@pytest.mark.parametrize(
    ("changes", "config", "reason"),
    [
        (
            {"model.embed_tokens.weight": torch.ones(4, 2)},
            {"tie_word_embeddings": True},
            r"embed_tokens\.weight is tied",
        ),
        ({"cls_token": torch.ones(1, 1, 2)}, {}, "the model holds a parameter beside its modules"),
        ({"block.gate": torch.ones(2)}, {}, "block holds a parameter beside its modules"),
    ],
    ids=["tied", "bare", "beside modules"],
)
def test_changes_that_no_adapter_can_hold_are_refused(tmp_path, changes, config, reason):
    base = {name: torch.zeros_like(tensor) for name, tensor in changes.items()}
    weight = {"block.linear.weight": torch.ones(2, 2)}
    save_model(tmp_path / "base", base | weight, config)
    save_model(tmp_path / "model", changes | {"block.linear.weight": torch.eye(2)}, config)
    with pytest.raises(IncompatibleModels, match=reason):
        extract(tmp_path, 1, "model")
    assert not (tmp_path / "lora").exists()


def test_a_rank_below_one_and_models_without_a_difference_are_refused(tmp_path):
    save_model(tmp_path / "base", {"a.weight": torch.ones(2, 2)})
    with pytest.raises(ConfigError, match="rank should be at least 1, it is 0"):
        extract(tmp_path, 0, "base")
    with pytest.raises(ConfigError, match="No matrix"):
        extract(tmp_path, 1, "base")


def test_a_nan_is_refused_and_nothing_is_left(tmp_path):
    save_model(tmp_path / "base", {"a.weight": torch.ones(2, 2)})
    save_model(tmp_path / "model", {"a.weight": torch.tensor([[1.0, torch.nan], [0.0, 1.0]])})
    with pytest.raises(NotFinite, match=r"a\.weight of .*model"):
        extract(tmp_path, 1, "model")
    assert not (tmp_path / "lora").exists()
