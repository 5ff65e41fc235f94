"""Folders of JSON lines from which prompts are filled: what is read, and what is refused with its place."""

import json
from pathlib import Path

import pytest

from fusionbench.errors import ConfigError, MissingData
from fusionbench.tasks.table_data import from_table


def read(folder: Path) -> list[object]:
    return [dict(row) for row in from_table(str(folder))["test"].read()]


def test_strings_may_hold_any_character_and_empty_lines_say_nothing(tmp_path: Path) -> None:
    rows = [{"text": "one\u2028line\x85of\x0ctext", "label": 0}, {"text": "\u00fcber", "label": 1}]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    # A form feed has to be escaped in JSON, the two others stand as they are.
    assert "\u2028" in lines[0]
    (tmp_path / "test.jsonl").write_text("\n".join([lines[0], "", lines[1], "", ""]), encoding="utf-8")
    assert read(tmp_path) == rows


@pytest.mark.parametrize(
    ("line", "error", "says"),
    [
        ("{", ConfigError, r"Line 3 of .*test\.jsonl is not JSON"),
        ("[1]", ConfigError, r"Line 3 of .* should hold a JSON object, it holds a list"),
        ('{"text": "b"}', ConfigError, r"Line 3 of .* should be a JSON object with the keys text, label"),
    ],
)
def test_a_wrong_line_is_named_with_its_number(tmp_path: Path, line: str, error: type[Exception], says: str) -> None:
    (tmp_path / "test.jsonl").write_text('{"text": "a", "label": 0}\n\n' + line + "\n")
    with pytest.raises(error, match=says):
        read(tmp_path)


def test_a_file_that_is_no_text_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_bytes(b"\xff\xfe{}")
    with pytest.raises(MissingData, match=r"test\.jsonl cannot be read"):
        read(tmp_path)
