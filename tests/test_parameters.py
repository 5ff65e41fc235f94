import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusionbench.errors import ConfigError
from fusionbench.parameters import (
    Count,
    Density,
    Inner,
    Parameter,
    PerExpert,
    Positive,
    Range,
    Scale,
    Share,
    check,
    is_schedule,
    per_expert,
    read_value,
)
from fusionbench.signatures import arguments, describe

Kind = Literal["mean", "sum"]


def method(
    base: Any,
    experts: Any,
    *,
    density: PerExpert[Density] = 0.2,
    scale: Scale = 1.0,
    rate: Positive,
    share: Share = 0.5,
    steps: Count = 3,
    kind: Kind = "mean",
    clamp: bool = True,
    weights: PerExpert[float] | None = None,
    grid: Sequence[float] = (0.1, 0.2),
    label: str = "x",
    inner: Inner = {"name": "ties"},  # noqa: B006
    bounded: Annotated[int, Range(2, 4, open="right")] = 2,
    site: Any = None,
    prepared: Any = None,
    stats: Any = None,
) -> None:
    """Fuse nothing.

    Longer words.

    Args:
        base: not a parameter.
        density: how much is kept,
            on two lines; with a colon: here.
        rate: a rate.

    Raises:
        ValueError: never.
    """


FOUND = {parameter.name: parameter for parameter in describe(method)}


def test_a_signature_is_described_without_what_the_engine_injects():
    assert list(FOUND) == [
        "density", "scale", "rate", "share", "steps", "kind", "clamp", "weights", "grid", "label", "inner", "bounded",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("density", {"type": "number", "default": 0.2, "per_expert": True, "low": 0, "high": 1, "open": "left"}),
        ("scale", {"type": "number", "default": 1.0, "low": None, "high": None, "required": False}),
        ("rate", {"type": "number", "default": None, "required": True, "low": 0, "high": None, "open": "left"}),
        ("share", {"low": 0, "high": 1, "open": ""}),
        ("steps", {"type": "integer", "default": 3, "low": 1}),
        ("kind", {"type": "string", "choices": ("mean", "sum"), "default": "mean"}),
        ("clamp", {"type": "boolean", "default": True}),
        ("weights", {"type": "number", "nullable": True, "per_expert": True, "default": None}),
        ("grid", {"type": "list", "default": [0.1, 0.2]}),
        ("label", {"type": "string", "choices": ()}),
        ("inner", {"type": "method", "default": {"name": "ties"}}),
        ("bounded", {"type": "integer", "low": 2, "high": 4, "open": "right"}),
    ],
)
def test_each_annotation_is_read(name, fields):
    assert {field: getattr(FOUND[name], field) for field in fields} == fields


def test_texts_come_from_the_docstring_on_one_line():
    assert FOUND["density"].doc == "how much is kept, on two lines; with a colon: here."
    assert FOUND["rate"].doc == "a rate."
    assert FOUND["scale"].doc == ""


def test_an_annotation_that_no_recipe_can_express_is_refused():
    def odd(*, where: complex = 1j) -> None: ...

    with pytest.raises(TypeError, match="'where'"):
        describe(odd)


@pytest.mark.parametrize(
    ("range_", "inside", "outside", "text"),
    [
        (Range(0, 1), [0, 0.5, 1], [-1e-9, 1.1], "[0, 1]"),
        (Range(0, 1, open="left"), [1e-9, 1], [0], "(0, 1]"),
        (Range(0, 1, open="right"), [0], [1], "[0, 1)"),
        (Range(0, 1, open="both"), [0.5], [0, 1], "(0, 1)"),
        (Range(), [-1e300, 1e300], [math.nan], "(-inf, inf)"),
        (Range(2), [2, 1e9], [1.9], "[2, inf)"),
    ],
)
def test_a_range_holds_what_is_between_its_ends(range_, inside, outside, text):
    assert all(value in range_ for value in inside)
    assert not any(value in range_ for value in outside)
    assert str(range_) == text


def read(name: str, value: Any) -> Any:
    return read_value(FOUND[name], value)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("scale", "1e-4", 1e-4),
        ("scale", ".3", 0.3),
        ("scale", 2, 2.0),
        ("steps", "10", 10),
        ("steps", 4.0, 4),
        ("steps", "1e3", 1000),
        ("clamp", "no", False),
        ("clamp", "True", True),
        ("clamp", "on", True),
        ("kind", "sum", "sum"),
        ("label", "no", "no"),
        ("label", 5, "5"),
        ("weights", None, None),
        ("grid", [1, 2], [1, 2]),
        ("grid", (1, 2), [1, 2]),
        ("inner", "ties", {"name": "ties"}),
        ("inner", {"name": "dare", "density": 0.1}, {"name": "dare", "density": 0.1}),
        ("density", [".1", 1], [0.1, 1.0]),
        ("density", {"a": "0.1", "b": 1}, {"a": 0.1, "b": 1.0}),
        ("density", [{"value": ".1", "filter": "mlp"}, {"value": 1}], [{"value": 0.1, "filter": "mlp"}, {"value": 1}]),
        ("scale", [{"value": ["0", 1]}], [{"value": [0.0, 1.0]}]),
        ("density", {"a": [{"value": "0.5"}]}, {"a": [{"value": 0.5}]}),
        ("density", [0.5, [{"value": "1"}]], [0.5, [{"value": 1.0}]]),
    ],
)  # fmt: skip
def test_text_and_numbers_are_read_by_the_type_of_the_parameter(name, given, expected):
    found = read(name, given)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("scale", "high", "expected a number, got 'high'"),
        ("scale", None, "expected a number, got None"),
        ("scale", True, "expected a number, got True"),
        ("scale", "nan", "expected a number"),
        ("scale", math.inf, r"inf is not finite; its range is \(-inf, inf\)"),
        ("scale", "-inf", "-inf is not finite"),
        ("scale", [1, 2], "To sweep over values add -m"),
        ("scale", {"a": 1}, "expected a number"),
        ("steps", 2.5, "expected a whole number, got 2.5"),
        ("steps", "2.5", "expected a whole number"),
        ("steps", 0, r"0 is outside its range \[1, inf\)"),
        ("steps", math.inf, "expected a whole number"),
        ("bounded", 4, r"outside its range \[2, 4\)"),
        ("density", 0, r"0 is outside its range \(0, 1\]\. how much is kept"),
        ("density", [0.5, 2], "2 is outside its range"),
        ("density", {"a": 2}, "2 is outside its range"),
        ("density", [{"value": 2}], "2 is outside its range"),
        ("density", [[0.5, 0.5]], "expected a number"),
        ("density", {"a": [0.5, 0.5]}, "expected a number"),
        ("density", {"a": {"b": 0.5}}, "expected a number"),
        ("density", [{"value": []}], "needs a value"),
        ("kind", "max", "expected one of mean, sum; got 'max'"),
        ("kind", [{"value": "sum"}], "only numbers may differ from tensor to tensor"),
        ("clamp", [{"value": True}], "only numbers may differ from tensor to tensor"),
        ("label", {"a": 1}, "expected text, got"),
        ("label", None, "expected text, got None"),
        ("clamp", "perhaps", "expected true or false, got 'perhaps'"),
        ("clamp", 1, "expected true or false, got 1"),
        ("grid", 3, "expected a list"),
        ("inner", 3, "expected a method"),
        ("inner", {"density": 3}, "expected a method"),
    ],
)  # fmt: skip
def test_what_a_parameter_cannot_be_is_told(name, given, words):
    with pytest.raises(ValueError, match=words):
        read(name, given)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_read_from_its_text_as_itself(number):
    assert read("scale", repr(number)) == number


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["value", "filter", "name", "a"]), inner)
    ),
)


@settings(max_examples=300)
@given(st.sampled_from(sorted(FOUND)), JUNK)
def test_anything_is_read_or_refused_and_what_was_read_reads_again(name, value):
    try:
        found = read(name, value)
    except ValueError:
        return
    assert read(name, found) == found


def test_every_problem_is_told_at_once_and_defaults_fill_the_rest():
    with pytest.raises(ConfigError) as error:
        check("toy", describe(method), {"densty": 0.5, "scale": "x", "kind": "max"})
    lines = str(error.value).splitlines()
    assert lines[0].startswith("method.densty: not a parameter of toy. Did you mean density? It has: density, scale")
    assert lines[1] == "method.scale: expected a number, got 'x'"
    assert lines[2] == "method.rate: toy needs a value for it. a rate."
    assert lines[3].startswith("method.kind: expected one of mean, sum")
    values = check("toy", describe(method), {"rate": 0.5})
    assert values["rate"] == 0.5
    assert values["density"] == 0.2
    assert list(values) == list(FOUND)


def test_a_method_without_parameters_says_so():
    with pytest.raises(ConfigError, match="It has none"):
        check("simple_average", (), {"scale": 1})
    assert check("simple_average", (), {}) == {}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([{"value": 1}], True),
        ([{"value": 1, "filter": "x"}, {"value": [1, 2]}], True),
        ([], False),
        ([1, {"value": 1}], False),
        ([{"filter": "x"}], False),
        ({"value": 1}, False),
        ("value", False),
    ],
)
def test_a_schedule_is_a_list_of_entries_with_values(value, expected):
    assert is_schedule(value) is expected


def test_a_single_value_serves_every_expert():
    assert per_expert(0.5, 3) == (0.5, 0.5, 0.5)
    assert per_expert([1, 2], 2) == (1, 2)
    assert per_expert("sum", 2) == ("sum", "sum")
    with pytest.raises(ConfigError, match=r"Got 2 values for 3 experts: \[1, 2\]"):
        per_expert([1, 2], 3)


def test_only_numbers_follow_the_tensors():
    assert {name for name, parameter in FOUND.items() if parameter.scheduled} == {
        "density", "scale", "rate", "share", "steps", "weights", "bounded",
    }  # fmt: skip
    assert isinstance(FOUND["inner"].default, Mapping)
    assert Parameter("x", "number").range == Range()


@dataclass(frozen=True)
class Learning:
    """How something learns.

    Attributes:
        steps: how many, which takes
            two lines.
        rate: of Adam.
    """

    steps: Count = 10
    rate: Positive = 0.1


GENTLE = Learning(rate=0.01)


def learner(pool: Learning, *, scale: Scale = 1.0, learning: Learning = GENTLE, last: bool = False) -> Any:
    """Learn.

    Args:
        pool: is no keyword, and so no parameter.
        scale: a factor.
        learning: is not shown itself.
        last: comes last.
    """
    return scale, learning, last


def test_the_fields_of_a_dataclass_are_parameters_of_every_function_that_takes_it():
    found = {parameter.name: parameter for parameter in describe(learner)}
    assert list(found) == ["scale", "steps", "rate", "last"]
    assert (found["steps"].default, found["steps"].low, found["steps"].doc) == (
        10,
        1,
        "how many, which takes two lines.",
    )
    assert (found["rate"].default, found["rate"].open) == (0.01, "left")


def test_values_go_back_to_the_dataclass():
    values = check("learner", describe(learner), {"steps": 3, "scale": 2})
    assert learner(Learning(), **arguments(learner, values)) == (2.0, Learning(3, 0.01), False)
    with pytest.raises(ConfigError, match=r"method\.steps: 0 is outside"):
        check("learner", describe(learner), {"steps": 0})
