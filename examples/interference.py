"""See interference: how orthogonal the experts' deltas are, what their sum cancels, and what scaling does about it.

Run: python examples/interference.py [size]
"""

import sys
from pathlib import Path

from fusionbench.config import Recipe
from fusionbench.report.analysis import geometry
from fusionbench.run import resolve, run


def main(size: str = "small", folder: str = "runs/interference") -> None:
    suite = ["suite=mini/clip", f"suite.size={size}"]
    found = geometry(resolve(Recipe.load(None, [*suite, "method=pretrained"])).pool)
    cosines = found.cosines().values
    count = len(found.experts)
    between = (cosines.sum() - count) / (count * (count - 1))
    print(f"mean cosine between two different deltas: {between:.3f} (orthogonal: 0)")
    print(f"share of all change that their sum cancels: {found.cancelled().values[-1, 0]:.0%}")
    for scale in (0.1, 0.3, 0.6, 1.0):
        recipe = Recipe.load(None, [*suite, "method=task_arithmetic", f"method.scale={scale}"])
        report = run(recipe, parent=Path(folder)).report
        print(f"task arithmetic, scale {scale}: average {100 * report.primary_average.value:.1f} %")


if __name__ == "__main__":
    main(*sys.argv[1:])
