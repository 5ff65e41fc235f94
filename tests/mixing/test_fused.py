import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fusionbench.errors import IncompatibleModels, NotFinite, OutputError
from fusionbench.families import load_module
from fusionbench.families.clip import Clip
from fusionbench.mixing import Fused, FusedModule, FusedWeights, Measured, PerTask, Skipped
from fusionbench.tasks import ImageTask, from_arrays, open_vocabulary_task
from fusionbench.weights.headers import Source
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import LazyWeights, TensorSource, Weights
from tiny_clip import noise

pytestmark = pytest.mark.usefixtures("cache")
TOWER = "vision_model."


@pytest.fixture
def base(clip_folder: Path) -> Source:
    return open_source(clip_folder)


@pytest.fixture
def expert(other_clip_folder: Path) -> dict[str, Tensor]:
    """Another model's vision tower alone."""
    weights = LazyWeights(open_source(other_clip_folder))
    return {name: weights[name] for name in weights if name.startswith(TOWER)}


@pytest.fixture
def pets(base: Source) -> ImageTask:
    data = {"test": from_arrays(noise(6), torch.tensor([0, 1, 0, 1, 1, 0]).numpy())}
    return open_vocabulary_task(
        "pets",
        data,  # type: ignore[arg-type]
        class_names=["cat", "dog"],
        templates=["a {}"],
        family=Clip(),
        base=base,
    )


def named(task: ImageTask, name: str) -> ImageTask:
    return ImageTask(name, task.family, task.head, task.class_names, task.data, task.processor)


def batch_of(task: ImageTask) -> Any:
    (batch,) = task.batches("test", size=6)
    return batch


def reference(clip_folder: Path, other_clip_folder: Path) -> nn.Module:
    """The base with the other model's vision tower, put together by Hugging Face alone."""
    from transformers import CLIPModel

    whole = CLIPModel.from_pretrained(clip_folder)
    whole.vision_model = CLIPModel.from_pretrained(other_clip_folder).vision_model
    return whole.eval()


def test_the_kinds_of_fused_model_are_fused(base: Source, expert: Weights) -> None:
    whole = FusedWeights(expert, Clip(), base)
    assert all(
        isinstance(kind, Fused) for kind in (whole, PerTask({}, Clip(), base), FusedModule(whole.module, Clip()))
    )


def test_weights_of_the_tower_run_in_the_bases_model(
    base: Source, expert: Weights, pets: ImageTask, clip_folder: Path, other_clip_folder: Path
) -> None:
    module, batch = reference(clip_folder, other_clip_folder), batch_of(pets)
    with torch.inference_mode():
        expected = pets.head(module.get_image_features(batch["pixel_values"]).pooler_output)  # type: ignore[operator]
        assert torch.equal(FusedWeights(expert, Clip(), base).for_task(pets)(batch), expected)


def test_the_module_is_loaded_once_for_all_tasks(base: Source, expert: Weights, pets: ImageTask) -> None:
    fused = FusedWeights(expert, Clip(), base)
    before = fused.module
    fused.for_task(pets)
    fused.for_task(named(pets, "others"))
    assert fused.module is before


def test_running_a_model_does_not_change_the_weights_it_was_made_of(base: Source, expert: Weights) -> None:
    kept = {name: tensor.clone() for name, tensor in expert.items()}
    with torch.no_grad():
        for parameter in FusedWeights(expert, Clip(), base).module.parameters():
            parameter.zero_()
    assert all(torch.equal(expert[name], tensor) for name, tensor in kept.items())


def test_a_saved_model_is_what_transformers_loads(
    base: Source, expert: Weights, tmp_path: Path, clip_folder: Path, other_clip_folder: Path
) -> None:
    from transformers import AutoProcessor, CLIPModel

    FusedWeights(expert, Clip(), base).save(tmp_path / "fused")
    loaded = CLIPModel.from_pretrained(tmp_path / "fused").state_dict()
    expected = reference(clip_folder, other_clip_folder).state_dict()
    assert set(loaded) == set(expected)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
    assert list(open_source(tmp_path / "fused").specs) == list(base.specs)
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        assert (tmp_path / "fused" / name).read_bytes() == (clip_folder / name).read_bytes()
    assert AutoProcessor.from_pretrained(tmp_path / "fused", backend="pil") is not None


def test_a_saved_and_opened_model_predicts_bit_for_bit_the_same(
    base: Source, expert: Weights, pets: ImageTask, tmp_path: Path
) -> None:
    fused, batch = FusedWeights(expert, Clip(), base), batch_of(pets)
    fused.save(tmp_path / "fused")
    again = FusedModule(load_module(Clip(), open_source(tmp_path / "fused")), Clip())
    with torch.inference_mode():
        assert torch.equal(fused.for_task(pets)(batch), again.for_task(pets)(batch))


def test_a_base_in_memory_is_saved_with_its_configuration(base: Source, expert: Weights, tmp_path: Path) -> None:
    memory = TensorSource("memory", dict(LazyWeights(base)), base.config)
    FusedWeights(expert, Clip(), memory).save(tmp_path / "fused")
    assert json.loads((tmp_path / "fused" / "config.json").read_text()) == dict(base.config)
    name = f"{TOWER}post_layernorm.bias"
    assert torch.equal(LazyWeights(open_source(tmp_path / "fused"))[name], expert[name])


def test_names_without_the_towers_prefix_are_the_same_tensors(base: Source, expert: Weights, tmp_path: Path) -> None:
    plain = {name.removeprefix(TOWER): tensor for name, tensor in expert.items()}
    FusedWeights(plain, Clip(), base).save(tmp_path / "plain")
    FusedWeights(expert, Clip(), base).save(tmp_path / "prefixed")
    files = [(tmp_path / kind / "model.safetensors").read_bytes() for kind in ("plain", "prefixed")]
    assert files[0] == files[1]


def test_a_folder_that_exists_is_not_written_over(base: Source, expert: Weights, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists"):
        FusedWeights(expert, Clip(), base).save(tmp_path)
    with pytest.raises(OutputError, match="exists"):
        FusedModule(load_module(Clip(), base), Clip()).save(tmp_path)


def test_a_folder_may_be_given_as_text(base: Source, expert: Weights, tmp_path: Path) -> None:
    FusedWeights(expert, Clip(), base).save(f"{tmp_path}/saved")
    assert (tmp_path / "saved" / "model.safetensors").is_file()


def test_weights_that_do_not_fit_are_refused_before_anything_is_loaded(base: Source) -> None:
    wrong = {f"{TOWER}adapter": torch.ones(2), f"{TOWER}post_layernorm.bias": torch.ones(3)}
    with pytest.raises(IncompatibleModels) as error:
        FusedWeights(wrong, Clip(), base)
    assert f"{TOWER}adapter: {base.label} has no such tensor" in str(error.value)
    assert f"{TOWER}post_layernorm.bias: is [3], in {base.label} [16]" in str(error.value)


def test_each_task_gets_its_own_model_and_others_the_shared_one(
    base: Source, expert: Weights, pets: ImageTask, tmp_path: Path
) -> None:
    dark = {f"{TOWER}post_layernorm.weight": torch.zeros(16)}
    made: list[str] = []

    def make() -> Weights:
        made.append("signs")
        return dark

    weights: dict[str, Weights | Callable[[], Weights]] = {"pets": expert, "signs": make}
    fused = PerTask(weights, Clip(), base, shared=LazyWeights(base))
    batch = batch_of(pets)
    assert not made
    with torch.inference_mode():
        mine, other = fused.for_task(pets), fused.for_task(named(pets, "signs"))
        unknown = fused.for_task(named(pets, "unknown"))
        # all three stay valid beside each other
        assert torch.equal(mine(batch), FusedWeights(expert, Clip(), base).for_task(pets)(batch))
        assert torch.equal(other(batch), FusedWeights(dark, Clip(), base).for_task(pets)(batch))
        assert torch.equal(unknown(batch), FusedWeights({}, Clip(), base).for_task(pets)(batch))
    assert made == ["signs"]
    fused.save(tmp_path / "fused")
    saved = sorted(str(place.relative_to(tmp_path / "fused").parent) for place in tmp_path.glob("fused/**/config.json"))
    assert saved == ["shared", "tasks/pets", "tasks/signs"]


def test_a_task_without_a_model_is_skipped_with_the_reason(base: Source, expert: Weights, pets: ImageTask) -> None:
    fused = PerTask({"signs": expert, "land": expert}, Clip(), base)
    with pytest.raises(Skipped, match=r"pets has no model of its own \(there are models for signs, land\)"):
        fused.for_task(pets)


def test_a_task_of_another_family_is_skipped_with_the_reason(base: Source, pets: ImageTask) -> None:
    class Other(Clip):
        name = "other"

    theirs = ImageTask("theirs", Other(), pets.head, pets.class_names, pets.data, pets.processor)
    for fused in (FusedWeights({}, Clip(), base), FusedModule(load_module(Clip(), base), Clip())):
        with pytest.raises(Skipped, match="theirs is a task for the family 'other', the model is 'clip'"):
            fused.for_task(theirs)


def test_a_live_module_is_run_in_eval_mode_and_saved_with_the_bases_files(
    base: Source, pets: ImageTask, tmp_path: Path
) -> None:
    module = load_module(Clip(), base).train()
    fused = FusedModule(module, Clip(), base)
    assert not module.training
    fused.save(tmp_path / "fused")
    batch = batch_of(pets)
    with torch.inference_mode():
        again = FusedModule(load_module(Clip(), open_source(tmp_path / "fused")), Clip())
        assert torch.equal(again.for_task(pets)(batch), fused.for_task(pets)(batch))
    assert (tmp_path / "fused" / "tokenizer.json").is_file()
    assert [place.name for place in tmp_path.iterdir() if place.name.startswith("fused")] == ["fused"]


def test_a_module_that_hugging_face_cannot_save_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="A Linear is no model that Hugging Face can save"):
        FusedModule(nn.Linear(1, 1), Clip()).save(tmp_path / "fused")


class Killed(BaseException):
    """The process is gone; nothing after it is run."""


def test_per_task_models_appear_whole_or_not_at_all(base: Source, expert: Weights, tmp_path: Path) -> None:
    def stop() -> Weights:
        assert (tmp_path / "fused.partial" / "tasks" / "pets" / "model.safetensors").is_file()
        raise Killed

    fused = PerTask({"pets": expert, "signs": stop}, Clip(), base)
    with pytest.raises(Killed):
        fused.save(tmp_path / "fused")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").mkdir()
    with pytest.raises(OutputError, match="exists"):
        fused.save(tmp_path / "there")


def test_weights_are_cast_once_to_the_kind_that_is_asked_for(base: Source, expert: Weights, tmp_path: Path) -> None:
    name, outside = f"{TOWER}post_layernorm.bias", "logit_scale"
    fused = FusedWeights({**expert, name: torch.full((16,), 1.00390625)}, Clip(), base)
    low = fused.cast("bfloat16")
    assert {spec.dtype for spec in low.specs.values() if spec.is_float} == {"BF16"}
    # 1 + 2⁻⁸ lies between 1 and 1 + 2⁻⁷, and is rounded to the even one.
    assert low.weights[name].tolist() == [1.0] * 16
    low.save(tmp_path / "low")
    saved = LazyWeights(open_source(tmp_path / "low"))
    assert saved[outside].dtype == torch.bfloat16
    assert torch.equal(saved[outside], LazyWeights(base)[outside].bfloat16())
    assert (low.parameters, low.bytes) == (fused.parameters, sum(spec.nbytes for spec in saved.source.specs.values()))
    assert low.bytes < 0.6 * fused.bytes
    assert {**fused.cast("base").specs} == {**base.specs}


def test_wider_results_are_rounded_to_the_bases_kind(base: Source, expert: Weights) -> None:
    wide = {name: tensor.double() for name, tensor in expert.items()}
    found = FusedWeights(wide, Clip(), base).cast("base")
    assert all(torch.equal(found.weights[name], expert[name]) for name in expert)


def test_what_the_kind_cannot_hold_is_refused(base: Source, expert: Weights) -> None:
    name = f"{TOWER}post_layernorm.bias"
    with pytest.raises(NotFinite, match=f"{name} holds numbers too large for float16"):
        FusedWeights({name: torch.full((16,), 1e5)}, Clip(), base).cast("float16")
    with pytest.raises(NotFinite, match=f"{name} holds NaN or Inf"):
        FusedWeights({name: torch.full((16,), torch.nan)}, Clip(), base).cast("base")


def test_a_model_runs_where_it_is_put_and_its_batches_follow(base: Source, expert: Weights, pets: ImageTask) -> None:
    fused = FusedWeights(expert, Clip(), base).on("meta")
    assert {parameter.device.type for parameter in fused.module.parameters()} == {"meta"}
    seen: list[str] = []

    class Watching(ImageTask):
        def bind(self, backbone: Any) -> Any:
            def predict(batch: Any) -> Tensor:
                seen.append(batch["pixel_values"].device.type)
                return torch.zeros(0)

            return predict

    task = Watching("pets", pets.family, pets.head, pets.class_names, pets.data, pets.processor)
    fused.for_task(task)(batch_of(pets))
    PerTask({"pets": expert}, Clip(), base, device="meta").for_task(task)(batch_of(pets))
    assert seen == ["meta", "meta"]


def test_models_say_how_large_they_are(base: Source, expert: Weights) -> None:
    count, size = sum(s.size for s in base.specs.values()), sum(s.nbytes for s in base.specs.values())
    module = FusedModule(load_module(Clip(), base), Clip())
    per_task = PerTask({"a": expert, "b": expert}, Clip(), base, shared=expert)
    found = [(m.kind, m.parameters) for m in (FusedWeights(expert, Clip(), base), per_task)]
    assert found == [("weights", count), ("per_task", 3 * count)]
    assert (per_task.bytes, module.kind) == (3 * size, "module")
    assert module.parameters >= count
    assert all(isinstance(kind, Measured) for kind in (per_task, module))
