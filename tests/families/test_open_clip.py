"""OpenCLIP's image tower held against torch's own layers, as the release's code stacked them."""

import numpy as np
import pytest
import torch

from fusionbench.families import family_for, load_module, weights_in
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights
from tiny_open_clip import make_encoder, write_module


@pytest.fixture
def zeroshot(tmp_path, monkeypatch):
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path / "cache"))
    write_module(make_encoder(0), tmp_path / "zeroshot.pt")
    return open_source(tmp_path / "zeroshot.pt")


def batch(family, count: int = 3):
    images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return family.collate([{"image": image} for image in images])


def test_its_features_are_those_of_the_code_that_made_the_file(zeroshot):
    family = family_for(zeroshot.config)
    assert family.name == "open_clip"
    inputs = batch(family)
    with torch.inference_mode():
        ours = family.features(load_module(family, zeroshot), inputs)
        theirs = make_encoder(0)(inputs["pixel_values"])
    assert ours.shape == (3, 8)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_other_weights_under_the_files_names_change_it_for_a_while(zeroshot, tmp_path):
    write_module(make_encoder(1), tmp_path / "finetuned.pt")
    family = family_for(zeroshot.config)
    module = load_module(family, zeroshot)
    inputs = batch(family)
    before = family.features(module, inputs)
    with weights_in(module, LazyWeights(open_source(tmp_path / "finetuned.pt"))), torch.inference_mode():
        inside = family.features(module, inputs)
    torch.testing.assert_close(inside, make_encoder(1)(inputs["pixel_values"]), rtol=1e-5, atol=1e-5)
    assert torch.equal(family.features(module, inputs), before)


def test_every_tensor_of_the_file_has_a_place_with_the_unused_ones_too(zeroshot):
    family = family_for(zeroshot.config)
    module = load_module(family, zeroshot)
    assert sum(parameter.numel() for parameter in module.parameters()) == sum(s.size for s in zeroshot.specs.values())
    assert family.names(zeroshot.specs)["model.token_embedding.weight"] == "others.token_embedding_weight"
    some = {"model.logit_scale": zeroshot.specs["model.logit_scale"]}
    assert family.names(some) == {"model.logit_scale": "others.logit_scale"}


def test_its_parts_are_found(zeroshot):
    family = family_for(zeroshot.config)
    module = load_module(family, zeroshot)
    blocks = ["visual.transformer.resblocks.0", "visual.transformer.resblocks.1"]
    assert family.blocks(module) == blocks
    assert family.mlps(module) == [f"{block}.mlp" for block in blocks]
    names = [site.name for site in family.linears(module)]
    assert names[:4] == [f"{blocks[0]}.{part}" for part in ("attn.in_proj", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")]
    assert len(names) == 8
