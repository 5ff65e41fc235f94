"""FusionBench's published L-LoRA folders, stood in for by files of their layout, against the expansion itself."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.func import jvp

from fusionbench.errors import CheckpointError, ConfigError
from fusionbench.weights.adapters import is_adapter, open_adapter
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights

NAME = "encoder.layers.0.self_attn.q_proj"
WIDTH, RANK, ALPHA = 6, 2, 8.0


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def trained() -> dict[str, Tensor]:
    """A layer after training, as published: places 2 and 3 are those of A and B behind the map's weight and bias."""
    inside = f"base_model.model.{NAME}"
    return {
        f"{inside}.model.lora_A.default.weight": drawn(RANK, WIDTH, seed=1),
        f"{inside}.model.lora_B.default.weight": drawn(WIDTH, RANK, seed=2),
        f"{inside}.params0_values.2": drawn(RANK, WIDTH, seed=3),
        f"{inside}.params0_values.3": torch.zeros(WIDTH, RANK),
    }


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    weights = {f"vision_model.{NAME}.weight": drawn(WIDTH, WIDTH, seed=0), "vision_model.other": torch.ones(3)}
    save_file(weights, folder / "model.safetensors")
    return folder


def published(folder: Path, tensors: dict[str, Tensor]) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "linearized_adapter_model.safetensors")
    document = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "init_lora_weights": True, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(document))
    return folder


def test_base_and_adapter_are_the_layers_taylor_expansion(
    tmp_path: Path, base: Path, trained: dict[str, Tensor]
) -> None:
    adapter = published(tmp_path / "adapter", trained)
    weight = LazyWeights(open_source(base))[f"vision_model.{NAME}.weight"].clone()
    a, b, a0, b0 = trained.values()
    inputs = drawn(5, WIDTH, seed=4)

    def layer(a: Tensor, b: Tensor) -> Tensor:
        return inputs @ weight.T + ALPHA / RANK * (inputs @ a.T @ b.T)

    with warnings.catch_warnings():
        # What torch itself imports for the first jvp is deprecated there.
        warnings.simplefilter("ignore", DeprecationWarning)
        value, change = jvp(layer, (a0, b0), (a - a0, b - b0))
    found = LazyWeights(open_adapter(adapter, open_source(base)))

    assert is_adapter(adapter)
    torch.testing.assert_close(inputs @ found[f"vision_model.{NAME}.weight"].T, value + change)
    assert torch.equal(found["vision_model.other"], torch.ones(3))


def test_the_a_of_the_end_of_training_has_no_influence(tmp_path: Path, base: Path, trained: dict[str, Tensor]) -> None:
    name = next(iter(trained))
    moved = published(tmp_path / "moved", trained | {name: trained[name] + 1})
    kept = published(tmp_path / "kept", trained)
    one, other = (LazyWeights(open_adapter(place, open_source(base))) for place in (moved, kept))

    assert torch.equal(one[f"vision_model.{NAME}.weight"], other[f"vision_model.{NAME}.weight"])


@pytest.mark.parametrize("lacking", range(4))
def test_a_file_that_lacks_a_tensor_is_refused_by_the_layers_name(
    tmp_path: Path, base: Path, trained: dict[str, Tensor], lacking: int
) -> None:
    del trained[list(trained)[lacking]]
    with pytest.raises(CheckpointError, match=rf"{NAME} lacks A, B or their values at the start.*incomplete"):
        open_adapter(published(tmp_path / "adapter", trained), open_source(base))


def test_a_start_of_b_that_is_not_zero_is_refused(tmp_path: Path, base: Path, trained: dict[str, Tensor]) -> None:
    trained[list(trained)[3]][1, 1] = 1e-3
    with pytest.raises(CheckpointError, match=r"params0_values\.3, the start of a B, is not 0"):
        open_adapter(published(tmp_path / "adapter", trained), open_source(base))


def test_tensors_of_no_linearised_layer_are_refused(tmp_path: Path, base: Path, trained: dict[str, Tensor]) -> None:
    folder = published(tmp_path / "adapter", trained | {"classifier.weight": torch.ones(2, 2)})
    with pytest.raises(CheckpointError, match=r"holds tensors of no linearised LoRA layer: classifier\.weight"):
        open_adapter(folder, open_source(base))


def test_in_adapter_space_it_is_refused_as_every_lora(tmp_path: Path, base: Path, trained: dict[str, Tensor]) -> None:
    with pytest.raises(ConfigError, match="LoRA adapters are merged as models: space=dense"):
        open_adapter(published(tmp_path / "adapter", trained), open_source(base), "adapter")


def test_the_digest_changes_with_the_content(tmp_path: Path, base: Path, trained: dict[str, Tensor]) -> None:
    model, places = open_source(base), {"a": trained, "b": dict(trained), "c": dict(trained)}
    places["c"] = trained | {list(trained)[1]: trained[list(trained)[1]] * 2}
    a, b, c = (open_adapter(published(tmp_path / name, held), model).fingerprint() for name, held in places.items())

    assert a == b
    assert a != c
