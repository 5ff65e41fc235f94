"""The suites of 14 and 20 image tasks under their published ids: each answer is that of transformers' own CLIP."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize

from fusionbench.suites import Suite
from fusionbench.suites.paper import describe, suite_of
from fusionbench.tasks.class_lists import class_list, class_lists
from hub_stand_in import HubCache
from paper_stand_ins import IMAGES, add_clip_models, add_image_data, letter_tokenizer
from tiny_clip import make_clip, noise

TWENTY, FOURTEEN = "clip-vit-b32/ta20", "clip-vit-l14/ta14"
TA8 = ("sun397", "stanford_cars", "resisc45", "eurosat", "svhn", "gtsrb", "mnist", "dtd")
FEW = ("pcam", "fer2013", "rendered_sst2", "kmnist")
"""Tasks of few prompts, for the quick test: labels that are true or false, other columns, another configuration."""


class Card(NamedTuple):
    """What a data set's card on the hub says: its configuration, splits, columns and how its labels are told."""

    repository: str
    config: str = "default"
    splits: tuple[str, ...] = ("train", "test")
    image: str = "image"
    label: str = "label"
    kind: str = "names"
    further: str = ""


CARDS = {
    "oxford_flowers102": Card("dpdl-benchmark/oxford_flowers102", splits=("train", "validation", "test")),
    "pcam": Card("1aurent/PatchCamelyon", splits=("train", "valid", "test"), kind="bool"),
    "fer2013": Card("clip-benchmark/wds_fer2013", image="jpg", label="cls", kind="int64", further="__key__"),
    "oxford_iiit_pet": Card("timm/oxford-iiit-pet", further="image_id"),
    "stl10": Card("tanganke/stl10"),
    "cifar100": Card("tanganke/cifar100"),
    "cifar10": Card("tanganke/cifar10"),
    "food101": Card("ethz/food101", splits=("train", "validation"), kind="underscored names"),
    "fashion_mnist": Card("zalando-datasets/fashion_mnist", config="fashion_mnist"),
    "emnist_letters": Card("tanganke/emnist_letters", config="emnist-letters"),
    "kmnist": Card("tanganke/kmnist", config="kmnist"),
    "rendered_sst2": Card("nateraw/rendered-sst2", splits=("train", "validation", "test")),
}


def read(name: str) -> Suite:
    return suite_of(name, describe(name))


def add_card_data(hub: HubCache, task: str, card: Card, number: int, labels: list[int]) -> None:
    """Put four random images under a data set's id, in the form that its card describes."""
    import datasets

    names = list(class_list(task).class_names)
    kinds = {
        "names": datasets.ClassLabel(names=names),
        "underscored names": datasets.ClassLabel(names=[name.replace(" ", "_") for name in names]),
        "bool": datasets.Value("bool"),
        "int64": datasets.Value("int64"),
    }
    features = {card.image: datasets.Image(), card.label: kinds[card.kind]}
    images = [datasets.Image().encode_example(image) for image in noise(IMAGES, seed=number)]
    rows: dict[str, Any] = {card.image: images, card.label: labels}
    if card.further:
        features[card.further] = datasets.Value("string")
        rows[card.further] = ["a", "b", "c", "d"]
    held = datasets.Dataset.from_dict(rows, datasets.Features(features))
    hub.dataset(card.repository, dict.fromkeys(card.splits, held), card.config)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP that reads letters: every prompt of every list has a feature of its own."""
    folder = tmp_path_factory.mktemp("clip")
    texts = [text for of in class_lists().values() for text in (*of.class_names, *of.templates)]
    make_clip(folder, 0, letter_tokenizer("".join(sorted(set("".join(texts))))), positions=77)
    return folder


@pytest.fixture(scope="module")
def filled(base: Path, tmp_path_factory: pytest.TempPathFactory) -> HubCache:
    hub = HubCache(tmp_path_factory.mktemp("hub"))
    with pytest.MonkeyPatch.context() as patch:
        hub.use(patch)
        for name in (TWENTY, FOURTEEN):
            add_clip_models(hub, read(name), base)
        add_image_data(hub, read("clip-vit-b32/ta8"))
        for number, (task, card) in enumerate(CARDS.items(), start=len(TA8)):
            add_card_data(hub, task, card, number, labels_of(task))
    return hub


def labels_of(task: str) -> list[int]:
    return [0, 1, 1, len(class_list(task).class_names) - 1]


def expected(hub: HubCache, base: Path, suite: Suite, tasks: tuple[str, ...]) -> dict[str, list[int]]:
    """The classes that the mean of the experts sees in each image, by transformers alone."""
    from transformers import AutoTokenizer, CLIPModel

    model = CLIPModel.from_pretrained(base).eval()
    places = (hub.models / f"models--{expert.model.replace('/', '--')}" for expert in suite.pool.experts.values())
    states = [load_file(next(place.glob("snapshots/*/model.safetensors"))) for place in places]
    mean = {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}
    assert not model.load_state_dict(mean, strict=False).unexpected_keys
    tokenizer = AutoTokenizer.from_pretrained(base)
    found = {}
    for task in tasks:
        of = class_list(task)
        prompts = [template.replace("{}", name) for name in of.class_names for template in of.templates]
        pixels = (torch.tensor(noise(IMAGES, seed=[*TA8, *CARDS].index(task))).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
        with torch.inference_mode():
            texts = model.get_text_features(
                **tokenizer(prompts, padding=True, truncation=True, max_length=77, return_tensors="pt")
            ).pooler_output
            rows = normalize(texts, dim=-1).view(len(of.class_names), len(of.templates), -1).mean(1)
            images = model.get_image_features(pixel_values=pixels).pooler_output
            logits = normalize(images, dim=-1) @ normalize(rows, dim=-1).T
        found[task] = logits.argmax(-1).tolist()
    return found


def answered(folder: Path) -> dict[str, list[int]]:
    import datasets

    kept = sorted((folder / "tasks").glob("*.parquet"))
    return {file.stem: datasets.Dataset.from_parquet(str(file))["predicted"][:] for file in kept}


def check(hub: HubCache, base: Path, suite: Suite, folder: Path) -> None:
    found = json.loads((folder / "report.json").read_text())
    tasks = tuple(suite.pool.experts)
    assert tuple(found["tasks"]) == tasks
    wanted = expected(hub, base, suite, tasks)
    assert answered(folder) == wanted
    assert len({tuple(answers) for answers in wanted.values()}) > len(tasks) / 2
    for task, answers in wanted.items():
        score = found["tasks"][task]["accuracy"]
        assert score["n"] == IMAGES
        assert score["value"] == sum(map(int.__eq__, answers, labels_of(task))) / IMAGES


def test_data_sets_are_read_as_their_cards_describe_them(filled, base, fusionbench, tmp_path, monkeypatch):
    filled.use(monkeypatch)
    asked = (f"suite={TWENTY}", f"suite.experts=[{','.join(FEW)}]", "method=simple_average")
    done = fusionbench("run", *asked, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    check(filled, base, read(TWENTY).restricted(FEW, None), tmp_path / "out")


@pytest.mark.parametrize("name", [pytest.param(FOURTEEN, marks=pytest.mark.slow), TWENTY])
def test_all_tasks_are_answered_as_transformers_own_model_does(name, filled, base, fusionbench, tmp_path, monkeypatch):
    filled.use(monkeypatch)
    done = fusionbench("run", f"suite={name}", "method=simple_average", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    check(filled, base, read(name), tmp_path / "out")


def test_all_that_a_long_suite_needs_is_found_in_the_cache(filled, fusionbench, monkeypatch):
    filled.use(monkeypatch)
    done = fusionbench("fetch", f"suite={TWENTY}")
    assert done.returncode == 0, done.stderr
