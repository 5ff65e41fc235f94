"""`report.json`: its keys, its bytes, and what is refused on reading."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from fusionbench.errors import ConfigError, MissingData
from fusionbench.records import (
    DataUse,
    MethodRef,
    MetricInfo,
    ModelFacts,
    Report,
    Score,
    SuiteRef,
    TaskScore,
    Variant,
)

CONTRACT = Path(__file__).parents[1] / "contracts" / "report.schema.json"
METRICS = {"accuracy": MetricInfo(), "spearman": MetricInfo()}


def small_report(**changes: Any) -> Report:
    tasks = {
        "mnist": TaskScore.of({"accuracy": Score(value=0.1 + 0.2, n=1000, stderr=0.015)}),
        "digits": TaskScore.of({"spearman": Score(value=0.5, n=800)}),
    }
    model = ModelFacts(kind="weights", parameters=1_234_567, bytes=4_938_268)
    fields: dict[str, Any] = {
        "identity": "sha256:00",
        "suite": SuiteRef(name="mini/clip", size="small", seed=0, build="b"),
        "method": MethodRef(name="ties", params={"scale": 0.3, "density": 0.2, "weights": {"b": 1, "a": (1, 2.5)}}),
        "variants": [Variant.build(tasks, METRICS, individual={"mnist": 0.6, "digits": 1.0}, model=model)],
        "metrics": METRICS,
        "inputs": {"base": "fp:1", "mnist": "fp:2", "digits": "fp:3"},
        "skipped": {"svhn": "no expert", "cars": "no head"},
        "notes": ["second", "first"],
    }
    return Report.build(**{**fields, **changes})


def test_the_file_has_the_keys_of_the_contract() -> None:
    written = json.loads(small_report().dump_json())
    assert written["schema"] == 1
    assert written["method"] == {
        "name": "ties",
        "version": 1,
        "params": {"density": 0.2, "scale": 0.3, "weights": {"a": [1, 2.5], "b": 1}},
        "compat": None,
        "inner": None,
    }
    assert written["variants"][0]["model"] == {
        "kind": "weights",
        "parameters": 1_234_567,
        "trainable": 0,
        "bytes": 4_938_268,
    }
    assert written["variants"][0].keys() == {
        *("label", "params", "tasks", "average", "unseen_average", "normalized", "model")
    }
    assert written["tasks"]["digits"] == {"seen": True, "spearman": {"value": 0.5, "n": 800, "stderr": None}}
    assert written["average"] == {"primary": 0.4}
    assert written["primary_average"] == {"value": 0.4, "metric": "mean_of_accuracy_and_spearman"}
    assert written["metrics"]["accuracy"] == {"unit": "fraction", "better": "higher"}
    assert (written["adapted_on"], written["selected_on"], written["notes"]) == (None, None, ["second", "first"])


def test_the_bytes_do_not_depend_on_the_order_in_which_parameters_were_given() -> None:
    other = small_report(
        method=MethodRef(name="ties", params={"weights": {"a": [1, 2.5], "b": 1}, "density": 0.2, "scale": 0.3}),
        metrics={"spearman": MetricInfo(), "accuracy": MetricInfo()},
        skipped={"cars": "no head", "svhn": "no expert"},
    )
    assert other.dump_json() == small_report().dump_json()


def test_tasks_and_inputs_keep_their_order() -> None:
    written = json.loads(small_report().dump_json())
    assert list(written["tasks"]) == ["mnist", "digits"]
    assert list(written["inputs"]) == ["base", "mnist", "digits"]


def test_every_float_is_written_as_the_shortest_text_that_reads_back() -> None:
    assert '"value": 0.30000000000000004,' in small_report().dump_json()


def test_what_is_saved_loads_as_the_same_report_and_saves_as_the_same_bytes(tmp_path: Path) -> None:
    use = DataUse(split="test", tasks=("mnist",), count=500, hash="fp:9", corruption="motion_blur")
    report = small_report(adapted_on=use)
    first = report.save(tmp_path / "a").read_bytes()
    loaded = Report.load(tmp_path / "a")
    assert loaded == report
    assert loaded.save(tmp_path / "b").read_bytes() == first
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["report.json"]


def test_an_undefined_value_is_null_with_a_note() -> None:
    tasks = {"stsb": TaskScore.of({"spearman": Score(value=math.nan, n=10, stderr=math.nan)})}
    report = small_report(variants=[Variant.build(tasks, METRICS, label="step 3")])
    assert json.loads(report.dump_json())["tasks"]["stsb"]["spearman"] == {"value": None, "n": 10, "stderr": None}
    assert report.primary_average is None
    assert report.notes[-1] == "step 3: stsb: spearman is not a finite number"


def test_a_merge_without_tasks_has_a_report_without_averages() -> None:
    report = small_report(variants=[Variant.build({}, {})])
    assert (report.tasks, report.average, report.primary_average) == ({}, None, None)


def test_a_missing_report_is_named() -> None:
    with pytest.raises(MissingData, match=r"There is no nowhere/report\.json"):
        Report.load(Path("nowhere/report.json"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema: Input should be 1"),
        ({"surprise": 1}, "surprise: Extra inputs"),
        ({"average": {"accuracy": 0.9}}, "those of the first variant"),
        ({"method": {"version": 1}}, r"method\.name: Field required"),
        ({"tasks": {"a": {"seen": True, "accuracy": {"value": 0.1, "n": -1}}}}, r"tasks\.a\.accuracy\.n"),
    ],
)
def test_a_file_of_another_make_is_refused_with_the_place(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = tmp_path / "report.json"
    file.write_text(json.dumps({**json.loads(small_report().dump_json()), **change}))
    with pytest.raises(ConfigError, match=message):
        Report.load(file)


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    file.write_text(small_report().dump_json()[:200])
    with pytest.raises(ConfigError, match="Invalid JSON"):
        Report.load(file)


def test_the_schema_is_the_pinned_one() -> None:
    assert json.loads(CONTRACT.read_text()) == Report.model_json_schema(mode="serialization")
