"""The authors' (IA)³ files against their definition: outputs of k, v and wi_1 times a vector."""

import warnings

import pytest
import torch
from peft import IA3Config, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import T5Config, T5ForConditionalGeneration

from fusionbench.errors import CheckpointError, OutputError
from fusionbench.families import family_named, load_module
from fusionbench.weights.adapters import open_adapter
from fusionbench.weights.adapters.ia3_vectors import write_ia3_folder
from fusionbench.weights.sources import open_source


@pytest.fixture
def model(tmp_path) -> T5ForConditionalGeneration:
    sizes = {"vocab_size": 20, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = T5ForConditionalGeneration(
            T5Config(**sizes, decoder_start_token_id=0, feed_forward_proj="gated-gelu", dropout_rate=0.0)
        ).eval()
    made.save_pretrained(tmp_path / "base")
    return made


def vectors_of(model, seed: int = 0) -> dict[str, torch.Tensor]:
    drawn, found = torch.Generator().manual_seed(seed), {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name.rpartition(".")[2] in ("k", "v", "wi_1"):
            found[f"transformer.{name}.ia3_vector"] = 1 + 0.5 * torch.randn(module.out_features, generator=drawn)
    return found


def test_the_folder_is_the_model_whose_outputs_are_scaled(model, tmp_path):
    vectors = vectors_of(model)
    # Keys and values of each attention, two in the decoder's blocks, and one map of each feed-forward network.
    assert len(vectors) == 2 * (2 + 1) + 2 * (4 + 1)
    torch.save(vectors, tmp_path / "rte.pt")
    folder = write_ia3_folder(tmp_path / "rte.pt", tmp_path / "rte", "base")
    base = open_source(tmp_path / "base")
    ours = load_module(family_named("t5"), open_adapter(folder, base, "dense"), base.config)
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 1]]), "decoder_input_ids": torch.tensor([[0, 8]])}
    for name, vector in vectors.items():
        site = model.get_submodule(name.removeprefix("transformer.").removesuffix(".ia3_vector"))
        site.register_forward_hook(lambda module, given, output, vector=vector: output * vector)
    with torch.inference_mode():
        expected = model(**inputs).logits
        torch.testing.assert_close(ours(**inputs).logits, expected, rtol=1e-4, atol=1e-5)


def test_names_and_shapes_are_those_that_peft_gives_such_an_adapter(model, tmp_path):
    torch.save(vectors_of(model), tmp_path / "rte.pt")
    folder = write_ia3_folder(tmp_path / "rte.pt", tmp_path / "rte", "base")
    with warnings.catch_warnings():
        # PEFT asks Transformers for something by its older name.
        warnings.simplefilter("ignore", FutureWarning)
        theirs = get_peft_model_state_dict(get_peft_model(model, IA3Config(task_type="SEQ_2_SEQ_LM")))
    ours = load_file(folder / "adapter_model.safetensors")
    assert {name: tensor.shape for name, tensor in ours.items()} == {name: one.shape for name, one in theirs.items()}


def test_other_files_are_refused_and_nothing_is_written(model, tmp_path):
    vectors = vectors_of(model)
    wrong = {
        "weights": {"shared.weight": torch.ones(2, 2)},
        "matrix": vectors | {"transformer.encoder.k.ia3_vector": torch.ones(2, 2)},
        "empty": {},
    }
    for name, content in wrong.items():
        torch.save(content, tmp_path / f"{name}.pt")
        with pytest.raises(CheckpointError, match=rf"{name}\.pt"):
            write_ia3_folder(tmp_path / f"{name}.pt", tmp_path / "out", "base")
        assert not (tmp_path / "out").exists()
    torch.save(vectors, tmp_path / "right.pt")
    write_ia3_folder(tmp_path / "right.pt", tmp_path / "out", "base")
    with pytest.raises(OutputError, match="exists"):
        write_ia3_folder(tmp_path / "right.pt", tmp_path / "out", "base")
