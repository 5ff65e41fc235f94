"""`analyze` and `compare` on the tiny suite, through the command line."""

import csv
import json

import pytest

from fusionbench.suites import load_suite

TINY = ("suite=mini/clip", "suite.size=tiny")


@pytest.fixture
def answer(fusionbench, cache):
    """What a command prints to standard output, where it succeeds."""
    load_suite("mini/clip", size="tiny")

    def call(*arguments: object) -> str:
        found = fusionbench(*arguments)
        assert found.returncode == 0, found.stderr
        return found.stdout

    return call


def read(path) -> list[list[str]]:
    return list(csv.reader(path.read_text().splitlines()))


def test_cosines_of_a_suite_are_written_for_the_whole_and_for_each_block(tmp_path, answer):
    said = answer("analyze", "cosine", *TINY, "--out", tmp_path / "out")
    rows = read(tmp_path / "out/cosine.csv")
    assert rows[0][1:] == list(load_suite("mini/clip", size="tiny").suite.pool.experts)
    assert all(float(row[index]) == pytest.approx(1) for index, row in enumerate(rows[1:], start=1))
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {
        "cosine.png", "cosine-outside.png", "cosine-0.png", "cosine-1.png",
    }  # fmt: skip
    assert "Cosine similarity of task vectors" in said


def test_the_transfer_matrix_has_the_experts_own_scores_on_its_diagonal(tmp_path, answer):
    asked = [*TINY, "suite.experts=[mnist,land]", "tasks.limit=40"]
    found = json.loads(answer("analyze", "transfer", *asked, "--out", tmp_path / "out", "--json"))["transfer"]
    assert (found["rows"], found["columns"]) == (["pretrained", "mnist", "land"], ["mnist", "land"])
    own = json.loads(answer("run", *asked, "method=individual", "--out", tmp_path / "own", "--json"))["tasks"]
    assert found["values"][1][0] == own["mnist"]["accuracy"]["value"]
    assert found["values"][2][1] == own["land"]["accuracy"]["value"]
    runs = sorted((tmp_path / "out/runs").glob("*/report.json"))
    before = [path.stat().st_mtime_ns for path in runs]
    answer("analyze", "transfer", *asked, "--out", tmp_path / "out", "--json")
    assert [path.stat().st_mtime_ns for path in runs] == before


def test_the_line_between_two_experts_starts_and_ends_at_them(tmp_path, answer):
    asked = [*TINY, "tasks.limit=40", "--between", "mnist,land", "--points", "3"]
    found = json.loads(answer("analyze", "connectivity", *asked, "--out", tmp_path / "out", "--json"))["connectivity"]
    assert found["rows"] == ["0.00", "0.50", "1.00"]
    asked = [*TINY, "suite.experts=[mnist,land]", "tasks.limit=40"]
    transfer = json.loads(answer("analyze", "transfer", *asked, "--out", tmp_path / "other", "--json"))["transfer"][
        "values"
    ]
    assert found["values"][0] == transfer[1]
    assert found["values"][2] == transfer[2]


def test_the_middle_of_the_landscape_is_the_base(tmp_path, answer):
    asked = [*TINY, "tasks.limit=8", "--between", "mnist,land"]
    found = json.loads(answer("analyze", "landscape", *asked, "--out", tmp_path / "out", "--json"))["landscape"]
    assert found["rows"] == found["columns"] == ["-1", "-0.5", "0", "0.5", "1"]
    pair = [*TINY, "suite.experts=[mnist,land]", "tasks.limit=8"]
    own = json.loads(answer("run", *pair, "method=pretrained", "--out", tmp_path / "own", "--json"))
    assert found["values"][2][2] == own["average"]["accuracy"]


def test_two_runs_are_compared_example_by_example(tmp_path, answer):
    for method in ("pretrained", "individual"):
        answer("run", *TINY, f"method={method}", "--out", str(tmp_path / method))
    said = answer("compare", tmp_path / "individual", tmp_path / "pretrained", "--resamples", "200")
    assert "95 % interval" in said
    assert "average" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["transfer", "base=x", "experts.a=y"], "Say whose models and tasks"),
        (["connectivity", *TINY], "add --between FIRST,SECOND"),
        (["connectivity", *TINY, "--between", "mnist,lend"], "Did you mean land"),
        (["landscape", *TINY, "--between", "mnist,mnist"], "two different experts"),
        (["connectivity", *TINY, "--between", "mnist,land", "--points", "1"], "at least 2"),
        (["overlap", *TINY, "--rank", "4000"], "no matrix of the fused part"),
        (["coefficients", *TINY], "is of one finished run"),
        (["coefficients", "nowhere"], "nowhere holds no learned coefficients"),
        (["routing", "nowhere"], "nowhere holds no model"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, said, tmp_path, fusionbench):
    found = fusionbench("analyze", *arguments, "--out", tmp_path / "out")
    assert found.returncode == 2
    assert said in found.stderr
    assert not (tmp_path / "out").exists()


def test_what_adamerging_learned_is_shown_by_block_and_by_tensor(tmp_path, answer):
    asked = [*TINY, "suite.experts=[mnist,land]", "tasks.limit=20", "method=adamerging"]
    answer("run", *asked, "method.steps=2", "method.learning_rate=0.001", "--out", tmp_path / "run")
    found = json.loads(answer("analyze", "coefficients", tmp_path / "run", "--out", tmp_path / "out", "--json"))
    assert found["coefficients"]["rows"] == ["mnist", "land"]
    assert found["coefficients"]["columns"] == ["outside", "block 0", "block 1"]
    by_tensor = found["coefficients-tensors"]["values"]
    # Two steps of Adam at 0.001 from 0.3.
    assert all(0.2979 < value < 0.3021 for row in by_tensor for value in row)
    assert any(value != 0.3 for row in by_tensor for value in row)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"{name}.{kind}" for name in ("coefficients", "coefficients-tensors") for kind in ("csv", "png", "pdf")
    }


def test_the_weights_of_a_mixture_are_shown_by_task(tmp_path, answer):
    asked = [*TINY, "suite.experts=[mnist,land]", "tasks.limit=20", "method=wemoe", "method.steps=0"]
    answer("run", *asked, "method.depth=0", "method.init=0.4", "--out", tmp_path / "run")
    found = json.loads(
        answer("analyze", "routing", tmp_path / "run", "--examples", 8, "--out", tmp_path / "o", "--json")
    )
    assert list(found) == ["routing", "routing-0", "routing-1"]
    assert (found["routing"]["rows"], found["routing"]["columns"]) == (["mnist", "land"], ["mnist", "land"])
    # A router of depth 0 is a free vector that starts at `init` and no step has changed.
    assert found["routing"]["values"] == [[pytest.approx(0.4, abs=1e-6)] * 2] * 2
    asked = ["routing", tmp_path / "run", "--examples", 8, "--interactive"]
    assert "Mean routing weight" in answer("analyze", *asked, "--out", tmp_path / "o")
    page = (tmp_path / "o" / "interactive.html").read_text()
    assert page.count('<div id="figure-') == 3
    # The model of a run at an address is fetched for it.
    asked = ["analyze", "routing", f"file://{tmp_path}/run", "--examples", 8, "--out", tmp_path / "o", "--json"]
    assert json.loads(answer(*asked)) == found
