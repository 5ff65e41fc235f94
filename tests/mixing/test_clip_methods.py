"""Rebuilding methods on a whole model: what their folders hold, and who can load them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from clips import logits, make_pool, pets, rebuilt, recipe_of
from safetensors.torch import load_file

from fusionbench import fuse
from fusionbench.families.clip import Clip
from fusionbench.merge import open_pool
from fusionbench.methods._routing import build_routed_model
from fusionbench.mixing.mixed import open_mixed
from fusionbench.weights.sources import open_source

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_pool(tmp_path_factory.mktemp("clips"))


def test_singular_projection_gives_a_plain_model_that_transformers_loads(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    from transformers import CLIPModel

    rebuilt(folders, tmp_path / "out", "singular_projection", "method.k=16", "method.expert=e1")
    assert not (tmp_path / "out" / "fusion_config.json").exists()
    found = CLIPModel.from_pretrained(tmp_path / "out").state_dict()
    base, tuned = (load_file(folders[name] / "model.safetensors") for name in ("base", "e1"))
    for name in ("vision_model.encoder.layers.1.self_attn.q_proj.weight", "vision_model.post_layernorm.bias"):
        # Square: all 16 directions are the whole fine-tuned matrix.
        torch.testing.assert_close(found[name], tuned[name], atol=1e-4, rtol=1e-4)
    assert torch.equal(found["visual_projection.weight"], base["visual_projection.weight"])


def test_bitdelta_adds_a_bit_an_entry_and_a_number_a_map(folders: dict[str, Path], tmp_path: Path) -> None:
    """Tiny CLIP: 2 blocks of four maps 16 × 16, one 32 × 16 and one 16 × 32; a word holds 32 signs."""
    before = {name: (path / "model.safetensors").read_bytes() for name, path in folders.items()}
    merged = rebuilt(folders, tmp_path / "out", "bitdelta", "method.expert=e0")
    base, found = (load_file(place / "model.safetensors") for place in (folders["base"], tmp_path / "out"))
    added = [tensor for name, tensor in found.items() if name.endswith((".words", ".scale"))]
    assert sum(tensor.nbytes for tensor in added) == 2 * (4 * (16 * 4 + 4) + (32 * 4 + 4) + (16 * 4 + 4))
    assert merged.bytes == sum(tensor.nbytes for tensor in base.values()) + sum(tensor.nbytes for tensor in added)
    norm = "vision_model.post_layernorm.weight"
    assert torch.equal(found[norm], load_file(folders["e0"] / "model.safetensors")[norm])
    model = open_mixed(open_source(tmp_path / "out"))
    assert model is not None
    model.save(tmp_path / "again")
    again = open_mixed(open_source(tmp_path / "again"))
    task = pets(folders["base"])
    assert torch.equal(logits(again, task), logits(model, task))
    assert {name: (path / "model.safetensors").read_bytes() for name, path in folders.items()} == before


def test_a_routed_model_is_saved_and_opened_to_the_same_answers(folders: dict[str, Path], tmp_path: Path) -> None:
    pool = open_pool(recipe_of(folders, "simple_average"))
    context: Any = SimpleNamespace(family=Clip(), seed=0, device=torch.device("cpu"))
    model = build_routed_model(pool, context, "wemoe", {"depth": 2, "init": 0.3, "route": "sample"})
    task = pets(folders["base"])
    model.save(tmp_path / "routed")
    again = open_mixed(open_source(tmp_path / "routed"))
    assert again is not None
    assert torch.equal(logits(again, task), logits(model, task))
    assert again.trainable == 2 * (16 * 16 + 16 + 16 * 2 + 2)


def test_a_routed_model_with_silent_routers_is_task_arithmetic(folders: dict[str, Path]) -> None:
    pool = open_pool(recipe_of(folders, "simple_average"))
    context: Any = SimpleNamespace(family=Clip(), seed=0, device=torch.device("cpu"))
    model = build_routed_model(pool, context, "wemoe", {"depth": 0, "init": 0.3, "route": "sample"})
    task = pets(folders["base"])
    merged = fuse("task_arithmetic", {name: str(path) for name, path in folders.items()}, scale=0.3)
    torch.testing.assert_close(logits(model, task), logits(merged, task), atol=1e-3, rtol=1e-3)
