"""The tables of how long the mini suites take to build, from the records of benchmarks/suite_builds.py."""

from result_files import origin, read


def build_times(size: str) -> str:
    """Return one line a suite of a size: seconds and memory of its build, and of a merge with its evaluation."""
    record = read(f"suite-builds-{size}")
    lines = [
        "| suite | build: s | s of CPU | MB | average of the experts, with its evaluation: s | MB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for suite, of in record["values"].items():
        cells = (
            f"`{suite}`",
            f"{of['build_seconds']:.0f}",
            f"{of['build_cpu_seconds']:.0f}",
            f"{of['build_resident_mb']:,}",
            f"{of['merge_and_evaluation_seconds']:.1f}",
            f"{of['merge_and_evaluation_resident_mb']:,}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    beside = sorted({of["beside"] for of in record["values"].values() if of["beside"]})
    about = f"Size `{size}`, whole processes, from an empty cache; memory of the starting process."
    busy = [f"Other work ran at the same time ({'; '.join(beside)})."] if beside else []
    commits = dict.fromkeys(of["commit"] for of in record["values"].values())
    return "\n".join([*lines, "", " ".join([about, *busy, origin({**record, "commit": ", ".join(commits)})])])
