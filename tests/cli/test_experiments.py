"""`list experiments` and `show EXPERIMENT`: what an experiment runs can be read without running it."""

import json

import pytest

from fusionbench.cli import main


@pytest.fixture
def said(monkeypatch, capsys):
    """What a command prints."""
    monkeypatch.setenv("COLUMNS", "250")

    def call(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["fusionbench", *arguments])
        with pytest.raises(SystemExit) as exited:
            main()
        assert not exited.value.code
        return capsys.readouterr().out

    return call


def test_the_list_holds_suites_methods_and_published_files(said):
    listed = {entry["name"]: entry["experiment"] for entry in json.loads(said("list", "experiments", "--json"))}
    found = listed["scale-ties-clip-b32"]
    assert (found["suite"], found["stand_in"]["name"]) == ({"name": "openclip-vit-b32/ta8"}, "mini/clip")
    assert found["published"] == ["concrete_table11_ties-merging_scaling.csv"]
    assert found["rows"][0]["method"]["density"] == "0.2"
    assert found["rows"][0]["method"]["compat"] == "fusion_bench"
    assert list(found["vary"]) == ["method.scale"]
    assert "experiment" not in json.loads(said("list", "methods", "--json"))[0]


def test_show_prints_rows_with_their_parameters_and_what_varies(said):
    text = said("show", "re-ties-t5-base")
    assert "re-ties_table02_t5-base.csv" in text
    assert "name=t5-base/ties7" in text
    assert "method.scale=one of 0.1, 0.2" in text
    assert "with     space=adapter\n" in said("show", "re-ties-ia3")
    assert "tasks.corruption: None, motion_blur" in said("show", "robustness-clip-b32")
    assert "tasks.severity=2" in said("show", "robustness-clip-b32")
    assert (
        json.loads(said("show", "re-ties-t5-base", "--json"))["experiment"]["title"]
        == "[Re] TIES: T5-base on seven tasks"
    )


def test_a_dry_run_of_a_matrix_prints_the_suite_that_it_would_take(said):
    text = said("reproduce", "transfer-gpt2", "--suite", "mini", "--size", "tiny", "--seeds", "3", "--dry-run")
    assert "# each model of the suite" in text
    assert "name: mini/gpt2" in text
    assert "seed: 3" in text


def test_an_experiment_wins_over_a_folder_of_its_name(said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cosine-clip-b32").mkdir()
    out = said("reproduce", "cosine-clip-b32", "--suite", "mini", "--dry-run")
    assert "mini/clip" in out


@pytest.mark.parametrize(("suite", "known"), [("paper", True), ("mini", False)])
def test_a_row_that_failed_is_an_error_with_its_label_and_one_that_nobody_can_run_is_not(
    suite, known, tmp_path, monkeypatch, capsys
):
    from fusionbench.experiments import reproduce
    from fusionbench.experiments.model import load_experiment

    experiment = load_experiment("multi-task-clip-b32")
    row, *_ = (row for row in experiment.rows if row.unavailable and not row.no_stand_in)
    answer = reproduce.Answer(
        experiment, suite, None, (0,), failed={row.label: row.unavailable, "ties": "The disk is full."}
    )
    monkeypatch.setattr(reproduce, "reproduce", lambda *_, **__: answer)
    command = ["fusionbench", "reproduce", experiment.name, "--suite", suite, "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as exited:
        main()
    assert not exited.value.code
    told = capsys.readouterr().err.splitlines()
    assert "error: ties: The disk is full." in told
    assert any(line.startswith(f"{'note' if known else 'error'}: {row.label}: ") for line in told)
