"""The card of a merged model: metadata, the recipe that makes it again, and nothing of this machine."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from checkpoints import read_model, save_model
from fusionbench.compat import load_recipe
from fusionbench.config import Recipe
from fusionbench.merge import merge
from fusionbench.weights.card import write_card
from fusionbench.weights.sources import open_source

WEIGHTS = {"w": torch.tensor([1.0, 2.0])}


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("base", "one"):
        save_model(tmp_path / name, WEIGHTS, {"model_type": "toy"})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parts(card: Path) -> tuple[dict[str, Any], str]:
    _, front, text = card.read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def of(models: Path, *references: str, adapter: bool = False) -> dict[str, Any]:
    """The metadata of a card on models of these references; the files are those of the folders base and one."""
    experts = {f"e{n}": name for n, name in enumerate(references[1:])}
    document = {"base": references[0], "experts": experts, "method": {"name": "ties"}, "output": {}}
    sources = [open_source(models / name) for name in ("base", "one")]
    write_card(models, document, sources, method="ties", paper="arXiv:2306.01708", adapter=adapter)
    found, _ = parts(models / "README.md")
    (models / "README.md").unlink()
    return found


def test_the_recipe_on_a_card_makes_the_model_again(models: Path) -> None:
    values = ["base=base", "experts.one=one", "method=task_arithmetic", "method.scale=0.5", "runtime.threads=1"]
    merge(Recipe.load(None, values), models / "out")
    metadata, text = parts(models / "out" / "README.md")
    assert metadata == {"library_name": "transformers", "tags": ["merge", "fusionbench", "task_arithmetic"]}
    assert text.startswith("# A merge by task_arithmetic\n")
    assert "- `base`\n- `one`\n" in text
    assert str(models) not in text
    assert "threads" not in text
    assert "folder" not in text
    recipe = text.split("```yaml\n")[1].split("```")[0]
    (models / "recipe.yaml").write_text(recipe)
    merge(load_recipe(models / "recipe.yaml")[0], models / "again")
    assert read_model(models / "again")["w"].equal(read_model(models / "out")["w"])
    assert (models / "again" / "README.md").read_text() == (models / "out" / "README.md").read_text()


def test_models_of_the_hub_are_named_and_folders_are_not(models: Path) -> None:
    found = of(models, "org/base", "org/math@v1", "./one", "/some/where", "one", "org/base")
    assert found["base_model"] == ["org/base", "org/math"]
    assert found["base_model_relation"] == "merge"
    assert "base_model" not in of(models, "base", "./one")
    (models / "org").mkdir()
    (models / "org" / "base").mkdir()
    assert of(models, "org/base", "org/math")["base_model"] == ["org/math"]


def test_an_adapter_names_its_base_alone(models: Path) -> None:
    found = of(models, "org/base", "org/math", adapter=True)
    assert (found["base_model"], found["base_model_relation"]) == (["org/base"], "adapter")
    assert found["library_name"] == "peft"


@pytest.mark.parametrize(
    ("base", "one", "expected"),
    [
        ("---\nlicense: mit\n---\n", "---\nlicense: mit\ntags: [x]\n---\n# One", "mit"),
        ("---\nlicense: mit\n---\n", "---\nlicense: gpl-3.0\n---\n", None),
        ("---\nlicense: mit\n---\n", "no front matter", None),
        ("---\nlicense: mit\n---\n", None, None),
        ("---\nlicense: [mit, x]\n---\n", "---\nlicense: [mit, x]\n---\n", None),
        ("---\n: : {\n---\n", "---\n: : {\n---\n", None),
    ],
)
def test_a_licence_is_named_where_all_models_name_the_same(
    base: str, one: str | None, expected: str | None, models: Path
) -> None:
    for name, text in (("base", base), ("one", one)):
        if text is not None:
            (models / name / "README.md").write_text(text)
    assert of(models, "base", "one").get("license") == expected


def test_a_card_that_is_there_is_kept(models: Path) -> None:
    (models / "README.md").write_text("mine")
    document: dict[str, Any] = {"base": None, "experts": {"a": {"model": "x"}}, "method": {}, "output": {}}
    write_card(models, document, [], method="ties", paper="p")
    assert (models / "README.md").read_text() == "mine"


def test_an_adapter_of_an_expert_is_listed(models: Path) -> None:
    document = {"base": None, "experts": {"a": {"model": "x", "adapter": "org/lora"}}, "method": {}, "output": {}}
    write_card(models, document, [], method="ties", paper="p")
    metadata, text = parts(models / "README.md")
    assert "- `x`\n- `org/lora`\n" in text
    assert metadata["base_model"] == ["org/lora"]
