"""The tables of docs/scale.md, from the record files of what was measured."""

from typing import Any

from result_files import RESULTS, origin, read


def scaling_table() -> str:
    """Return whole merges by size and by number of experts, with what `fusionbench plan` expected of them."""
    record = read("scaling")
    lines = [
        "| method | experts | GB of a model | s | s of CPU | MB of memory | expected by `plan` |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in record["values"]["rows"]:
        cells = (row["method"], row["experts"], f"{row['gigabytes']:.2f}", f"{row['wall']:.1f}", f"{row['cpu']:.1f}",
                 f"{row['anonymous']:.0f}", _expected(row))  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*lines, "", f"Whole processes; memory beside mapped files. {origin(record)}"])


def beyond_memory_table() -> str:
    """Return the merges of more than memory holds, beside `dd`."""
    if not (RESULTS / "beyond-memory.json").is_file():
        return "Not measured as a whole yet."
    record = read("beyond-memory")
    values = record["values"]
    lines = [
        "| what | s | passes | GB/s | MB of memory | with mapped files | expected by `plan` |",
        "|---|---:|---:|---:|---:|---:|---|",
        f"| `dd` reads all inputs | | 1 | {values['floor']['read']:.2f} | | | |",
        f"| `dd` copies one model to disk | | 1 | {values['floor']['copied']:.2f} | | | |",
    ]
    for row in values["rows"]:
        cells = (row["method"], f"{row['wall']:.0f}", row["passes"], f"{row['throughput']:.2f}",
                 f"{row['anonymous']:,.0f}", f"{row['resident']:,.0f}", _expected(row))  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    about = (
        f"A base and {values['experts']} experts of {values['gigabytes']:.1f} GB each, {values['memory']} asked for by "
        f"`runtime.memory`; the machine has {record['machine']['memory_gb']} GB."
    )
    return "\n".join([*lines, "", f"{about} {origin(record)}"])


def many_tensors_table() -> str:
    """Return the merges of very many tiny tensors."""
    record = read("many-tensors")
    values = record["values"]
    lines = ["| method | s | s of CPU | MB of memory |", "|---|---:|---:|---:|"]
    lines += [
        f"| {row['method']} | {row['wall']:.1f} | {row['cpu']:.1f} | {row['anonymous']:.0f} |" for row in values["rows"]
    ]
    return "\n".join([*lines, "", f"{values['tensors']:,} tensors, {values['experts']} experts. {origin(record)}"])


def dispatch_table() -> str:
    """Return the simulated queue: hours, and the share of time in which workers work, by workers and length of runs."""
    record = read("dispatch")
    rows = record["values"]["rows"]
    costs = list(dict.fromkeys(row["dispatch"] for row in rows))
    lines = [
        "| workers | seconds a run | " + " | ".join(f"dispatch {1000 * cost:g} ms" for cost in costs) + " |",
        "|---:|---:|" + "---|" * len(costs),
    ]
    for workers, seconds in dict.fromkeys((row["workers"], row["seconds"]) for row in rows):
        cells = [
            f"{row['hours']:.2f} h, {row['busy']:.1%} busy"
            for row in rows
            if (row["workers"], row["seconds"]) == (workers, seconds)
        ]
        lines.append(f"| {workers:,} | {seconds:g} | " + " | ".join(cells) + " |")
    cost = record["values"]["cost"]
    recipe, job, report = (f"{cost[f'{name}_ms']:.2f} ms" for name in ("recipe", "job", "report"))
    about = (
        f"{record['values']['runs']:,} runs. Of its own the starting process needs {recipe} to read a recipe, {job} to "
        f"write its job of {cost['job_bytes']:,} bytes, and {report} to read its report; a run's folder has "
        f"{cost['files']} files and folders, {cost['folder_bytes'] / 1000:.0f} KB without weights."
    )
    return "\n".join([*lines, "", f"{about} {origin(record)}"])


def _expected(row: dict[str, Any]) -> str:
    """Return what `fusionbench plan` said beforehand, where it was asked."""
    return f"{row['forecast']:.1f} s ({row['error']:+.0%})" if "forecast" in row else "–"
