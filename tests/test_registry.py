import json
from importlib.metadata import EntryPoint

import pytest

from fusionbench import registry
from fusionbench.errors import ConfigError
from fusionbench.registry import INDEX, KINDS, Entry, Registry, entry_from_json, methods, suggestion


@pytest.fixture
def other_package(monkeypatch):
    """A package that adds a method with a decorator and one without, as entry points do."""
    points = {
        "theirs": EntryPoint("theirs", "fusionbench.methods.task_arithmetic:task_arithmetic", "fusionbench.method"),
        "bare": EntryPoint("bare", "json:dumps", "fusionbench.method"),
    }
    monkeypatch.setattr(registry, "_plugins", lambda kind: points if kind == "method" else {})


def test_every_entry_of_the_index_can_be_loaded_and_is_the_entry_of_its_object():
    for name in methods:
        loaded = methods[name].load()
        assert loaded.entry.name == name
        assert loaded.entry.location == methods[name].location


def test_the_index_gives_what_the_decorators_say():
    for name in methods:
        written, said = methods[name], methods[name].load().entry
        for field in ("summary", "version", "kind", "category", "paper", "needs", "unit", "base", "kernel", "laws"):
            assert getattr(written, field) == getattr(said, field), (name, field)
        assert {p.name: p.default for p in written.parameters} == {p.name: p.default for p in said.parameters}
        assert (written.exempt or {}) == (said.exempt or {})
        assert (written.compat or {}) == (said.compat or {})


def test_entries_read_back_as_they_are_written():
    index = json.loads(INDEX.read_text())
    entry = entry_from_json("ties", index["method"]["ties"])
    density = next(p for p in entry.parameters if p.name == "density")
    assert (entry.name, entry.kind, entry.base) == ("ties", "stream", "required")
    assert (density.default, density.high, density.open, density.per_expert) == (0.2, 1, "left", True)
    scope = next(p for p in entry.parameters if p.name == "scope")
    assert scope.choices == ("model", "tensor", "changed")


def test_every_method_says_in_words_what_it_and_each_of_its_parameters_is():
    for name in methods:
        assert len(methods[name].summary) > 15, name
        assert [p.name for p in methods[name].parameters if len(p.doc) < 4] == [], name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tise", "Did you mean ties"),
        ("simple-average", "Did you mean simple_average"),
        ("zzz", "Known: .*, task_arithmetic, ties, "),
    ],
)
def test_an_unknown_name_is_answered_by_the_nearest_or_by_all(name, words):
    with pytest.raises(ConfigError, match=f"There is no method named '{name}'. {words}"):
        methods[name]


def test_a_suggestion_for_nothing_says_so():
    assert suggestion("x", []) == "Known: none."


def test_names_come_in_order_and_once(other_package):
    names = list(methods)
    assert names == sorted(set(names))
    assert {"ties", "theirs", "bare"} <= set(names)


def test_another_packages_method_is_found_by_its_own_name(other_package):
    assert "theirs" in methods
    assert methods["theirs"].load().__name__ == "task_arithmetic"


def test_an_object_without_a_decorator_is_described_by_its_first_line(other_package):
    entry = methods["bare"]
    assert entry.location == "json:dumps"
    assert entry.summary.startswith("Serialize")
    assert entry.load() is json.dumps


def test_other_kinds_know_nothing_of_methods():
    assert KINDS == ("method", "family", "task", "suite", "experiment")
    for kind in KINDS[1:]:
        assert "ties" not in Registry(kind)


def test_a_location_names_an_object_in_a_module():
    assert Entry("x", "", "fusionbench.registry:KINDS").load() is KINDS


def test_of_several_families_that_serve_a_type_the_one_that_matches_runs_it(monkeypatch):
    entries = {
        "first": Entry("first", "", "json:JSONDecoder", data={"model_types": ["llama"]}),
        "second": Entry("second", "", "json:JSONEncoder", data={"model_types": ["llama", "other"]}),
    }
    matching = {"json:JSONDecoder": lambda config: False, "json:JSONEncoder": lambda config: config["wide"]}

    class Family:
        def __init__(self, location):
            self.matches = matching[location]

    monkeypatch.setattr(Entry, "load", lambda entry: lambda: Family(entry.location))
    monkeypatch.setattr(registry, "families", entries)

    assert registry.family_serving({"model_type": "llama", "wide": True}).name == "second"
    assert registry.family_serving({"model_type": "llama", "wide": False}) is None
    # One alone is taken at its word, so that nothing is imported.
    assert registry.family_serving({"model_type": "other"}).name == "second"
    assert registry.family_serving({}) is None
    assert registry.family_serving({"model_type": "llama"}, "first").name == "first"


def test_methods_that_ask_for_a_part_are_found_by_it():
    assert {"git_rebasin", "zipit"} <= set(registry.methods_that_need("permutations"))
    assert "ties" not in {name for part in ("linears", "blocks", "mlps") for name in registry.methods_that_need(part)}
