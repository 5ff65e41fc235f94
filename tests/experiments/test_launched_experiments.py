"""Experiments through a launcher: all selections are one list of jobs, all rows of all seeds another."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusionbench.cli import main
from fusionbench.config import RuntimeConfig
from fusionbench.errors import ConfigError, NotFinite
from fusionbench.experiments.model import Experiment
from fusionbench.experiments.rendering import as_csv
from fusionbench.experiments.reproduce import reproduce
from fusionbench.records import Remote
from fusionbench.sweep import local
from launched_here import jobs_here
from noise_suite import make_suite
from tiny_clip import cache, clip_folder, make_clip, other_clip_folder

__all__ = ["cache", "clip_folder", "other_clip_folder"]
pytestmark = pytest.mark.usefixtures("cache")
Make = Callable[..., Experiment]
PROCESSES = RuntimeConfig.load(["launcher=processes", "runtime.threads=1"])
ROWS = [
    {"label": "average", "method": {"name": "simple_average"}},
    {"label": "sum", "method": {"name": "task_arithmetic"}, "select": {"method.scale": ["0.1", "0.3"]}},
    {"label": "gone", "method": {"name": "simple_average"}, "unavailable": "nobody has its checkpoints"},
    {"label": "wrong", "method": {"name": "task_arithmetic", "skale": 1}, "select": {"method.density": ["0.1"]}},
]


@pytest.fixture(scope="session")
def noisy(tmp_path_factory: pytest.TempPathFactory, clip_folder: Path, other_clip_folder: Path) -> Path:
    """The YAML of a suite; not to be changed."""
    dogs = tmp_path_factory.mktemp("clip") / "dogs"
    make_clip(dogs, seed=2)
    return make_suite(tmp_path_factory.mktemp("suite"), {"base": clip_folder, "cats": other_clip_folder, "dogs": dogs})


@pytest.fixture
def make(noisy: Path) -> Make:
    """Return an experiment on the suite, for the papers' side and the stand-in alike."""

    def made(**changes: Any) -> Experiment:
        suite = {"name": str(noisy)}
        document = {"name": "noise", "title": "Noise", "paper": "arXiv:0000.00000", "rows": ROWS, **changes}
        return Experiment.read({"suite": suite, "stand_in": suite, **document}, "The experiment")

    return made


def test_a_table_is_what_it_is_without_a_launcher(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment, asked = make(), {"which": "paper", "seeds": (0, 1)}
    expected = reproduce(experiment, tmp_path / "here", **asked)
    assert [line.label for line in expected.lines] == ["average", "sum"]
    assert expected.failed["gone seed=0"] == "nobody has its checkpoints"
    assert "skale" in expected.failed["wrong seed=1"]
    given = jobs_here(monkeypatch)
    found = reproduce(experiment, tmp_path / "there", **asked, runtime=PROCESSES)
    # Two values of each of two seeds; then two rows of each.
    assert given == [4, 4]
    assert (found.lines, found.failed) == (expected.lines, expected.failed)
    assert as_csv(found) == as_csv(expected)
    places = {path.relative_to(tmp_path / "here") for path in (tmp_path / "here").glob("**/report.json")}
    assert {path.relative_to(tmp_path / "there") for path in (tmp_path / "there").glob("**/report.json")} == places
    assert len(places) == 8


def test_a_table_under_an_address_is_that_of_a_folder(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make(rows=ROWS[:2])
    expected = reproduce(experiment, tmp_path / "here")
    given = jobs_here(monkeypatch)
    place = Remote.at(f"file://{tmp_path}/there")
    found = [reproduce(experiment, place, runtime=how) for how in (PROCESSES, None)]
    assert given == [2, 2]
    assert [answer.lines for answer in found] == [expected.lines] * 2
    there, here = (
        {path.relative_to(tmp_path / top): path.read_bytes() for path in (tmp_path / top).glob("**/report.json")}
        for top in ("there", "here")
    )
    assert there == here
    assert len(there) == 4


def test_a_selection_whose_run_fails_is_a_row_without_numbers(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = local.run

    def failing(recipe: Any, **options: Any) -> Any:
        if recipe.method.params.get("scale") == 0.3:
            raise NotFinite("the weights are broken")
        return real(recipe, **options)

    monkeypatch.setattr(local, "run", failing)
    given = jobs_here(monkeypatch)
    found = reproduce(make(), tmp_path / "runs", runtime=PROCESSES)
    assert given == [2, 1]
    assert [line.label for line in found.lines] == ["average"]
    assert found.failed["sum"] == "the weights are broken"


def test_a_curve_and_a_matrix_are_one_list_each(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"label": "sum", "method": {"name": "task_arithmetic"}}
    curve = make(kind="curve", rows=[row], vary={"method.scale": ["0.1", "0.2", "0.4"]})
    matrix = make(kind="transfer", rows=[])
    expected = [reproduce(each, tmp_path / f"here-{each.kind}", seeds=(0, 1)) for each in (curve, matrix)]
    given = jobs_here(monkeypatch)
    found = [
        reproduce(each, tmp_path / f"there-{each.kind}", seeds=(0, 1), runtime=PROCESSES) for each in (curve, matrix)
    ]
    # Three values, and three models, of two seeds each.
    assert given == [6, 6]
    assert [answer.lines for answer in found] == [answer.lines for answer in expected]
    assert found[1].matrix is not None
    assert expected[1].matrix is not None
    assert found[1].matrix.to_csv() == expected[1].matrix.to_csv()


def test_what_is_said_of_the_runtime_is_in_every_recipe() -> None:
    runtime = RuntimeConfig.load(["launcher.workers=2", "launcher=ray", "launcher.gpus=0.5", "runtime.memory=2GB"])
    assert runtime.launcher is not None
    assert (runtime.launcher.name, runtime.launcher.workers, runtime.launcher.gpus) == ("ray", 2, 0.5)
    assert runtime.memory == 2_000_000_000
    assert RuntimeConfig.load([]).launcher is None


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("method.scale=0.3", "method: what is run is settled here"),
        ("tasks.limit=3", "tasks: what is run is settled here"),
        ("launcher=pigeons", "pigeons"),
        ("runtime.thread=3", "did you mean threads"),
        ("launcher.cpus=none", "cpus"),
        ("launcher", "write key=value"),
    ],
)
def test_what_is_no_matter_of_the_runtime_is_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RuntimeConfig.load([override])


def test_the_command_takes_a_launcher_like_run(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "noise.yaml"
    file.write_text(json.dumps(make(rows=ROWS[:2]).model_dump(mode="json")))
    given = jobs_here(monkeypatch)
    words = ["reproduce", str(file), "launcher=processes", "launcher.workers=2", "--suite", "mini", "--json"]
    monkeypatch.setattr(sys, "argv", ["fusionbench", *words, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        main()
    streams = capsys.readouterr()
    assert ended.value.code == 0, streams.err
    assert [line["label"] for line in json.loads(streams.out)["lines"]] == ["average", "sum"]
    assert given == [2, 2]
    monkeypatch.setattr(sys, "argv", ["fusionbench", *words[:3], "--suite", "mini", "--dry-run"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().out.count("name: processes") == 2
