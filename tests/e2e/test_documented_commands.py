"""Every command line of README and the guides that needs no network, run in order on the smallest suites.

Inputs that a guide only names (`./base`, `./math-lora` …) are small models of `mini/causal_lm`. Schedules are cut to a
few steps and searches to two trials; all else is as it stands there.
"""

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fusionbench.suites import load_suite

Run = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).parents[2]
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
WALKED = ("causal-language-models",)
"""A guide that tests/e2e/test_walk_through.py follows from its first step to its last."""
PAGES = [ROOT / "README.md", ROOT / "docs" / "get-started.md", *(page for page in GUIDES if page.stem not in WALKED)]
ELSEWHERE = {
    "suite=clip-": "the hub's models",
    "./mine.yaml": "a suite of the reader's",
    "launcher=ray": "Ray, see tests/sweep",
    "launcher=slurm": "Slurm, see tests/sweep",
    "fusionbench quickstart": "the usual size, see tests/e2e/test_main_job.py",
    "fusionbench reproduce": "tests/e2e/test_every_experiment.py",
    "init=runs/": "tests/e2e/test_walk_through.py",
    "analyze coefficients runs/mini/clip": "names of runs, see tests/e2e/test_analyses.py",
    "analyze routing runs/mini/clip": "names of runs, see tests/e2e/test_analyses.py",
}
STEPPED = ("adamerging", "concrete_task_arithmetic", "surgery", "wemoe")
SHORTER = (
    (r"^recipe\.steps=\d+$", "recipe.steps=2"),
    (r"^method\.steps=\d+$", "method.steps=4"),
    (r"range\(0,24\)", "range(0,2)"),
    (r"range\(8,32\)", "range(1,2)"),
)


def lines_of(page: Path) -> list[str]:
    """The commands of a page in their order; where a line joins several, those that are ours."""
    found = []
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            found += [part.strip() for part in line.split("&&") if part.strip().startswith("fusionbench ")]
    return [line for line in found if not any(words in line for words in ELSEWHERE)]


def shortened(line: str) -> list[str]:
    """A command's words with the smallest suite and a few steps."""
    words = shlex.split(line, comments=True)[1:]
    for pattern, instead in SHORTER:
        words = [re.sub(pattern, instead, word) for word in words]
    if "--trials" in words:
        words[words.index("--trials") + 1] = "2"
    if "suite=mini/" in line and "suite.size" not in line:
        words.append("suite.size=tiny")
    if any(f"method={name}" in words for name in STEPPED) and words[0] == "run" and "method.steps=4" not in words:
        words.append("method.steps=4")
    return words


@pytest.fixture
def inputs(fusionbench: Run, tmp_path: Path) -> None:
    """What the guides call ./base, ./math …: models and adapters of the smallest language-model suite."""
    pool = load_suite("mini/causal_lm", size="tiny").suite.pool
    assert pool.base is not None
    places = {"arithmetic": ("math", "a", "llama-math"), "sentiment": ("code", "b", "code-full", "llama-code")}
    sources = dict.fromkeys(("base", "other-base", "llama"), pool.base)
    sources |= {name: pool.experts[task].model for task, names in places.items() for name in names}
    for name, source in sources.items():
        shutil.copytree(source, tmp_path / name)
    for tuning in ("lora", "ia3"):
        made = fusionbench(
            "finetune", "suite=mini/causal_lm", "suite.size=tiny", "tasks=[arithmetic,sentiment]", f"tuning={tuning}",
            "recipe.steps=1", "recipe.learning_rate=1e-3", "--out", tuning,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
    for source, name in {"lora/arithmetic": "math-lora", "lora/sentiment": "code-lora"}.items():
        shutil.copytree(tmp_path / source, tmp_path / name)
    for source, name in {"ia3/arithmetic": "ia3-a", "ia3/sentiment": "ia3-b"}.items():
        shutil.copytree(tmp_path / source, tmp_path / name)
    (tmp_path / "mergekit-recipe.yml").write_text(
        "merge_method: linear\ndtype: float32\nmodels:\n"
        "- {model: ./math, parameters: {weight: 0.5}}\n- {model: ./code, parameters: {weight: 0.5}}\n"
    )


def with_real_runs(words: list[str], folder: Path) -> list[str]:
    """Put the names of runs that are there in place of those that a guide made up, such as ties-1a2b3c4d."""
    made_up = [word for word in words if re.search(r"-[0-9a-f]{8}$", word)]
    there = sorted(path.parent for path in (folder / made_up[0]).parent.glob("*/report.json")) if made_up else []
    names = {word: str(run.relative_to(folder)) for word, run in zip(made_up, there, strict=False)}
    return [names.get(word, word) for word in words]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_the_page_runs_offline(page: Path, fusionbench: Run, inputs: None, tmp_path: Path) -> None:
    for line in lines_of(page):
        found = fusionbench(*with_real_runs(shortened(line), tmp_path))
        assert found.returncode == 0, f"{line}\n{found.stderr[-2000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["README.md", "docs/get-started.md"])
def test_the_python_of_the_page_runs(name: str, inputs: None, tmp_path: Path) -> None:
    names = {"smallest": load_suite("mini/clip", size="tiny").suite}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block.replace('"mini/clip"', "smallest"), names)


def test_only_commands_that_need_more_than_this_machine_are_left_out() -> None:
    """Most of what is shown is run here, and no page is left out whole but those whose every line is run elsewhere."""
    left = {page.stem: len(lines_of(page)) for page in PAGES}
    assert sum(left.values()) > 50
    assert [stem for stem, count in left.items() if not count] == ["own-method"]
