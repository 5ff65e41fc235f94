"""ViT-B/16's LoRA and linearised LoRA, and NYUv2's ResNet-50, on stand-ins under their published ids."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fusionbench.families import family_named
from fusionbench.suites import Suite
from fusionbench.suites.paper import describe, suite_of
from hub_stand_in import COMMIT, HubCache
from paper_stand_ins import IMAGES, add_clip_models, add_image_data, answered
from tiny_clip import make_clip

LORA, LINEARISED = "clip-vit-b16/ta8-lora", "clip-vit-b16/ta8-l_lora"
PROJECTION = "encoder.layers.{}.self_attn.{}"
RANK, ALPHA = 2, 4
# What timm's configuration of the published weights says: no model_type, and keys that no configuration here knows.
TIMM = {"architecture": "resnet50", "num_classes": 1000, "num_features": 2048, "pretrained_cfg": {"tag": "tv_in1k"}}


def read(name: str) -> Suite:
    return suite_of(name, describe(name))


def write_adapter(place: Path, seed: int, *, linearised: bool) -> None:
    """Write what the authors published: LoRA of the bare vision transformer, or the linearised layers' own names."""
    drawn, tensors = torch.Generator().manual_seed(seed), {}
    for layer in range(2):
        for part in ("q_proj", "v_proj"):
            name = f"base_model.model.{PROJECTION.format(layer, part)}"
            a, b = (0.3 * torch.randn(shape, generator=drawn) for shape in ((RANK, 16), (16, RANK)))
            if linearised:
                moved = a + torch.randn(a.shape, generator=drawn)
                tensors |= {f"{name}.model.lora_A.default.weight": moved, f"{name}.model.lora_B.default.weight": b}
                tensors |= {f"{name}.params0_values.2": a, f"{name}.params0_values.3": torch.zeros(16, RANK)}
            else:
                tensors |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    save_file(tensors, place / f"{'linearized_' if linearised else ''}adapter_model.safetensors")
    document = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": ["q_proj", "v_proj"]}
    (place / "adapter_config.json").write_text(json.dumps(document))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> HubCache:
    root = tmp_path_factory.mktemp("adapters")
    hub = HubCache(root)
    with pytest.MonkeyPatch.context() as patch:
        hub.use(patch)
        make_clip(root / "clip", seed=0)
        add_clip_models(hub, read("clip-vit-b16/ta8"), root / "clip")
        for name in (LORA, LINEARISED):
            for number, expert in enumerate(read(name).pool.experts.values(), start=1):
                write_adapter(hub.model(str(expert.adapter)), number, linearised=name == LINEARISED)
        add_image_data(hub, read(LORA))
    return hub


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


@pytest.mark.parametrize("name", [LORA, LINEARISED])
def test_eight_adapters_are_merged_as_base_and_the_mean_of_their_updates(
    name, filled, fusionbench, tmp_path, monkeypatch
):
    filled.use(monkeypatch)
    done = fusionbench("run", f"suite={name}", "method=simple_average", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    found = report(tmp_path / "out")["tasks"]
    assert {task: score["accuracy"]["n"] for task, score in found.items()} == dict.fromkeys(found, IMAGES)
    assert len(found) == 8
    merged = load_file(tmp_path / "out" / "model" / "model.safetensors")
    base = load_file(
        filled.models / "models--openai--clip-vit-base-patch16" / "snapshots" / COMMIT / "model.safetensors"
    )
    update = torch.zeros(16, 16)
    for number in range(1, 9):
        # The same draws as the files': A, then B, of each projection in turn; here of the first.
        drawn = torch.Generator().manual_seed(number)
        a, b = (0.3 * torch.randn(shape, generator=drawn) for shape in ((RANK, 16), (16, RANK)))
        update += ALPHA / RANK * (b @ a) / 8
    key = f"vision_model.{PROJECTION.format(0, 'q_proj')}.weight"
    torch.testing.assert_close(merged[key], base[key] + update, rtol=1e-5, atol=1e-6)
    untouched = f"vision_model.{PROJECTION.format(0, 'k_proj')}.weight"
    torch.testing.assert_close(merged[untouched], base[untouched], rtol=1e-6, atol=0)


def test_the_published_resnet_has_no_model_type_and_fits_the_suites_family(tmp_path):
    # torchvision's own names and shapes of a few tensors of ResNet-50.
    shapes = {
        "conv1.weight": (64, 3, 7, 7), "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer3.5.conv2.weight": (256, 256, 3, 3), "layer4.2.bn3.running_var": (2048,),
    }  # fmt: skip
    state = family_named("scene").skeleton(TIMM).state_dict()
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    assert sum(
        tensor.numel() for name, tensor in state.items() if "running" not in name and "num_batches" not in name
    ) == (25_557_032 - 2048 * 1000 - 1000)


@pytest.fixture
def scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubCache:
    """A tiny ResNet under the published id, and NYUv2's packaging with a handful of scenes."""
    from fusionbench.families.scene_encoder import SceneConfig, SceneEncoder

    hub = HubCache(tmp_path / "hub").use(monkeypatch)
    place = hub.model("timm/resnet50.tv_in1k")
    size = {"stem_width": 8, "widths": [4, 4, 4, 4], "depths": [1, 1, 1, 1], "head_width": 8, "head_rates": [1, 2, 3]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = SceneEncoder(SceneConfig(**size)).state_dict()
    classifier = {"fc.weight": torch.ones(10, 16), "fc.bias": torch.zeros(10)}
    kept = {name: tensor for name, tensor in weights.items() if "num_batches" not in name}
    save_file(kept | classifier, place / "model.safetensors")
    (place / "config.json").write_text(json.dumps(TIMM | size))
    drawn = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 3)):
        for kind, made in (
            ("image", lambda: drawn.random((32, 48, 3))),
            ("label", lambda: drawn.integers(-1, 13, (32, 48)).astype("f4")),
            ("depth", lambda: drawn.random((32, 48, 1))),
            ("normal", lambda: drawn.normal(size=(32, 48, 3))),
        ):
            folder = tmp_path / "cache" / "models" / "nyuv2" / "data" / split / kind
            folder.mkdir(parents=True)
            for number in range(count):
                np.save(folder / f"{number}.npy", made().astype("f4"))
    return hub


def test_nyuv2_is_fine_tuned_moved_merged_and_scored(scenes, fusionbench, tmp_path, monkeypatch):
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path / "cache"))
    asked = ("suite=resnet50/nyuv2", "recipe.steps=2", "recipe.batch=2")
    done = fusionbench("finetune", *asked, "--out", tmp_path / "trained")
    assert done.returncode == 0, done.stderr
    for task in ("segmentation", "depth", "normal"):
        (found,) = (path for path in (tmp_path / "trained").rglob(task) if (path / "model.safetensors").is_file())
        shutil.move(found, tmp_path / "cache" / "models" / "nyuv2" / "experts" / task)
    merge = ("suite=resnet50/nyuv2", "method=task_arithmetic", "method.scale=0.3", "batch_norm=as_parameters")
    done = fusionbench("run", *merge, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    tasks = report(tmp_path / "out")["tasks"]
    assert {task: set(scores) - {"seen"} for task, scores in tasks.items()}.keys() == {
        "segmentation",
        "depth",
        "normal",
    }
    assert all(next(v for k, v in scores.items() if k != "seen")["n"] == 3 for scores in tasks.values())
    assert any("not published" in note for note in report(tmp_path / "out")["notes"])
    # The table's rows have values of all five printed metrics, and no verdict: its experts are not these.
    for line in answered("multi-task-resnet50-nyuv2", tmp_path / "runs").lines:
        assert len(line.printed) == 5
        assert {"segmentation/mean_iou", "depth/relative_error", "normal/angle_mean"} < set(line.values)
        assert set(line.verdicts.values()) == {""}


@pytest.mark.slow
def test_full_lora_and_linearised_experts_are_compared_under_the_same_methods(
    filled, fusionbench, tmp_path, monkeypatch
):
    filled.use(monkeypatch)
    answer = answered("tuning-strategies-clip-b16", tmp_path / "runs")
    values = {line.label: line.values["average"].value for line in answer.lines}
    assert len(values) == 12
    suites = {report(path.parent)["suite"]["name"] for path in (tmp_path / "runs").glob("*/report.json")}
    assert suites == {"clip-vit-b16/ta8", LORA, LINEARISED}
