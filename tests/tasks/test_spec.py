import sys
import types
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fusionbench import registry
from fusionbench.config import parse_document
from fusionbench.errors import ConfigError, MissingData
from fusionbench.families import load_module
from fusionbench.families.clip import Clip
from fusionbench.mixing import FusedModule
from fusionbench.tasks import ImageTask, TaskSpec, build_task, evaluate, task
from fusionbench.weights.headers import Source
from fusionbench.weights.sources import open_source
from tiny_clip import noise

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures, one folder a class, that the datasets library reads."""
    folder = tmp_path_factory.mktemp("data")
    for number, (split, name) in enumerate((s, n) for s in ("train", "test") for n in ("cat", "dog")):
        (folder / split / name).mkdir(parents=True)
        for index, image in enumerate(noise(3, side=40, seed=number)):
            Image.fromarray(image).save(folder / split / name / f"{index}.png")
    return folder


@pytest.fixture
def base(clip_folder: Path) -> Source:
    return open_source(clip_folder)


def test_a_task_written_in_yaml_is_built_and_scored_without_python(pictures: Path, base: Source) -> None:
    text = f"""
    dataset: {pictures}
    templates: ["a photo of a {{}}", "a {{}}"]
    metrics: [accuracy]
    version: 2
    """
    built = build_task("pets", parse_document(text, "mine.yaml"), Clip(), base)
    assert isinstance(built, ImageTask)
    assert (built.name, built.version, built.class_names) == ("pets", 2, ("cat", "dog"))
    assert (built.size("train"), built.size("test")) == (6, 6)
    found = evaluate(FusedModule(load_module(Clip(), base), Clip()), built)
    assert found.scores["accuracy"].n == 6


def test_class_names_of_the_task_win_over_those_of_the_data_set(pictures: Path, base: Source) -> None:
    spec = TaskSpec(dataset=str(pictures), class_names=("red cat", "red dog"))
    assert build_task("pets", spec, Clip(), base).class_names == ("red cat", "red dog")  # type: ignore[attr-defined]


def test_class_names_of_another_number_than_the_classes_are_refused(pictures: Path, base: Source) -> None:
    spec = TaskSpec(dataset=str(pictures), class_names=("cat", "dog", "bird"))
    with pytest.raises(ConfigError, match=r"pets lists 3 class names, .* has 2 classes: cat, dog"):
        build_task("pets", spec, Clip(), base)


def test_a_description_without_class_names_needs_data_that_brings_them(tmp_path: Path, base: Source) -> None:
    import datasets

    rows = {"image": [Image.fromarray(noise(1)[0])], "label": [0]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    datasets.DatasetDict(test=datasets.Dataset.from_dict(rows, features=features)).save_to_disk(tmp_path / "plain")
    with pytest.raises(ConfigError, match=r"brings no class names\. List them in class_names of the task pets"):
        build_task("pets", TaskSpec(dataset=str(tmp_path / "plain")), Clip(), base)


def test_wrong_keys_and_templates_are_all_named_with_their_task(base: Source) -> None:
    document = {"dataset": "x", "template": ["a {}"], "templates": ["a photo"], "version": "0"}
    with pytest.raises(ConfigError) as error:
        build_task("pets", document, Clip(), base)
    message = str(error.value)
    assert message.startswith("The task pets is wrong:")
    assert "template" in message
    assert "'a photo' must hold {} once" in message
    assert "version" in message


def test_an_unknown_metric_kind_and_family_are_refused(pictures: Path, base: Source) -> None:
    place = str(pictures)
    with pytest.raises(ConfigError, match="no metric named 'acc'"):
        build_task("pets", TaskSpec(dataset=place, metrics=("acc",)), Clip(), base)
    with pytest.raises(ConfigError, match="no metric named 'spearman' of the task pets"):
        build_task("pets", TaskSpec(dataset=place, metrics=("accuracy", "spearman")), Clip(), base)
    with pytest.raises(ConfigError, match=r"no task named 'imag'.*image"):
        build_task("pets", TaskSpec(dataset=place, kind="imag"), Clip(), base)
    with pytest.raises(ConfigError, match="pets is for the family 'gpt2', the pool's models are 'clip'"):
        build_task("pets", TaskSpec(dataset=place, family="gpt2"), Clip(), base)


def test_options_that_a_kind_does_not_have_are_refused(pictures: Path, base: Source) -> None:
    with pytest.raises(ConfigError, match="options of the task pets is wrong:\n  threshold is not a key"):
        build_task("pets", TaskSpec(dataset=str(pictures), options={"threshold": 1}), Clip(), base)


def test_data_that_are_not_there_are_refused(base: Source, tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="There is no data set at"):
        build_task("pets", TaskSpec(dataset=str(tmp_path / "gone")), Clip(), base)


def test_a_kind_of_task_of_another_package_is_built_by_name(monkeypatch: pytest.MonkeyPatch, base: Source) -> None:
    @task("theirs", version=3)
    def build(name: str, spec: TaskSpec, family: Any, base: Any) -> Any:
        """Someone's kind of task."""
        return (name, spec.options, family.name, base)

    build.__module__, build.__qualname__ = "their_package", "build"
    module = types.ModuleType("their_package")
    module.build = task("theirs", version=3)(build)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "their_package", module)
    point = EntryPoint("theirs", "their_package:build", "fusionbench.task")
    monkeypatch.setattr(registry, "_plugins", lambda kind: {"theirs": point} if kind == "task" else {})
    assert registry.tasks["theirs"].version == 3
    built = build_task("pets", {"dataset": "x", "kind": "theirs", "options": {"depth": 2}}, Clip(), base)
    assert built == ("pets", {"depth": 2}, "clip", base)
