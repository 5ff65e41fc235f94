"""One implementation serves every architecture that has the parts: tiny models of Hugging Face's, on disk."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fusionbench.errors import ConfigError, MissingPart
from fusionbench.families import family_for, load_module
from fusionbench.mixing.mixed import open_mixed
from fusionbench.run.rebuild import rebuild_to
from fusionbench.weights.sources import open_source

TEXT = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 20}
TOKENS = {
    "input_ids": torch.tensor([[3, 4, 5, 6], [7, 8, 9, 1]]),
    "attention_mask": torch.ones(2, 4, dtype=torch.int64),
}
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "gpt2": ("AutoModel", {"n_embd": 16, "n_head": 2, "n_layer": 2, "vocab_size": 20, "n_positions": 8}, TOKENS),
    "bert": ("AutoModel", TEXT | {"max_position_embeddings": 8}, TOKENS),
    "t5": ("AutoModelForSeq2SeqLM",
           {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "vocab_size": 20}, TOKENS),
    "vit": ("AutoModel",
            {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
             "image_size": 8, "patch_size": 4}, {"pixel_values": torch.randn(2, 3, 8, 8)}),
    "dinov2": ("AutoModel",
               {"hidden_size": 16, "mlp_ratio": 2, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8,
                "patch_size": 4}, {"pixel_values": torch.randn(2, 3, 8, 8)}),
    "convnext": ("AutoModel", {"hidden_sizes": [16, 16], "depths": [1, 1], "num_stages": 2, "image_size": 32},
                 {"pixel_values": torch.randn(2, 3, 32, 32)}),
}  # fmt: skip


def save(folder: Path, kind: str, seed: int) -> Path:
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()
    loader, sizes, _ = KINDS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, loader).from_config(transformers.AutoConfig.for_model(kind, **sizes))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return folder


def rebuilt(tmp_path: Path, kind: str, method: str, *overrides: str) -> Any:
    from fusionbench.config import Recipe

    base, expert = (save(tmp_path / name, kind, seed) for seed, name in enumerate(("base", "expert")))
    recipe = Recipe.load(None, [f"base={base}", f"experts.e={expert}", f"method={method}", *overrides])
    rebuild_to(recipe, tmp_path / "out")
    return open_mixed(open_source(tmp_path / "out"))


@torch.no_grad()
def features(kind: str, module: Any) -> torch.Tensor:
    source = {"model_type": kind}
    return family_for(source).features(module, dict(KINDS[kind][2]))


@pytest.mark.parametrize("kind", KINDS)
def test_smile_of_one_expert_of_full_rank_is_the_expert_but_for_what_is_no_linear_map(
    kind: str, tmp_path: Path
) -> None:
    """With `others=average` of one expert, all else is the expert's too: so the whole model is."""
    made = rebuilt(tmp_path, kind, "smile", "method.k=16", "method.gate_k=1", "method.others=average")
    source = open_source(tmp_path / "expert")
    expected = features(kind, load_module(family_for(source.config), source))
    torch.testing.assert_close(features(kind, made.module), expected, atol=2e-4, rtol=2e-3)
    made.save(tmp_path / "again")
    again = open_mixed(open_source(tmp_path / "again"))
    assert again is not None
    assert torch.equal(features(kind, again.module), features(kind, made.module))


@pytest.mark.parametrize("kind", KINDS)
def test_bitdelta_of_the_base_itself_changes_nothing(kind: str, tmp_path: Path) -> None:
    from fusionbench.config import Recipe

    base = save(tmp_path / "base", kind, 0)
    rebuild_to(Recipe.load(None, [f"base={base}", f"experts.e={base}", "method=bitdelta"]), tmp_path / "out")
    made, source = open_mixed(open_source(tmp_path / "out")), open_source(base)
    assert made is not None
    expected = features(kind, load_module(family_for(source.config), source))
    torch.testing.assert_close(features(kind, made.module), expected, atol=1e-6, rtol=1e-6)


def test_a_network_of_convolutions_has_no_such_parts(tmp_path: Path) -> None:
    import transformers

    from fusionbench.config import Recipe

    sizes = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}
    model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model("resnet", **sizes))
    model.save_pretrained(tmp_path / "m")
    recipe = Recipe.load(None, [f"base={tmp_path / 'm'}", f"experts.e={tmp_path / 'm'}", "method=smile"])
    with pytest.raises((MissingPart, ConfigError)):
        rebuild_to(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_mixture_is_no_base_of_another(tmp_path: Path) -> None:
    rebuilt(tmp_path, "gpt2", "smile", "method.k=4", "method.gate_k=1")
    from fusionbench.config import Recipe

    recipe = Recipe.load(None, [f"base={tmp_path / 'out'}", f"experts.e={tmp_path / 'out'}", "method=bitdelta"])
    with pytest.raises(ConfigError, match="holds mixtures"):
        rebuild_to(recipe, tmp_path / "more")


@pytest.mark.parametrize(
    ("kind", "route"),
    [("gpt2", "sample"), ("t5", "token"), ("vit", "sample"), ("dinov2", "batch"), ("convnext", "sample"),
     ("convnext", "token")],
)  # fmt: skip
def test_routed_mlps_with_silent_routers_are_task_arithmetic(kind: str, route: str, tmp_path: Path) -> None:
    from types import SimpleNamespace

    from fusionbench import fuse
    from fusionbench.config import Recipe
    from fusionbench.merge import open_pool
    from fusionbench.methods._routing import build_routed_model, routers_of

    places = {name: str(save(tmp_path / name, kind, seed)) for seed, name in enumerate(("base", "a", "b"))}
    named = [f"experts.{name}={places[name]}" for name in "ab"]
    pool = open_pool(Recipe.load(None, [f"base={places['base']}", *named, "method=simple_average"]))
    context: Any = SimpleNamespace(family=family_for(pool.reference.config), seed=0, device=torch.device("cpu"))
    model = build_routed_model(pool, context, "wemoe", {"depth": 1, "init": 0.3, "route": route})
    assert len(routers_of(model)) == 2 * (4 if kind == "t5" else 2)
    for name, parameter in routers_of(model).items():
        if name.endswith("weight"):
            parameter.data.zero_()
    merged: Any = fuse("task_arithmetic", places, scale=0.3)
    torch.testing.assert_close(features(kind, model.module), features(kind, merged.module), atol=1e-3, rtol=1e-3)


def test_a_model_whose_mlp_is_no_single_module_is_refused(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from fusionbench.config import Recipe
    from fusionbench.merge import open_pool
    from fusionbench.methods._routing import build_routed_model

    base = save(tmp_path / "base", "bert", 0)
    pool = open_pool(Recipe.load(None, [f"base={base}", f"experts.a={base}", "method=simple_average"]))
    context: Any = SimpleNamespace(family=family_for(pool.reference.config), seed=0, device=torch.device("cpu"))
    with pytest.raises(MissingPart, match="MLP"):
        build_routed_model(pool, context, "wemoe", {"depth": 1, "init": 0.3, "route": "sample"})


@pytest.mark.parametrize("kind", ["gpt2", "t5", "vit", "dinov2", "convnext"])
def test_a_preference_weighs_mlps_and_attention_of_every_architecture(kind: str, tmp_path: Path) -> None:
    """Gates that hand the preference on: inside the blocks' linear maps the model is θ₀ + .25·τ₁ + .75·τ₂."""
    from types import SimpleNamespace

    from fusionbench import fuse
    from fusionbench.config import Recipe
    from fusionbench.merge import open_pool
    from fusionbench.methods._preference import build_preferred_model, merged_at
    from fusionbench.methods._routing import routers_of
    from fusionbench.mixing.preferred import prefer

    places = {name: str(save(tmp_path / name, kind, seed)) for seed, name in enumerate(("base", "a", "b"))}
    named = [f"experts.{name}={places[name]}" for name in "ab"]
    pool = open_pool(Recipe.load(None, [f"base={places['base']}", *named, "method=simple_average"]))
    context: Any = SimpleNamespace(family=family_for(pool.reference.config), seed=0, device=torch.device("cpu"))
    values = {"depth": 1, "init": 0.3, "parts": "mlp_attention"}
    model = build_preferred_model(pool, context, "pwe_moe", values)
    for name, parameter in routers_of(model).items():
        parameter.data = torch.eye(2) if name.endswith("weight") else torch.zeros(2)
    prefer(model.module, [0.25, 0.75])
    plain = merged_at(model, [0.25, 0.75], pool, context.family, context.device)
    torch.testing.assert_close(features(kind, plain.module), features(kind, model.module), atol=1e-4, rtol=1e-3)
    rest: Any = fuse("task_arithmetic", places, scale=0.3)
    inside: Any = fuse("weighted_average", places, weights=[0.25, 0.75])
    weighed = {name for site in model.blueprint.sites for name in site_names(model, site)}
    found = plain.module.state_dict()
    assert len(weighed) >= 2 * 4
    for name, tensor in found.items():
        expected = (inside if name in weighed else rest).module.state_dict()[name]
        torch.testing.assert_close(tensor, expected, atol=1e-4, rtol=1e-3)


def site_names(model: Any, site: str) -> set[str]:
    """Names of the weights and biases of a site's linear maps in the plain module."""
    settings = model.blueprint.sites[site].settings
    return {f"{site}.{part}.{kind}" for part in settings["parts"].split(",") for kind in ("weight", "bias")}
