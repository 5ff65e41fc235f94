"""The one format of rebuilt models: written a site at a time, opened again to the same bits, run like any other."""

import json
from pathlib import Path

import pytest
import torch
from clips import blueprint_of, logits, make_pool, pets, rebuilt, recipe_of
from safetensors.torch import load_file

from fusionbench.algorithm import configure, open_models
from fusionbench.errors import CheckpointError, ConfigError, NotFinite, OutputError
from fusionbench.merge import open_pool
from fusionbench.mixing.assemble import in_memory, opened
from fusionbench.mixing.mixed import MixedModel, open_mixed
from fusionbench.registry import methods
from fusionbench.run.rebuild import rebuild_to
from fusionbench.weights.sources import open_source

pytestmark = pytest.mark.usefixtures("cache")
SMALL = ("method.gate_k=2", "method.k=3")
SITE = "vision_model.encoder.layers.0.self_attn.k_proj"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_pool(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def made(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rebuilt") / "smile"
    rebuilt(folders, out, "smile", *SMALL)
    return out


def test_the_folder_says_which_sites_were_replaced_by_what(made: Path, folders: dict[str, Path]) -> None:
    found = blueprint_of(made)
    assert (found["format"], found["family"], found["method"]) == (1, "clip", "smile")
    assert found["experts"] == ["e0", "e1"]
    assert len(found["sites"]) == 2 * 6
    assert found["sites"][SITE] == {
        "kind": "smile", "settings": {"experts": 2, "router": 2, "rank": 3, "top": 1, "inputs_last": True},
    }  # fmt: skip
    for name in ("config.json", "tokenizer.json", "preprocessor_config.json"):
        assert (made / name).read_bytes() == (folders["base"] / name).read_bytes()
    assert not [path for path in made.iterdir() if path.suffix in (".py", ".bin", ".pt", ".pkl")]


def test_all_else_is_the_bases_bit_for_bit(made: Path, folders: dict[str, Path]) -> None:
    base, found = load_file(folders["base"] / "model.safetensors"), load_file(made / "model.safetensors")
    outside = [name for name in base if not any(name.startswith(f"{site}.") for site in blueprint_of(made)["sites"])]
    assert len(outside) == len(base) - 2 * 6 * 2
    assert all(torch.equal(found[name], base[name]) for name in outside)


def test_saved_and_opened_again_it_is_the_same_file_and_the_same_answers(
    made: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    task = pets(folders["base"])
    first = open_mixed(open_source(made))
    assert first is not None
    first.save(tmp_path / "again")
    second = open_mixed(open_source(tmp_path / "again"))
    assert second is not None
    assert torch.equal(logits(first, task), logits(second, task))
    assert blueprint_of(tmp_path / "again") == blueprint_of(made)
    one, other = load_file(made / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_in_memory_and_on_disk_are_the_same_model(made: Path, folders: dict[str, Path]) -> None:
    pool = open_pool(recipe_of(folders, "smile"))
    fused = in_memory(pool, methods["smile"], recipe_of(folders, "smile", *SMALL).method.params)
    assert isinstance(fused, MixedModel)
    disk = open_mixed(open_source(made))
    assert disk is not None
    assert (fused.parameters, fused.bytes) == (disk.parameters, disk.bytes)
    assert torch.equal(logits(fused, pets(folders["base"])), logits(disk, pets(folders["base"])))


def test_python_gives_the_same_model(made: Path, folders: dict[str, Path]) -> None:
    fused = configure("smile", gate_k=2, k=3)(open_models({name: str(path) for name, path in folders.items()}))
    disk = open_mixed(open_source(made))
    assert torch.equal(logits(fused, pets(folders["base"])), logits(disk, pets(folders["base"])))


def test_shards_are_read_as_one_model(made: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    rebuilt(folders, tmp_path / "shards", "smile", *SMALL, "output.shard_bytes=20000")
    assert len(list((tmp_path / "shards").glob("model-*-of-*.safetensors"))) > 1
    whole, shards = open_source(made), open_source(tmp_path / "shards")
    assert whole.specs.keys() == shards.specs.keys()
    assert all(whole.read(name) == shards.read(name) for name in whole.specs)


def test_the_inputs_stay_as_they_were(folders: dict[str, Path], tmp_path: Path) -> None:
    before = {name: (path / "model.safetensors").read_bytes() for name, path in folders.items()}
    rebuilt(folders, tmp_path / "out", "smile", *SMALL)
    assert {name: (path / "model.safetensors").read_bytes() for name, path in folders.items()} == before


def test_a_dtype_is_that_of_every_float(folders: dict[str, Path], tmp_path: Path) -> None:
    rebuilt(folders, tmp_path / "half", "smile", *SMALL, "output.dtype=bfloat16")
    source = open_source(tmp_path / "half")
    assert {spec.dtype for spec in source.specs.values() if spec.is_float} == {"BF16"}
    assert source.config["dtype"] == "bfloat16"
    assert opened(source, open_pool(recipe_of(folders, "smile"))) is not None


def test_a_folder_that_exists_is_not_written_over(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists"):
        rebuild_to(recipe_of(folders, "smile", *SMALL), tmp_path)


def test_nothing_is_left_of_a_rebuild_that_fails(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="directions"):
        rebuild_to(recipe_of(folders, "smile", "method.k=17"), tmp_path / "out")
    assert list(tmp_path.glob("out*")) == []


def test_a_base_is_needed(folders: dict[str, Path]) -> None:
    pool = open_models({"e0": str(folders["e0"])})
    with pytest.raises(ConfigError, match="smile works on a base model"):
        in_memory(pool, methods["smile"], recipe_of(folders, "smile", *SMALL).method.params)


def test_numbers_that_are_not_finite_are_refused(folders: dict[str, Path]) -> None:
    from transformers import CLIPModel

    broken = CLIPModel.from_pretrained(folders["e0"])
    broken.vision_model.encoder.layers[1].mlp.fc1.weight.data[0, 0] = float("nan")
    pool = open_models({"base": str(folders["base"]), "e0": broken})
    with pytest.raises(NotFinite, match=r"layers\.1\.mlp\.fc1\.weight"):
        in_memory(pool, methods["smile"], recipe_of(folders, "smile", *SMALL).method.params)


class TestDamage:
    """A damaged blueprint is one clear error."""

    def copy(self, made: Path, tmp_path: Path, **changes: object) -> Path:
        folder = tmp_path / "damaged"
        folder.mkdir()
        for path in made.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        (folder / "fusion_config.json").write_text(json.dumps({**blueprint_of(made), **changes}))
        return folder

    def open(self, folder: Path) -> None:
        model = open_mixed(open_source(folder))
        assert model is not None
        _ = model.module

    @pytest.mark.parametrize("text", ["", "[1]", "{", '{"format": 1}', "[" * 100_000])
    def test_no_json_or_half_of_it(self, made: Path, tmp_path: Path, text: str) -> None:
        folder = self.copy(made, tmp_path)
        (folder / "fusion_config.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"fusion_config\.json"):
            self.open(folder)

    def settings(self, made: Path, **changes: object) -> dict[str, object]:
        sites = blueprint_of(made)["sites"]
        sites[SITE]["settings"].update(changes)
        return sites

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"rank": -1}, "rank"), ({"rank": "three"}, "rank"), ({"colour": 1}, "colour"),
            ({"rank": 4}, r"is \[2, 16, 3\], the module's is \[2, 16, 4\]"), ({"experts": 2**40}, "experts"),
        ],
    )  # fmt: skip
    def test_settings_that_are_wrong_or_do_not_fit_the_tensors(
        self, made: Path, tmp_path: Path, change: dict[str, object], said: str
    ) -> None:
        with pytest.raises(CheckpointError, match=said):
            self.open(self.copy(made, tmp_path, sites=self.settings(made, **change)))

    def test_an_unknown_kind(self, made: Path, tmp_path: Path) -> None:
        sites = blueprint_of(made)["sites"]
        sites[SITE]["kind"] = "smiel"
        with pytest.raises(CheckpointError, match="Did you mean smile"):
            self.open(self.copy(made, tmp_path, sites=sites))

    def test_a_module_that_is_not_there(self, made: Path, tmp_path: Path) -> None:
        sites = blueprint_of(made)["sites"]
        sites["vision_model.encoder.layers.7.mlp.fc1"] = sites[SITE]
        with pytest.raises(CheckpointError, match=r"layers\.7\.mlp\.fc1"):
            self.open(self.copy(made, tmp_path, sites=sites))

    def test_a_module_that_is_no_linear_map(self, made: Path, tmp_path: Path) -> None:
        sites = blueprint_of(made)["sites"]
        sites["vision_model.pre_layrnorm"] = sites[SITE]
        with pytest.raises(CheckpointError, match="LayerNorm is no linear map"):
            self.open(self.copy(made, tmp_path, sites=sites))

    def test_an_unknown_family_or_format(self, made: Path, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="family"):
            self.open(self.copy(made, tmp_path, family="clop"))
        (tmp_path / "other").mkdir()
        with pytest.raises(CheckpointError, match="format"):
            self.open(self.copy(made, tmp_path / "other", format=2))
