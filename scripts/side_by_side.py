"""Tables of mixtures and of adaptation beside fusion-bench, from the records of their benchmarks."""

from typing import Any

from result_files import origin, read


def mixing_table() -> str:
    """Return one line a model: a pass and its peak here and there, and the share of fusion-bench's time."""
    record = read("mixing")
    sides: dict[str, dict[str, Any]] = {}
    for row in record["values"]["rows"]:
        sides.setdefault(row["what"], {})[row["side"]] = row
    lines = [
        "| model | here: s, MB | fusion-bench: s, MB | share of its time | the plain model's share |",
        "|---" * 5 + "|",
    ]
    for what, row in sides.items():
        ours, theirs = row["fusionbench"], row["fusion-bench"]
        cells = [f"{side['seconds']:.3f}, {side['peak']:,.0f}" for side in (ours, theirs)]
        least = sides["base"]["fusionbench"]["seconds"] / theirs["seconds"]
        lines.append(f"| {what} | {cells[0]} | {cells[1]} | {ours['seconds'] / theirs['seconds']:.2f} | {least:.2f} |")
    batch = record["values"]["batch"]
    note = f"A forward pass of {batch} images and the peak of resident memory. The last column is a pass of the base"
    return "\n".join([*lines, "", f"{note} alone, which no mixture of it can go below. {origin(record)}"])


def adaptation_table(name: str = "adaptation") -> str:
    """Return one line a method and number of tasks: its step, in terms of the floor, and its peak."""
    record = read(name)
    floors = {row["tasks"]: row["step"] for row in record["values"]["rows"] if row["what"] == "floor"}
    lines = ["| tasks | what | s a step | of the floor | peak, MB |", "|---" * 5 + "|"]
    for row in record["values"]["rows"]:
        if "failed" in row:
            lines.append(f"| {row['tasks']} | {row['what']} | failed: {row['failed']} | – | – |")
            continue
        share = row["step"] / floors[row["tasks"]]
        lines.append(f"| {row['tasks']} | {row['what']} | {row['step']:.2f} | {share:.2f} | {row['resident']:,.0f} |")
    values = record["values"]
    note = f"{values['experts']} experts of CLIP ViT-B/32, batches of {values['batch']} images a task. The floor is"
    told = f"{note} the forward and backward pass to all weights, without any merging. {origin(record)}"
    return "\n".join([*lines, "", told])
