"""The suites of the TIES papers on stand-ins: tiny T5s, and data under the published ids with their columns."""

import json
import random
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from fusionbench.suites import Suite
from fusionbench.suites.paper import describe, suite_of
from fusionbench.suites.tasks import task_spec
from fusionbench.tasks.wordings import label_of, wording_list
from hub_stand_in import HubCache
from paper_stand_ins import answered, make_character_t5

ROWS = json.loads((Path(__file__).parents[1] / "reference/golden/promptsource.json").read_text())
# Examples of the published validation splits; those of the other tasks are cut to a few.
SIZES = {"cb": 56, "wsc": 104, "copa": 40, "anli_r1": 6}
FEW = 34


def rows_of(task: str, spec_prompts: str) -> list[dict[str, Any]]:
    """The golden's rows again and again, numbered so that no two are the same."""
    known = [case["row"] for case in ROWS[spec_prompts]]
    text = next(key for key, value in known[0].items() if isinstance(value, str) and len(value) > 3)
    return [
        row | {text: f"{row[text]} {number}"}
        for number in range(SIZES.get(task, FEW))
        for row in [known[number % len(known)]]
    ]


def add_data(hub: HubCache, suites: list[Suite]) -> None:
    import datasets

    specs = {name: task_spec(suite, name) for suite in suites for name in suite.tasks.tasks}
    splits: dict[tuple[str, str], set[str]] = {}
    for spec in specs.values():
        names = {name.partition("[")[0] for name in (spec.splits or {}).values()}
        splits.setdefault((spec.dataset, spec.config or "default"), set()).update(names)
    for name, spec in specs.items():
        if names := splits.pop((spec.dataset, spec.config or "default"), None):
            held = datasets.Dataset.from_list(rows_of(name, spec.options["prompts"]))
            hub.dataset(spec.dataset, dict.fromkeys(sorted(names), held), spec.config or "default")


def near(folder: Path, place: Path, seed: int) -> None:
    """Write a T5 near another."""
    shutil.copytree(folder, place, dirs_exist_ok=True)
    drawn = np.random.default_rng(seed)
    held = load_file(folder / "model.safetensors")
    own = {name: value + drawn.normal(scale=0.05, size=value.shape).astype("f4") for name, value in held.items()}
    save_file(own, place / "model.safetensors", metadata={"format": "pt"})


@contextmanager
def quiet() -> Iterator[None]:
    """PEFT asks Transformers for something by its older name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def write_ia3(base: Path, place: Path, seed: int) -> None:
    """Write an (IA)³ adapter as PEFT saves it, its vectors near ones."""
    from peft import IA3Config, get_peft_model
    from transformers import T5ForConditionalGeneration

    with quiet():
        model = get_peft_model(T5ForConditionalGeneration.from_pretrained(base), IA3Config(task_type="SEQ_2_SEQ_LM"))
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ia3_l" in name:
                parameter += 0.5 * torch.randn(parameter.shape, generator=drawn)
    model.save_pretrained(place)


def read(name: str) -> Suite:
    return suite_of(name, describe(name))


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> tuple[HubCache, Path]:
    root = tmp_path_factory.mktemp("ties")
    hub, cache = HubCache(root / "hub"), root / "cache"
    make_character_t5(root / "t5")
    with pytest.MonkeyPatch.context() as patch:
        hub.use(patch)
        patch.setenv("FUSIONBENCH_CACHE", str(cache))
        names = ("t5-base/ties7", "t5-large/ties7", "t0-3b/ia3-11")
        suites = {name: read(name) for name in names}
        for suite in suites.values():
            shutil.copytree(root / "t5", hub.model(str(suite.pool.base)), dirs_exist_ok=True)
        for name in names[:2]:
            for number, expert in enumerate(suites[name].pool.experts.values(), start=1):
                near(root / "t5", Path(expert.model), number)
        for number, expert in enumerate(suites[names[2]].pool.experts.values(), start=1):
            write_ia3(root / "t5", Path(str(expert.adapter)), number)
        add_data(hub, list(suites.values()))
    return hub, cache


@pytest.fixture
def ready(stand_in: tuple[HubCache, Path], fusionbench: Any, monkeypatch: pytest.MonkeyPatch) -> HubCache:
    hub, cache = stand_in
    hub.use(monkeypatch)
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(cache))
    return hub


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def accuracy_of(folder: Path, suite: Suite, task: str, rows: list[dict[str, Any]]) -> float:
    """The median over wordings by transformers' own loss, one choice at a time."""
    from transformers import AutoTokenizer, T5ForConditionalGeneration

    model, tokenizer = T5ForConditionalGeneration.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    options = task_spec(suite, task).options
    known = wording_list(options["prompts"])
    right = np.zeros((len(rows), len(known.wordings[: int(options.get("first", 99))])))
    for place, row in enumerate(rows):
        for way in range(right.shape[1]):
            wording, scores = known.wordings[way], []
            asked = tokenizer(
                wording.question(row), truncation=True, max_length=int(options["length"]), return_tensors="pt"
            )
            for answer in wording.answers(row):
                labels = tokenizer(answer, return_tensors="pt")["input_ids"]
                with torch.no_grad():
                    scores.append(-float(model(**asked, labels=labels).loss) * labels.numel())
            right[place, way] = int(np.argmax(scores)) == label_of(known.label, row)
    return float(np.median(right.mean(axis=0)))


@pytest.mark.parametrize("size", ["base", "large"])
def test_seven_tasks_of_choices_are_scored_with_their_first_wording(size, ready, fusionbench, tmp_path):
    asked = (f"suite=t5-{size}/ties7", "method=task_arithmetic", "method.scale=0.4")
    done = fusionbench("run", *asked, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    tasks = report(tmp_path / "out")["tasks"]
    assert list(tasks) == ["paws", "qasc", "quartz", "story_cloze", "wiki_qa", "winogrande", "wsc"]
    # 104 − 32 examples of WSC; the other stand-ins have 34, of which 32 are for validation where the papers take them.
    assert {task: score["median_accuracy"]["n"] for task, score in tasks.items()} == {
        "paws": 34, "qasc": 2, "quartz": 34, "story_cloze": 2, "wiki_qa": 34, "winogrande": 2, "wsc": 72,
    }  # fmt: skip
    suite = read(f"t5-{size}/ties7")
    expected = accuracy_of(tmp_path / "out" / "model", suite, "quartz", rows_of("quartz", "quartz"))
    assert tasks["quartz"]["median_accuracy"]["value"] == pytest.approx(expected)


def test_eleven_adapters_are_merged_in_their_own_space_and_scored_by_the_median(ready, fusionbench, tmp_path):
    asked = ("suite=t0-3b/ia3-11", "method=ties", "method.density=0.2", "space=adapter")
    done = fusionbench("run", *asked, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    found = report(tmp_path / "out")
    assert len(found["tasks"]) == 11
    assert found["tasks"]["cb"]["median_accuracy"]["n"] == 24
    assert found["tasks"]["wsc"]["median_accuracy"]["n"] == 72
    assert (tmp_path / "out" / "model" / "adapter_config.json").is_file()
    assert any("medians over the wordings" in note for note in found["notes"])


def test_what_is_scored_for_an_adapter_is_base_and_merged_vectors(ready, fusionbench, tmp_path):
    from peft import PeftModel
    from transformers import AutoTokenizer, T5ForConditionalGeneration

    asked = ("suite=t0-3b/ia3-11", "method=simple_average", "space=adapter", "suite.experts=[copa,cb]")
    done = fusionbench("run", *asked, "tasks.seen=[copa]", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    suite = read("t0-3b/ia3-11")
    base = ready.models / "models--bigscience--T0_3B" / "snapshots" / ("a" * 40)
    with quiet():
        model = PeftModel.from_pretrained(T5ForConditionalGeneration.from_pretrained(base), tmp_path / "out" / "model")
    model.merge_and_unload().save_pretrained(tmp_path / "whole")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "whole")
    rows = rows_of("copa", "copa")
    random.Random(42).shuffle(rows)
    expected = accuracy_of(tmp_path / "whole", suite, "copa", rows[32:])
    value = report(tmp_path / "out")["tasks"]["copa"]["median_accuracy"]
    assert (value["value"], value["n"]) == (pytest.approx(expected), 8)


def test_a_factor_is_chosen_on_the_32_validation_examples(ready, fusionbench, tmp_path):
    asked = (
        "suite=t5-base/ties7",
        "suite.experts=[wsc,winogrande]",
        "method=task_arithmetic",
        "tasks.split=validation",
    )
    done = fusionbench("run", *asked, "method.scale=0.4", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    tasks = report(tmp_path / "out")["tasks"]
    assert {task: score["median_accuracy"]["n"] for task, score in tasks.items()} == {"wsc": 32, "winogrande": 32}


def test_experts_are_trained_on_the_suites_own_questions(ready, fusionbench, tmp_path):
    asked = ("suite=t5-base/ties7", "tasks=[wsc]", "recipe.steps=1", "recipe.batch=2")
    done = fusionbench("finetune", *asked, "--out", tmp_path / "experts")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "experts" / "wsc" / "model.safetensors").is_file()


@pytest.mark.slow
def test_rows_of_the_table_of_adapters_are_answered_in_adapter_space(ready, tmp_path):
    answer = answered("re-ties-ia3", tmp_path, "simple_average", "regmean", "task_arithmetic, λ selected")
    average, regmean, selected = answer.lines
    assert average.printed["average"] == 57.9
    assert "selected on validation data" in selected.note
    assert regmean.values == average.values
    assert not answer.failed
    (folder,) = (report.parent for report in tmp_path.glob("simple_average-*/report.json"))
    assert (folder / "model" / "adapter_config.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["re-ties-ia3", "re-ties-t5-base", "number-of-tasks-t5-large", "task-orders-t5-base"])
def test_the_reproductions_tables_and_curves_are_answered(name, ready, tmp_path):
    answer = answered(name, tmp_path)
    if name.startswith("number"):
        shares = {line.label: line.values["normalized"].value for line in answer.lines if line.varied["experts"] == "1"}
        # One expert alone is that expert, whatever merges it, but for task arithmetic at 0.4.
        assert shares["individual"] == shares["simple_average"] == 100.0
