"""Fuse the experts of an offline suite by three methods and print what each knows.

Run: python examples/first_merge.py [size]; `tiny` takes half a minute the first time, `small` (the default) three.
"""

import sys
from pathlib import Path

from fusionbench.config import Recipe
from fusionbench.run import run


def main(size: str = "small", folder: str = "runs/first-merge") -> None:
    methods = (["pretrained"], ["simple_average"], ["task_arithmetic", "method.scale=0.3"], ["ties"], ["individual"])
    for name, *parameters in methods:
        recipe = Recipe.load(None, ["suite=mini/clip", f"suite.size={size}", f"method={name}", *parameters])
        report = run(recipe, parent=Path(folder)).report
        cells = "  ".join(f"{task} {100 * scores.value:.0f}" for task, scores in report.tasks.items())
        print(f"{name:16} average {100 * report.primary_average.value:5.1f} %   {cells}")


if __name__ == "__main__":
    main(*sys.argv[1:])
