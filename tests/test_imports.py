"""What may import what, and what must stay light."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIGHT = (
    "import sys, {module}; print(*sorted({{'torch', 'transformers', 'numba', 'datasets', 'peft'}} & {{*sys.modules}}))"
)


@pytest.mark.parametrize(
    "module",
    ["fusionbench", "fusionbench.config", "fusionbench.compat", "fusionbench.registry", "fusionbench.merge",
     "fusionbench.records", "fusionbench.cli", "fusionbench.weights.inspection"],
)  # fmt: skip
def test_what_merges_lists_and_reads_recipes_imports_nothing_heavy(module):
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(module=module)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == ""


def test_imports_go_one_way():
    """The layers are in pyproject.toml."""
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout
