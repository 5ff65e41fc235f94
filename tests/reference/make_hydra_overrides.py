"""Write what Hydra reads in the override strings of `tests/test_overrides.py`, to `golden/hydra_overrides.json`.

Run by an interpreter that has hydra-core 1.3.8 (it cannot be a dependency of the tests: its pins exclude lm-eval's):
``python make_hydra_overrides.py``. For each string: `{"value": …}`, `{"sweep": [texts]}` or `{"error": message}`.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ValueType

HERE = Path(__file__).parent
TABLE = HERE.parent / "test_overrides.py"


def strings() -> list[str]:
    """Return the keys of the table in the test's source, which this interpreter cannot import."""
    for node in ast.parse(TABLE.read_text()).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "TABLE":
            assert isinstance(node.value, ast.Dict)
            return [ast.literal_eval(key) for key in node.value.keys if key is not None]
    raise LookupError("no TABLE")


def outcome(text: str) -> dict[str, Any]:
    """Return what Hydra makes of one string."""
    try:
        override = OverridesParser.create().parse_override(text)
        if override.value_type in (ValueType.GLOB_CHOICE_SWEEP, ValueType.INTERVAL_SWEEP):
            return {"sweep": [override.value_type.name]}
        if override.is_sweep_override():
            return {"sweep": list(override.sweep_string_iterator())}
        return {"value": override.value()} if override._value is not None or "=" in text else {"value": "absent"}
    except Exception as error:  # Hydra raises several kinds
        return {"error": str(error).split("\n")[0][:120]}


if __name__ == "__main__":
    found = {text: outcome(text) for text in strings()}
    (HERE / "golden" / "hydra_overrides.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
