"""fusion-bench's keys beside method, modelpool and taskpool, and what they are here."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Key:
    """What one key of theirs is here: another key, or nothing for some values."""

    ours: str = ""
    """Our key; "" where there is none."""
    read: Callable[[str], str] = str
    """Our text for a value of theirs; raises ValueError for one that cannot be."""
    nothing: tuple[str, ...] = ()
    """Values that ask for nothing and are left out."""
    else_say: str = ""
    """What to do for any other value, where `ours` is ""."""


def _first_batch(text: str) -> str:
    """Return the number of examples in a task pool's batch, which is all that a quick run looks at."""
    if text.lower() != "true":
        raise ValueError("expected true or false")
    return "128"


TOP = {
    "corruption": Key("tasks.corruption"),
    "dry_run": Key(nothing=("false",), else_say="add --dry-run"),
    "fabric.accelerator": Key("runtime.device", read=lambda text: {"gpu": "cuda"}.get(text, text)),
    "fabric.devices": Key(nothing=("1", "auto"), else_say="one process runs on one device"),
    "fabric.precision": Key(
        nothing=("null", "32", "32-true"), else_say="sums are in float32; output.dtype sets the file's"
    ),
    "fabric": Key(nothing=("auto",), else_say="runtime.device and runtime.threads say where a run runs"),
    "fast_dev_run": Key("tasks.limit", read=_first_batch, nothing=("false",)),
    "merged_model_save_kwargs": Key(nothing=("null",), else_say="see output.dtype and output.shard_bytes"),
    "merged_model_save_path": Key(nothing=("null",), else_say="write with --out DIR; the model is in DIR/model"),
    "path": Key(else_say="write with --out DIR; the cache is in $FUSIONBENCH_CACHE"),
    "print_config": Key(nothing=("true", "false"), else_say="see --dry-run"),
    "print_function_call": Key(nothing=("true", "false"), else_say="there is none"),
    "report_save_path": Key(nothing=("null", "false"), else_say="report.json is in the run's folder: --out DIR"),
}
"""Keys beside method, modelpool and taskpool; a key stands for all below it."""
