import sys
import types
from importlib.metadata import EntryPoint

import pytest

from fusionbench import registry
from fusionbench.errors import ConfigError
from fusionbench.families import family, family_for, family_named
from fusionbench.families.clip import Clip


def test_the_decorator_describes_a_family_without_building_it() -> None:
    entry = Clip.entry  # type: ignore[attr-defined]
    assert (entry.name, entry.kind, entry.version) == ("clip", "family", 1)
    assert entry.location == "fusionbench.families.clip:Clip"
    assert entry.data == {"model_types": ["clip"], "tower": "vision_model."}
    assert entry.summary.startswith("CLIP (arXiv:2103.00020)")


def test_a_family_of_another_package_is_found_by_name_and_by_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    class Theirs(Clip):
        """Someone's architecture."""

        name = "theirs"
        model_types = ("their-model",)

    module = types.ModuleType("their_package")
    Theirs.__module__, Theirs.__qualname__ = "their_package", "Theirs"
    module.Theirs = family(Theirs)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "their_package", module)
    point = EntryPoint("theirs", "their_package:Theirs", "fusionbench.family")
    monkeypatch.setattr(registry, "_plugins", lambda kind: {"theirs": point} if kind == "family" else {})
    assert isinstance(family_named("theirs"), Theirs)
    assert family_for({"model_type": "their-model"}).name == "theirs"
    assert family_for({"model_type": "clip"}).name == "clip"


def test_a_configuration_that_no_family_serves_is_refused_with_what_is_known() -> None:
    with pytest.raises(ConfigError, match=r"No family serves models of type 'perceiver'.*clip \(clip\).*family=NAME"):
        family_for({"model_type": "perceiver"})
    with pytest.raises(ConfigError, match="has no model_type"):
        family_for({})


def test_a_misspelt_family_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"no family named 'clp'.*clip"):
        family_named("clp")
