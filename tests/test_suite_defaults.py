"""Parameters that a suite sets for methods, against the real registry."""

import pytest

from fusionbench.config import Recipe
from fusionbench.errors import ConfigError


class TestDefaultsOfASuite:
    """What a suite sets for a method lies above the signature and below a peer's preset and what is typed."""

    def test_a_registered_suite(self):
        adapted = Recipe.load(None, ["suite=mini/clip", "method=adamerging"]).method.params
        assert (adapted["learning_rate"], adapted["steps"], adapted["batch"]) == (3e-3, 250, 16)
        typed = Recipe.load(None, ["suite=mini/clip", "method=adamerging", "method.steps=7"]).method.params
        assert (typed["learning_rate"], typed["steps"]) == (3e-3, 7)
        plain = Recipe.load(None, ["experts.a=x", "method=adamerging"]).method.params
        assert (plain["learning_rate"], plain["steps"]) == (1e-3, 500)

    def test_a_suite_of_ones_own_and_the_order_of_layers(self, tmp_path):
        file = tmp_path / "mine.yaml"
        file.write_text("name: mine\nmethod_defaults: {ties: {keep: at_least_one, scale: 0.3}}\n")
        plain = Recipe.load(None, [f"suite={file}", "method=ties"]).method.params
        assert (plain["keep"], plain["scale"]) == ("at_least_one", 0.3)
        peer = Recipe.load(None, [f"suite={file}", "method=ties", "method.compat=official"]).method.params
        assert (peer["keep"], peer["scale"]) == ("official", 0.3)
        assert Recipe.load(None, [f"suite={file}", "method=ties", "method.scale=1"]).method.params["scale"] == 1

    def test_the_dumped_recipe_reads_back(self):
        recipe = Recipe.load(None, ["suite=mini/clip", "method=adamerging", "method.steps=7"])
        assert Recipe.read(recipe.dump()) == recipe

    def test_an_unknown_suite_or_method_is_reported_where_it_is_read(self):
        with pytest.raises(ConfigError, match="mini/clap"):
            Recipe.load(None, ["suite=mini/clap", "method=adamerging"])
        with pytest.raises(ConfigError, match="adamergin"):
            Recipe.load(None, ["suite=mini/clip", "method=adamergin"])
