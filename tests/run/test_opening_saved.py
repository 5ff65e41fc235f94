"""Whatever a method saved is opened to the same predictions, bit for bit; what is damaged is one clear error."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import fusionbench
from fusionbench import Recipe
from fusionbench.config import SuiteConfig, TasksConfig
from fusionbench.errors import CheckpointError, FusionBenchError
from fusionbench.families import family_for
from fusionbench.mixing import Skipped
from fusionbench.mixing.variants import Variants
from fusionbench.run import evaluate_model, run
from fusionbench.run.opening import open_fused
from fusionbench.run.setting import Setting, resolve, setting_of_suite
from fusionbench.run.whole import bench_of, fuse_whole
from fusionbench.suites.tasks import open_tasks
from fusionbench.weights.sources import open_source
from hub_stand_in import HubCache
from tiny_causal_lm import make_causal_lm
from tiny_resnets import write_resnet_suite

METHODS: dict[str, tuple[str, ...]] = {
    "simple_ensemble": ("method.over=probabilities",),
    "weighted_ensemble": ("method.weights=[0.3,1.9]", "method.normalize=false"),
    "max_model": ("method.resident=false",),
    "tall_mask": ("method.threshold=0.3", "method.scale=0.7"),
    "emr": (),
    "surgery": ("method.rank=3", "method.steps=3", "method.normalize=true"),
    "scale_search": ("method.by=task", "method.scales=[0.2,0.9]"),
}


@pytest.fixture(scope="session")
def resnets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_resnet_suite(tmp_path_factory.mktemp("resnets"))


@pytest.fixture(params=["clip", "resnet"])
def file(request: pytest.FixtureRequest, planted: Path, resnets: Path, cache: Path) -> Path:
    """A suite of CLIPs, or of ResNets with heads of their own and batch normalisation."""
    return planted / "suite.yaml" if request.param == "clip" else resnets


def fused(file: Path, folder: Path, method: str, *more: str) -> tuple[Any, Setting]:
    setting = resolve(Recipe.load(None, [f"suite={file}", f"method={method}", "runtime.threads=1", *more]))
    return fuse_whole(bench_of(setting, folder, lambda *_: None))[0], setting


def answers(model: Any, setting: Setting) -> dict[str, Any]:
    """Each task's outputs, or why there are none."""
    assert setting.suite is not None
    found: dict[str, Any] = {}
    for name, task in open_tasks(setting.suite.suite, base=setting.pool.reference).items():
        try:
            predict = model.for_task(task)
            with torch.inference_mode():
                found[name] = torch.cat([predict(batch) for batch in task.batches("test", size=3, labels=False)])
        except Skipped as reason:
            found[name] = str(reason)
    return found


def of_evaluation(file: Path) -> Setting:
    return setting_of_suite(SuiteConfig(name=str(file)), TasksConfig())


@pytest.fixture(scope="session")
def kept(resnets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved ensemble, masked models and operated model of the ResNets; not to be changed."""
    root = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSIONBENCH_CACHE", str(root / "cache"))
        for method in ("weighted_ensemble", "emr", "surgery"):
            fused(resnets, root / "run", method, *METHODS[method])[0].save(root / method)
    return root


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    assert one.keys() == other.keys()
    assert any(isinstance(outputs, torch.Tensor) for outputs in one.values())
    return all(
        outputs.equal(other[name]) if isinstance(outputs, torch.Tensor) else outputs == other[name]
        for name, outputs in one.items()
    )


@pytest.mark.parametrize("method", METHODS)
def test_what_was_saved_predicts_the_same_bits(method: str, file: Path, tmp_path: Path) -> None:
    model, setting = fused(file, tmp_path / "run", method, *METHODS[method])
    model.save(tmp_path / "saved")
    opened = open_fused(tmp_path / "saved", of_evaluation(file).pool).fused
    first = answers(model, setting)
    assert same(first, answers(opened, setting))
    assert not same(first, answers(open_fused(file.parent / "base", setting.pool).fused, setting))
    assert (opened.kind, opened.parameters, opened.bytes) == (model.kind, model.parameters, model.bytes)
    opened.save(tmp_path / "again")
    files = sorted(path.relative_to(tmp_path / "saved") for path in (tmp_path / "saved").rglob("*") if path.is_file())
    assert all((tmp_path / "again" / name).read_bytes() == (tmp_path / "saved" / name).read_bytes() for name in files)


def test_each_model_of_a_pool_predicts_the_same_bits_and_the_pool_names_them(file: Path, tmp_path: Path) -> None:
    model, setting = fused(file, tmp_path / "run", "recombination")
    model.save(tmp_path / "saved")
    assert isinstance(model, Variants)
    for label, each in model.models.items():
        opened = open_fused(tmp_path / "saved" / label, of_evaluation(file).pool).fused
        assert same(answers(each, setting), answers(opened, setting))
    with pytest.raises(
        CheckpointError, match=r"holds no model itself, but 2 in folders of their own\. Name one"
    ) as said:
        open_fused(tmp_path / "saved", setting.pool)
    assert all(str(tmp_path / "saved" / label) in str(said.value) for label in model.models)


@pytest.mark.parametrize("method", METHODS)
def test_a_runs_model_is_evaluated_to_the_runs_scores(method: str, resnets: Path, cache: Path, tmp_path: Path) -> None:
    recipe = Recipe.load(None, [f"suite={resnets}", f"method={method}", *METHODS[method], "runtime.threads=1"])
    first = run(recipe, out=tmp_path / "run").report
    assert recipe.suite is not None
    again = evaluate_model(str(tmp_path / "run" / "model"), recipe.suite, recipe.tasks)
    assert again.variants[0].tasks == first.variants[0].tasks
    assert again.variants[0].model == first.variants[0].model
    assert again.method == first.method
    assert again.skipped == first.skipped


@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_left_its_runs_folder_says_itself_what_made_it(
    method: str, resnets: Path, cache: Path, tmp_path: Path
) -> None:
    recipe = Recipe.load(None, [f"suite={resnets}", f"method={method}", *METHODS[method], "runtime.threads=1"])
    run(recipe, out=tmp_path / "run")
    (tmp_path / "run" / "model").rename(tmp_path / "moved")
    assert recipe.suite is not None
    found = evaluate_model(str(tmp_path / "moved"), recipe.suite, TasksConfig(limit=2))
    assert (found.method.name, found.method.version) == (method, 2 if method in ("max_model", "scale_search") else 1)


@pytest.mark.parametrize("reference", ["org/fused", "org/fused@main"])
@pytest.mark.parametrize("method", ["weighted_ensemble", "emr", "surgery"])
def test_what_is_several_models_opens_from_the_hubs_cache(
    method: str, reference: str, kept: Path, resnets: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = HubCache(tmp_path).use(monkeypatch)
    shutil.copytree(kept / method, hub.model("org/fused"), dirs_exist_ok=True)
    setting = of_evaluation(resnets)
    local, cached = (open_fused(place, setting.pool) for place in (kept / method, reference))
    assert same(answers(local.fused, setting), answers(cached.fused, setting))
    assert cached.fingerprint == local.fingerprint
    assert cached.method is not None
    assert cached.method.name == method


def test_an_ensemble_that_was_downloaded_in_part_is_one_clear_error(
    kept: Path, resnets: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = HubCache(tmp_path).use(monkeypatch).model("org/fused")
    shutil.copytree(kept / "weighted_ensemble", folder, dirs_exist_ok=True)
    pool = of_evaluation(resnets).pool
    shard = folder / "members" / "shapes" / "model.safetensors"
    tensors = load_file(shard)
    save_file(tensors, shard.with_name("model-00002-of-00002.safetensors"), metadata={"format": "pt"})
    shard.unlink()
    places = dict.fromkeys(tensors, "model-00002-of-00002.safetensors")
    places[next(iter(tensors))] = "model-00001-of-00002.safetensors"
    shard.with_name("model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    with pytest.raises(CheckpointError, match="downloaded only in part: model-00001-of-00002"):
        open_fused("org/fused", pool)
    shutil.rmtree(shard.parent)
    with pytest.raises(CheckpointError, match="members/shapes"):
        open_fused("org/fused", pool)
    with pytest.raises(CheckpointError, match="org/absent; it is not in the hub's local cache"):
        open_fused("org/absent", pool)


def test_masks_of_the_first_format_open_and_their_method_is_not_known(
    kept: Path, resnets: Path, cache: Path, tmp_path: Path
) -> None:
    shutil.copytree(kept / "emr", tmp_path / "saved")
    damaged(tmp_path / "saved" / "per_task.json", {"format": 1, "method": None})
    setting = of_evaluation(resnets)
    first, now = (open_fused(place, setting.pool) for place in (tmp_path / "saved", kept / "emr"))
    assert same(answers(first.fused, setting), answers(now.fused, setting))
    assert first.method is None


class Words:
    """A task that hands on what a language model says of some tokens."""

    metrics = ()

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.family = name, family_for(open_source(folder).config)

    def bind(self, backbone: Any) -> Any:
        return lambda batch: backbone(batch["input_ids"]).logits


@pytest.mark.parametrize("method", ["simple_ensemble", "max_model", "tall_mask", "emr", "recombination"])
def test_language_models_say_the_same_bits(method: str, tmp_path: Path) -> None:
    models = {name: str(tmp_path / name) for name in ("base", "a", "b")}
    for seed, folder in enumerate(models.values()):
        make_causal_lm(Path(folder), seed)
    values = {"threshold": 0.4} if method == "tall_mask" else {}
    model = fusionbench.configure(method, **values)(models)
    model.save(tmp_path / "saved")
    saved = tmp_path / "saved" / "b" if method == "recombination" else tmp_path / "saved"
    # Whose parts they are is said in the folder: a pool of other experts changes nothing.
    opened = fusionbench.load_fused(saved, {"base": models["base"], "other": models["a"]})
    first: Any = model.models["b"] if isinstance(model, Variants) else model
    batch, task = {"input_ids": torch.tensor([[1, 5, 7, 3], [1, 9, 2, 4]])}, Words("b", tmp_path / "base")
    with torch.inference_mode():
        said = [each.for_task(task)(batch) for each in (first, opened)]  # type: ignore[arg-type]
    assert torch.equal(*said)


def test_python_opens_a_saved_model_of_any_form(resnets: Path, cache: Path, tmp_path: Path) -> None:
    model, setting = fused(resnets, tmp_path / "run", "emr")
    model.save(tmp_path / "saved")
    for folder, expected in ((tmp_path / "saved", model), (resnets.parent / "base", None)):
        opened = fusionbench.load_fused(folder, str(resnets))
        assert expected is None or same(answers(expected, setting), answers(opened, setting))
    with pytest.raises(CheckpointError, match=r"saved is no single checkpoint: its per_task\.json .* evaluate"):
        fusionbench.load_model(tmp_path / "saved")


def test_other_weights_or_settings_are_another_model(resnets: Path, cache: Path, tmp_path: Path) -> None:
    marks = set()
    for number, weights in enumerate(("[1,2]", "[2,1]", "[1,2]")):
        model, setting = fused(resnets, tmp_path / "run", "weighted_ensemble", f"method.weights={weights}")
        model.save(tmp_path / str(number))
        marks.add(open_fused(tmp_path / str(number), setting.pool).fingerprint)
    changed = tmp_path / "0" / "members" / "shapes" / "model.safetensors"
    shutil.copy(tmp_path / "0" / "members" / "colours" / "model.safetensors", changed)
    assert len(marks | {open_fused(tmp_path / "0", setting.pool).fingerprint}) == 3


ENSEMBLE = {
    "not JSON": ("{", r"ensemble\.json is no JSON"),
    "a list": ("[]", r"ensemble\.json should hold a JSON object, it holds a list"),
    "of an earlier form": ({"format": None}, r"ensemble\.json is wrong:\n.*format"),
    "no method": ({"method": None}, r"ensemble\.json is wrong:\n.*method"),
    "an unknown method": ({"method": "vote"}, r"ensemble\.json is wrong:\n.*method"),
    "an unknown key": ({"more": 1}, r"ensemble\.json is wrong:\n.*more"),
    "a member that is not there": ({"members": ["shapes", "x"], "tasks": {"shapes": "shapes", "x": None}}, "members/x"),
    "a member elsewhere": (
        {"members": ["shapes", "../up"], "tasks": {"shapes": "shapes", "../up": None}}, r"ensemble\.json is damaged"
    ),
    "a member twice": (
        {"members": ["shapes", "shapes"], "tasks": {"shapes": "shapes"}}, r"ensemble\.json is damaged: members are"
    ),
    "a task too few": ({"tasks": {"shapes": "shapes"}}, r"ensemble\.json is damaged: members are shapes, colours"),
    "a weight too few": ({"weights": [0.5]}, r"ensemble\.json is damaged: 1 weights for 2 members"),
    "a weight that is none": ({"weights": [float("nan"), 1]}, r"ensemble\.json is wrong:\n.*weights"),
}  # fmt: skip


@pytest.mark.parametrize("damage", ENSEMBLE)
def test_a_damaged_ensemble_is_one_clear_error(
    damage: str, kept: Path, resnets: Path, cache: Path, tmp_path: Path
) -> None:
    shutil.copytree(kept / "weighted_ensemble", tmp_path / "saved")
    written, said = ENSEMBLE[damage]
    damaged(tmp_path / "saved" / "ensemble.json", written)
    with pytest.raises(FusionBenchError, match=said):
        open_fused(tmp_path / "saved", of_evaluation(resnets).pool)


def damaged(file: Path, written: Any) -> None:
    """Replace a file by a text, or change keys of it; None removes one."""
    if not isinstance(written, str):
        changed = {**json.loads(file.read_text()), **written}
        written = json.dumps({key: value for key, value in changed.items() if value is not None})
    file.write_text(written)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{", r"per_task\.json is no JSON"),
        ({"base": None}, r"per_task\.json is wrong:\n.*base"),
        ({"base": "fp:0"}, r"was made over another base than"),
        ({"experts": {"shapes": {"task": "shapes"}}}, r"per_task\.json is wrong:\n.*scale"),
        ({"experts": {"x": {"task": None, "scale": 1.0}}}, r"are damaged; fuse again:\n  masks/x/.* is missing"),
        ({"format": 9}, r"per_task\.json is wrong:\n.*format"),
    ],
)  # fmt: skip
def test_damaged_words_about_masks_are_one_clear_error(
    written: Any, said: str, kept: Path, resnets: Path, cache: Path, tmp_path: Path
) -> None:
    shutil.copytree(kept / "emr", tmp_path / "saved")
    damaged(tmp_path / "saved" / "per_task.json", written)
    with pytest.raises(CheckpointError, match=said):
        open_fused(tmp_path / "saved", of_evaluation(resnets).pool)


@pytest.mark.parametrize("part", ["unified", "masks/shapes", "own/colours"])
@pytest.mark.parametrize("how", ["missing", "short"])
def test_damaged_masks_are_one_clear_error(
    how: str, part: str, kept: Path, resnets: Path, cache: Path, tmp_path: Path
) -> None:
    shutil.copytree(kept / "emr", tmp_path / "saved")
    file = tmp_path / "saved" / "model.safetensors"
    tensors = load_file(file)
    chosen = next(name for name in tensors if name.startswith(f"{part}/") and tensors[name].ndim)
    if how == "missing":
        del tensors[chosen]
    else:
        tensors[chosen] = tensors[chosen][:-1].clone()
    save_file(tensors, file)
    own = chosen.partition("/")[2] if part == "unified" else chosen
    with pytest.raises(CheckpointError, match=f"are damaged; fuse again:\n(.*\n)*.*{own}"):
        open_fused(tmp_path / "saved", of_evaluation(resnets).pool)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("a key", r"task_models\.json is wrong:\n.*shared"),
        ("a name", r"task_models\.json is damaged: \.\./colours are no names of folders"),
        ("a model", r"tasks/colours"),
        ("the shared model", r"shared"),
    ],
)
def test_damaged_models_of_each_task_are_one_clear_error(
    damage: str, said: str, resnets: Path, cache: Path, tmp_path: Path
) -> None:
    fused(resnets, tmp_path / "run", "scale_search", *METHODS["scale_search"])[0].save(tmp_path / "saved")
    file = tmp_path / "saved" / "task_models.json"
    if damage == "a key":
        damaged(file, {"shared": None})
    elif damage == "a name":
        damaged(file, {"tasks": ["shapes", "../colours"]})
    else:
        shutil.rmtree(tmp_path / "saved" / ("shared" if damage == "the shared model" else "tasks/colours"))
    with pytest.raises(CheckpointError, match=said):
        open_fused(tmp_path / "saved", of_evaluation(resnets).pool)


def test_masks_without_a_base_are_refused(kept: Path, resnets: Path, cache: Path, tmp_path: Path) -> None:
    shutil.copytree(kept / "emr", tmp_path / "saved")
    with pytest.raises(CheckpointError, match="over a base model, and there is none"):
        fusionbench.load_fused(tmp_path / "saved", {"shapes": str(resnets.parent / "experts" / "shapes")})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("words", r"surgery\.json is wrong:\n.*normalize"),
        ("backbone", r"backbone"),
        ("tensor", r"adapters lacks the tensor colours\.up, which surgery\.json names"),
        ("shape", r"colours\.down is \[3, 16\] and colours\.up \[16, 2\], expected"),
    ],
)
def test_a_damaged_surgery_is_one_clear_error(
    damage: str, said: str, kept: Path, resnets: Path, cache: Path, tmp_path: Path
) -> None:
    shutil.copytree(kept / "surgery", tmp_path / "saved")
    file = tmp_path / "saved" / "adapters" / "model.safetensors"
    tensors = load_file(file)
    if damage == "words":
        damaged(tmp_path / "saved" / "surgery.json", {"normalize": None})
    elif damage == "backbone":
        shutil.rmtree(tmp_path / "saved" / "backbone")
    elif damage == "tensor":
        save_file({name: tensor for name, tensor in tensors.items() if name != "colours.up"}, file)
    else:
        save_file({**tensors, "colours.up": tensors["colours.up"][:, :2].clone()}, file)
    with pytest.raises(CheckpointError, match=said):
        open_fused(tmp_path / "saved", of_evaluation(resnets).pool)
