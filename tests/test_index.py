import json
import sys
from types import ModuleType

import pytest

from fusionbench import index
from fusionbench.index import collect, render
from fusionbench.methods.ties import ties
from fusionbench.registry import INDEX, KINDS


def test_the_index_is_what_the_decorators_say_now():
    """If this fails, run: python -m fusionbench.index."""
    assert INDEX.read_text() == render()


def test_every_kind_is_in_the_index_and_names_are_in_order():
    found = collect()
    assert tuple(found) == KINDS
    assert all(list(entries) == sorted(entries) for entries in found.values())


def test_what_is_at_its_default_is_left_out():
    entry = json.loads(render())["method"]["task_arithmetic"]
    assert "unit" not in entry
    assert "version" not in entry
    (weights, scale) = entry["parameters"]
    assert weights == {"name": "weights", "type": "number", "default": 1.0, "per_expert": True, "doc": weights["doc"]}
    assert "nullable" not in scale


def test_a_name_that_stands_twice_is_refused(monkeypatch):
    monkeypatch.setattr(index, "_entries", lambda: [ties.entry, ties.entry])
    with pytest.raises(ValueError, match="method 'ties' is registered twice"):
        collect()


def test_an_object_that_is_only_imported_is_not_registered_again(monkeypatch):
    module = ModuleType("fusionbench.methods.other")
    module.ties = ties
    monkeypatch.setitem(sys.modules, "fusionbench.methods.other", module)
    monkeypatch.setattr(
        index.pkgutil, "walk_packages", lambda *arguments: [type("Info", (), {"name": module.__name__})]
    )
    assert collect()["method"] == {}
