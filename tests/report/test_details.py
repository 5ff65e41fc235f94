"""One run in full."""

from collections.abc import Callable

import pytest

from fusionbench.records import Run
from fusionbench.report.details import details, duration, parameters


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4219, "0.42 s"),
        (12.54, "12.5 s"),
        (99.96, "1 min 40 s"),
        (185, "3 min 05 s"),
        (3599.6, "1 h 00 min"),
        (7800, "2 h 10 min"),
    ],
)
def test_durations_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"), [(512, "512"), (147_584, "147.6 K"), (113_448_705, "113.4 M"), (7_241_732_096, "7.24 B")]
)
def test_parameters_are_said_in_few_digits(count: int, said: str) -> None:
    assert parameters(count) == said


def test_all_that_is_known_of_a_run_is_there(make_accuracies: Callable[..., Run]) -> None:
    run = make_accuracies("a", "ties", {"x": 0.5}, params={"scale": 0.3}, notes=("first", "second"))
    text = details(run, "ties (scale=0.3)", "s1-run1")
    for part in (
        '<details id="s1-run1">',
        "<summary>ties (scale=0.3) <small>average accuracy 50.0 %</small></summary>",
        "<dt>suite</dt><dd>mini/clip, small, seed 0, b0</dd>",
        "<dt>model</dt><dd>weights, 147.6 K parameters, 576.5 KiB</dd>",
        "<dt>adapted on</dt><dd>nothing</dd>",
        "<dt>time</dt><dd>12.5 s (load 0.50 s, fuse 2.00 s, evaluate 10.0 s)</dd>",
        "<dt>peak memory</dt><dd>512.0 MiB</dd>",
        "<dt>versions</dt><dd>Python 3.11.9, fusionbench 0.1.0</dd>",
        "<dt>command</dt><dd>fusionbench run method=ties</dd>",
        "<li>first</li><li>second</li>",
        "  scale: 0.3\n",
    ):
        assert part in text


def test_a_run_without_run_json_and_recipe_is_shown_too(make_accuracies: Callable[..., Run]) -> None:
    run = make_accuracies("a", "ties", {"x": 0.5})
    text = details(Run(run.folder, run.report), "ties", "r")
    assert "<dt>identity</dt>" in text
    assert "<dt>time</dt>" not in text
    assert "Recipe" not in text


def test_parents_are_links_where_they_can_be_followed(make_run: Callable[..., Run]) -> None:
    experts = {"math": {"model": "some-one/math_7b.v2", "task": "gsm8k"}, "code": "/models/my code", "odd": "../x<b>"}
    recipe = {"base": "some-one/base", "experts": experts}
    found = details(make_run("a", "ties", {"x": {"accuracy": 0.5}}, recipe=recipe), "ties", "run1")
    assert '<dt>parent base</dt><dd><a href="https://huggingface.co/some-one/base" rel="noreferrer">' in found
    assert '<a href="https://huggingface.co/some-one/math_7b.v2" rel="noreferrer">some-one/math_7b.v2</a>' in found
    assert '<a href="file:///models/my%20code">/models/my code</a>' in found
    assert "<dt>parent odd</dt><dd>../x&lt;b&gt;</dd>" in found


def test_a_suite_without_named_models_has_no_parents(make_run: Callable[..., Run]) -> None:
    recipe = {"base": None, "experts": {}}
    assert "parent" not in details(make_run("a", "ties", {"x": {"accuracy": 0.5}}, recipe=recipe), "ties", "run1")
