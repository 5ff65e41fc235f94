import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "throughput.py"


def test_a_line_has_both_rates_and_the_ratio_and_the_note_says_which_clock() -> None:
    spec = importlib.util.spec_from_file_location("throughput_table", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rates = {"bare": 2000.0, "ours": 1800.4, "ratio": 0.9002}
    record = {
        "command": "python x", "date": "2026-01-01", "commit": "abc", "machine": {"cores": 2},
        "values": {
            "clock": "wall", "threads": 2, "size": "small", "batch": 32,
            "suites": {"mini/clip": {"task": "mnist", "evaluation": rates, "training": rates | {"ratio": 1.0}}},
        },
    }  # fmt: skip

    lines = module.table(record).splitlines()

    assert lines[2] == "| `mini/clip`, mnist | 2,000, 1,800 | 0.90 | 2,000, 1,800 | 1.00 |"
    assert lines[-1].startswith("Examples a second, 2 threads, size `small`, training in batches of 32. Wall time. ")
