import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def page() -> ModuleType:
    spec = importlib.util.spec_from_file_location("suite_page", ROOT / "benchmarks/suite_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_tables_are_those_of_the_records(page):
    written = page.PAGE.read_text()
    assert page.rendered(written) == written
    assert sum(line.startswith("| --- ") for line in written.splitlines()) == 3


@pytest.mark.parametrize(
    "record", sorted((ROOT / "docs/results").glob("suite-mini-clip-*-?.json")), ids=lambda path: path.stem
)
def test_a_recorded_build_has_the_properties_that_were_stated_beforehand(record):
    properties = json.loads(record.read_text())["values"]["properties"]
    wished = {name for name, row in properties.items() if "wished" in row["bound"]}
    assert {name for name, row in properties.items() if not row["holds"]} <= wished
    assert len(properties) - len(wished) == 6


def test_shares_are_printed_without_the_leading_zero(page):
    assert [page.share(value) for value in (0.5, -0.147, 3.864, 10.25, None)] == [
        ".500",
        "-.147",
        "3.864",
        "10.250",
        "",
    ]
