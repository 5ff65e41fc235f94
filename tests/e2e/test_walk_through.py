"""The guide to causal language models, from its first command to its last, on a suite that is built in a second."""

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusionbench.suites.mini import causal_lm
from fusionbench.suites.mini.causal_lm_recipe import MiniCausalLmRecipe, recipes
from tiny_causal_lm import MICRO

Run = Callable[..., subprocess.CompletedProcess[str]]
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "causal-language-models.md"


@pytest.fixture(autouse=True)
def micro(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite's usual size is one that is built in a second."""
    sizes = {"small": MiniCausalLmRecipe.read(MICRO)}
    defaults = recipes()[1]
    monkeypatch.setattr(causal_lm, "recipes", lambda: (sizes, defaults))


def steps() -> list[tuple[str, str]]:
    """The guide's blocks in order: a command each line of the shell's, Python's as they are."""
    found = []
    for kind, block in re.findall(r"```(bash|python)\n(.*?)```", GUIDE.read_text(), re.DOTALL):
        if kind == "python":
            found.append((kind, block))
        else:
            found += [(kind, line.strip()) for line in block.replace("\\\n", " ").splitlines()]
    return found


@pytest.mark.slow
def test_every_step_of_the_guide_runs_and_each_model_writes_text(
    fusionbench: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {}
    written: list[str] = []
    for kind, step in steps():
        if kind == "python":
            exec(step, names)
            written += capsys.readouterr().out.splitlines()
            continue
        verb, *arguments = shlex.split(re.sub(r"recipe\.steps=\d+", "recipe.steps=1", step))[1:]
        found = fusionbench(verb, *arguments)
        assert found.returncode == 0, f"{step}\n{found.stderr}"
    asked = "The nurse has 3 hats and the judge has 4 cars . How many are they together ? Answer :"
    assert [line.partition("</s>")[0].strip() for line in written] == ["", "", "MixtralForCausalLM", "SmileLinear"]
    assert written[0] == written[1]
    for line in written:
        text = line.partition("</s>")[2].strip()
        assert text.startswith(asked.split(" . ")[0][:9])
        assert len(text.split()) >= len(asked.split())
