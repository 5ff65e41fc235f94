"""Ensembles of different architectures: each model with its own width, family and head, on the same batches."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from fusionbench import Recipe, load_fused
from fusionbench.errors import ConfigError, IncompatibleModels
from fusionbench.mixing import Skipped
from fusionbench.run import run
from fusionbench.run.setting import resolve
from fusionbench.run.whole import bench_of, fuse_whole
from fusionbench.suites.tasks import open_tasks
from tiny_resnets import TASKS, write_resnet_suite

LABELS = {"id2label": dict(enumerate(TASKS["shapes"])), "label2id": {c: i for i, c in enumerate(TASKS["shapes"])}}
OTHERS = {
    "wide": ("ResNet", {"embedding_size": 12, "hidden_sizes": [12, 20], "depths": [1, 2], "layer_type": "basic"}),
    "vit": ("ViT", {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
                    "image_size": 32, "patch_size": 8}),
}  # fmt: skip


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ResNets' suite, with a wider ResNet and a ViT beside the expert of shapes."""
    import transformers

    file = write_resnet_suite(tmp_path_factory.mktemp("mixed"))
    document = yaml.safe_load(file.read_text())
    for number, (name, (kind, sizes)) in enumerate(OTHERS.items()):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(10 + number)
            config = getattr(transformers, f"{kind}Config")(**sizes, **LABELS)
            model = getattr(transformers, f"{kind}ForImageClassification")(config)
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.3)
        folder = file.parent / "experts" / name
        model.save_pretrained(folder)
        shutil.copy(file.parent / "base" / "preprocessor_config.json", folder)
        document["pool"]["experts"][name] = {"model": f"./experts/{name}", "task": "shapes"}
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return file


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path / "cache"))


def fused(suite: Path, folder: Path, method: str, *more: str) -> tuple[Any, dict[str, Any]]:
    setting = resolve(Recipe.load(None, [f"suite={suite}", f"method={method}", *more]))
    model, _ = fuse_whole(bench_of(setting, folder, lambda *_: None))
    assert setting.suite is not None
    return model, open_tasks(setting.suite.suite, base=setting.pool.reference)


def answers(model: Any, task: Any) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([model.for_task(task)(batch) for batch in task.batches("test", size=3, labels=False)])


def alone(suite: Path, name: str, task: Any) -> torch.Tensor:
    """Logits of a whole classifier as transformers runs it."""
    from transformers import AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(suite.parent / "experts" / name).eval()
    with torch.inference_mode():
        return torch.cat([model(batch["pixel_values"]).logits for batch in task.batches("test", size=8)])


def test_logits_of_three_architectures_are_averaged_after_each_models_own_head(suite: Path, tmp_path: Path) -> None:
    model, tasks = fused(suite, tmp_path, "simple_ensemble", "suite.experts=[shapes,wide,vit]")
    each = [alone(suite, name, tasks["shapes"]) for name in ("shapes", "wide", "vit")]
    torch.testing.assert_close(answers(model, tasks["shapes"]), sum(each) / 3, atol=1e-5, rtol=1e-4)
    assert (each[0] - each[2]).abs().max() > 0.1


def test_a_task_is_answered_by_those_that_have_a_head_for_it(suite: Path, tmp_path: Path) -> None:
    """Of colours the wide model and the ViT know nothing; the expert of shapes has the architecture of its head."""
    model, tasks = fused(suite, tmp_path, "simple_ensemble", "method.over=probabilities")
    few, _ = fused(suite, tmp_path, "simple_ensemble", "method.over=probabilities", "suite.experts=[shapes,colours]")
    assert torch.equal(answers(model, tasks["colours"]), answers(few, tasks["colours"]))
    with pytest.raises(Skipped, match=r"weights of the members that have a head for it sum to 0"):
        answers(fused(suite, tmp_path, "weighted_ensemble", "method.weights=[0,0,0.5,0.5]")[0], tasks["colours"])


@pytest.mark.parametrize(
    "method", [("simple_ensemble",), ("weighted_ensemble", "method.weights=[1,2,3,4]"), ("max_model",)], ids=str
)
def test_one_at_a_time_and_all_at_once_give_the_same_bits(method: tuple[str, ...], suite: Path, tmp_path: Path) -> None:
    together, tasks = fused(suite, tmp_path, *method)
    streamed, _ = fused(suite, tmp_path, *method, "method.resident=false")
    for task in tasks.values():
        assert torch.equal(answers(together, task), answers(streamed, task))
    assert streamed._modules == {}
    assert len(together._modules) == 4


def test_it_is_evaluated_and_saved_like_any_run(suite: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForImageClassification

    recipe = Recipe.load(None, [f"suite={suite}", "method=weighted_ensemble", "method.trials=3"])
    result = run(recipe, out=tmp_path / "run")
    (variant,) = result.report.variants
    said = [note for note in result.report.notes if "of another architecture" in note]
    assert [note.partition(" ")[0] for note in said] == ["wide", "vit"]
    assert set(variant.tasks) == {"shapes", "colours"}
    assert variant.model is not None
    sizes = [
        sum(parameter.numel() for parameter in AutoModelForImageClassification.from_pretrained(folder).parameters())
        for folder in sorted((suite.parent / "experts").iterdir())
    ]
    # Buffers of batch normalisations are counted beside the parameters; heads are the tasks' where they are alike.
    assert sum(sizes[2:]) < variant.model.parameters < 1.2 * sum(sizes)
    saved = tmp_path / "run" / "model" / "members"
    assert sorted(path.name for path in saved.iterdir()) == ["colours", "shapes", "vit", "wide"]
    AutoModelForImageClassification.from_pretrained(saved / "vit")


@pytest.mark.parametrize(
    "method", [("simple_ensemble",), ("weighted_ensemble", "method.weights=[1,2,3,4]"), ("max_model",)], ids=str
)
def test_members_of_other_architectures_answer_the_same_when_they_are_opened_again(
    method: tuple[str, ...], suite: Path, tmp_path: Path
) -> None:
    model, tasks = fused(suite, tmp_path, *method)
    model.save(tmp_path / "saved")
    opened = load_fused(tmp_path / "saved", str(suite))
    assert [member.alike for member in opened.members] == [True, True, False, False]  # type: ignore[attr-defined]
    for task in tasks.values():
        assert torch.equal(answers(model, task), answers(opened, task))


def test_members_that_read_other_inputs_are_refused(suite: Path, tmp_path: Path) -> None:
    changed = tmp_path / "suite"
    shutil.copytree(suite.parent, changed)
    (changed / "experts" / "vit" / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1] * 3, "image_std": [0.5] * 3, "size": {"shortest_edge": 32}})
    )
    with pytest.raises(ConfigError, match=r"The expert vit .* reads other inputs: image mean"):
        fused(changed / "suite.yaml", tmp_path, "simple_ensemble")


def test_an_expert_without_configuration_that_does_not_fit_is_refused(suite: Path, tmp_path: Path) -> None:
    changed = tmp_path / "suite"
    shutil.copytree(suite.parent, changed)
    (changed / "experts" / "vit" / "config.json").unlink()
    with pytest.raises(IncompatibleModels, match="vit"):
        fused(changed / "suite.yaml", tmp_path, "simple_ensemble")
