import pytest

from fusionbench.config import Recipe
from fusionbench.errors import ConfigError
from fusionbench.sweep.space import Choice, Numbers, split


def at_high(name, low, high, whole, log):
    return high


def last(name, values):
    return values[-1]


def drawn(text: str, experts: int = 3) -> str:
    _, (dimension,) = split([text], experts)
    return dimension.draw(at_high, last)


@pytest.mark.parametrize(
    ("text", "override"),
    [
        ("method.scale=interval(0,1.5)", "method.scale=1.5"),
        ("method.learning_rate=log(1e-5,1e-2)", "method.learning_rate=0.01"),
        ("method.examples=whole(16,256)", "method.examples=256"),
        ("method.combine=sum,mean", "method.combine=mean"),
        ("seed=range(0,4)", "seed=3"),
        ("method.weights=each(0,1)", "method.weights=[1.0,1.0,1.0]"),
        ("method.scale=layers(0,2,2)", "method.scale=[{value: [2.0,2.0]}]"),
    ],
)
def test_each_kind_of_space_is_drawn_as_an_override(text, override):
    assert drawn(text) == override


def test_what_has_one_value_is_fixed():
    fixed, space = split(["suite=mini/clip", "method.scale=interval(0,1)", "method.combine=sum,mean"], 0)
    assert fixed == ["suite=mini/clip"]
    assert space == [
        Numbers("method.scale", "interval", 0.0, 1.0),
        Choice("method.combine", ("sum", "mean")),
    ]


def test_several_numbers_of_one_key_are_told_apart_in_the_study():
    names = []

    def note(name, low, high, whole, log):
        names.append((name, low, high, whole, log))
        return low

    _, (weights,) = split(["method.weights=each(0.5,1)"], 2)
    assert weights.draw(note, last) == "method.weights=[0.5,0.5]"
    assert names == [("method.weights[0]", 0.5, 1.0, False, False), ("method.weights[1]", 0.5, 1.0, False, False)]


def test_flags_tell_whole_and_logarithmic_intervals_apart():
    flags = {}
    for kind in ("interval", "log", "whole"):
        _, (dimension,) = split([f"a.b={kind}(1,8)"], 0)
        dimension.draw(
            lambda name, low, high, whole, log, kind=kind: flags.setdefault(kind, (whole, log)) and low, last
        )
    assert flags == {"interval": (False, False), "log": (False, True), "whole": (True, False)}


def test_a_drawn_gradient_is_one_that_recipes_read():
    recipe = Recipe.load(None, ["experts.a=x", "base=b", "method=task_arithmetic", drawn("method.scale=layers(0,1,3)")])
    assert recipe.method.params["scale"] == [{"value": [1.0, 1.0, 1.0]}]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("method.scale=interval(1,0)", "low end must be below"),
        ("method.scale=interval(0)", "write interval"),
        ("method.scale=interval(a,b)", "with numbers"),
        ("method.scale=interval(0,1,2)", "takes low,high"),
        ("method.rate=log(0,1)", "above 0"),
        ("method.n=whole(0.5,2)", "whole numbers"),
        ("method.scale=layers(0,1)", "takes low,high,points"),
        ("method.scale=layers(0,1,1.5)", "whole number of points"),
        ("method.scale=0.3", "nothing to search"),
    ],
)
def test_what_is_no_space_is_refused(text, said):
    with pytest.raises(ConfigError, match=said):
        split([text], 2)
