from pathlib import Path

import pytest

from fusionbench.config import SuiteConfig
from fusionbench.errors import ConfigError
from fusionbench.suites import ResolvedSuite, Suite, load_suite
from fusionbench.suites.content import digest_of_tasks

TEXT = """\
name: mine
pool:
  base: base
  experts: {cats: ./cats, dogs: org/dogs}
tasks:
  cats: {kind: image, dataset: pictures, class_names: [base, tom]}
  dogs: {kind: image, dataset: org/pictures}
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    for name in ("base", "cats", "pictures"):
        (tmp_path / name).mkdir()
    (tmp_path / "mine.yaml").write_text(TEXT)
    return tmp_path / "mine.yaml"


def test_a_file_names_models_relative_to_itself_and_hub_ids(mine):
    resolved = load_suite(mine)
    assert resolved == ResolvedSuite(resolved.suite, build=digest_of_tasks(resolved.suite))
    pool = resolved.suite.pool
    assert pool.base == str(mine.parent / "base")
    assert pool.experts["cats"].model == str(mine.parent / "cats")
    assert pool.experts["dogs"].model == "org/dogs"
    tasks = resolved.suite.tasks.tasks
    # the class name "base" is the name of a folder too
    assert tasks["cats"] == {"kind": "image", "dataset": str(mine.parent / "pictures"), "class_names": ["base", "tom"]}
    assert tasks["dogs"]["dataset"] == "org/pictures"


def test_the_head_of_a_task_may_lie_beside_the_file_too(mine):
    mine.write_text(mine.read_text().replace("dataset: org/pictures", "dataset: org/pictures, head: ./cats"))
    assert load_suite(mine).suite.tasks.tasks["dogs"]["head"] == str(mine.parent / "cats")


def test_the_same_file_is_found_by_the_text_of_its_path_and_by_a_recipes_suite_part(mine):
    config = SuiteConfig(name=str(mine), experts=("dogs",), unseen=("cats",))
    assert load_suite(str(mine)) == load_suite(mine)
    chosen = load_suite(config).suite
    assert (list(chosen.pool.experts), chosen.unseen) == (["dogs"], ("cats",))


def test_a_suite_or_its_description_is_taken_as_it_is(mine):
    suite = Suite.from_yaml(TEXT)
    assert load_suite(suite).suite == suite
    assert load_suite(suite.model_dump()).suite == suite


def test_experts_can_be_chosen(mine):
    assert list(load_suite(mine, experts=("dogs",)).suite.pool.experts) == ["dogs"]


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("mini/clp", "no suite named 'mini/clp'. Did you mean mini/clip"),
        ("nowhere.yaml", "no file nowhere.yaml"),
        (Path("mine.txt"), r"mine.txt.*\.yaml"),
    ],
)
def test_what_is_not_there_is_an_error_that_names_it(which, message):
    with pytest.raises(ConfigError, match=message):
        load_suite(which)
