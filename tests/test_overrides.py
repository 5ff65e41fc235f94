"""The override grammar, pinned by a table; what Hydra 1.3.8 makes of the same strings is in `reference/golden`."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusionbench.errors import ConfigError
from fusionbench.overrides import apply, interpolate, parse, sweep

HYDRA = Path(__file__).parent / "reference" / "golden" / "hydra_overrides.json"


class Sweep(list[str]):
    """The texts of a sweep."""


class Error(str):
    """A part of the error's message."""


ABSENT = ("absent",)

TABLE: dict[str, Any] = {
    # keys and actions
    "a=1": "1",
    "a.b.c=1": "1",
    "a-b.c_d=1": "1",
    "experts.my-task=p": "p",
    "a.0=1": "1",
    "+a.b=1": "1",
    "++a.b=1": "1",
    "~a.b": ABSENT,
    "~a.b=1": "1",
    "1a=1": "1",
    "é=1": "1",
    "a": Error("write key=value"),
    "=1": Error("'' is not a key"),
    ".a=1": Error("'.a' is not a key"),
    "a.=1": Error("'a.' is not a key"),
    "a..b=1": Error("'a..b' is not a key"),
    "a =1": Error("'a ' is not a key"),
    " a=1": Error("' a' is not a key"),
    "a b=1": Error("'a b' is not a key"),
    "a[0]=1": Error("'a[0]' is not a key"),
    "$a=1": Error("'$a' is not a key"),
    "--out=x": Error("'--out' is not a key"),
    "'a'=1": Error("is not a key"),
    "~~a": Error("'~a' is not a key"),
    "+~a": Error("write key=value"),
    "a/b=1": Error("a key has dots, not slashes"),
    "a@b=1": Error("packages (key@package) are not supported"),
    "hydra.sweeper=x": Error("no setting of Hydra's"),
    "method._target_=x": Error("nothing is built from a class path"),
    # plain values stay text
    "a=": "",
    "a= 1 ": "1",
    "a=hello world": "hello world",
    "a=  hello  world  ": "hello  world",
    "a=true": "true",
    "a=False": "False",
    "a=no": "no",
    "a=off": "off",
    "a=1e-4": "1e-4",
    "a=.3": ".3",
    "a=1.": "1.",
    "a=-3": "-3",
    "a=+3": "+3",
    "a=0x10": "0x10",
    "a=010": "010",
    "a=1_000": "1_000",
    "a=inf": "inf",
    "a=none": "none",
    "a=1.5.2": "1.5.2",
    "a=???": "???",
    "a=null": None,
    "a=NULL": None,
    "a='null'": "null",
    "a=path/to/file.yaml": "path/to/file.yaml",
    "a=../rel": "../rel",
    "a=~/home": "~/home",
    "a=org/model@rev": "org/model@rev",
    "a=C:\\x": "C:\\x",
    "a=http://x.y/z": "http://x.y/z",
    "a=http://x.y/z?q=1": "http://x.y/z?q=1",
    "a=a=b": "a=b",
    "a=a:b": "a:b",
    "a=a;b#c&d": "a;b#c&d",
    "a=a|b*c?d%e": "a|b*c?d%e",
    "a=größe": "größe",
    "a=a\\,b": "a,b",
    "a=a\\ b": "a b",
    "a=a\\[b\\]": "a[b]",
    "a=\\n": "\\n",
    "a=a\\\\b": "a\\b",
    # quotes
    "a='a, b'": "a, b",
    'a="a, b"': "a, b",
    "a='1'": "1",
    "a=''": "",
    "a='it\\'s'": "it's",
    "a='a\\\\\\'b'": "a\\'b",
    "a='a\\b'": "a\\b",
    "a='end\\\\'": "end\\",
    'a="it\'s"': "it's",
    "a='(x) [y] {z}'": "(x) [y] {z}",
    "a='open": Error("the quote ' is never closed"),
    "a=it's": Error('"\'" cannot stand at "\'s"'),
    "a='a'b": Error("'b' follows a value that has ended"),
    "a='a' 'b'": Error("follows a value that has ended"),
    # lists and mappings
    "a=[]": [],
    "a=[1, 2 ]": ["1", "2"],
    "a=[a b,'c,d',null]": ["a b", "c,d", None],
    "a=[[1,2],[3]]": [["1", "2"], ["3"]],
    "a=[1 2]": ["1 2"],
    "a={}": {},
    "a={x:1,y: 2}": {"x": "1", "y": "2"},
    "a={x: [1,2], y: {z: null}}": {"x": ["1", "2"], "y": {"z": None}},
    "a={a-b/c.d: 1}": {"a-b/c.d": "1"},
    "a={a:b:c}": {"a": "b:c"},
    "a={x y: 1}": {"x y": "1"},
    "a={'x, y': 1}": {"x, y": "1"},
    "a=[1,2": Error("expected ']' at the end"),
    "a=[1,]": Error("a value is missing at ']'"),
    "a=[,1]": Error("a value is missing at ',1]'"),
    "a=1]": Error("']' cannot stand"),
    "a=[1]]": Error("']' follows a value that has ended"),
    "a={x:1": Error("expected '}' at the end"),
    "a={x}": Error("expected ':' at '}'"),
    "a={x:}": Error("a value is missing at '}'"),
    "a={x:1,}": Error("a value is missing at '}'"),
    "a={x:1,x:2}": Error("has the key 'x' twice"),
    "a=x}": Error("'}' cannot stand"),
    # references to other keys
    "a=${b.c}": "${b.c}",
    "a=x_${b}/y": "x_${b}/y",
    "a=[${b},1]": ["${b}", "1"],
    "a={x:${b}}": {"x": "${b}"},
    "a='${b}, c'": "${b}, c",
    "a=${oc.env:HOME,none}": "${oc.env:HOME,none}",
    "a=${b": Error("'{' cannot stand at '{b'"),
    "a=${a.${b}}": Error("'{' cannot stand"),
    "a=$b": "$b",
    # sweeps
    "a=1,2": Sweep(["1", "2"]),
    "a=1, 2": Sweep(["1", "2"]),
    "a=null,x": Sweep(["null", "x"]),
    "a='1,2',3": Sweep(["'1,2'", "3"]),
    "a=[1,2],[3]": Sweep(["[1,2]", "[3]"]),
    "a={x:1},{x:2}": Sweep(["{x:1}", "{x:2}"]),
    "method=ties,dare": Sweep(["ties", "dare"]),
    "a=range(3)": Sweep(["0", "1", "2"]),
    "a=range(1,4)": Sweep(["1", "2", "3"]),
    "a=range(5,0,-2)": Sweep(["5", "3", "1"]),
    "a=range(0,1,.25)": Sweep(["0.00", "0.25", "0.50", "0.75"]),
    "a=range(0,1,0.1)": Sweep([f"0.{digit}" for digit in range(10)]),
    "a=range(0.5,2)": Sweep(["0.5", "1.5"]),
    "a=range(start=1,stop=4)": Sweep(["1", "2", "3"]),
    "a=range (2)": Sweep(["0", "1"]),
    "a=choice(a,b c)": Sweep(["a", "b c"]),
    "a=choice(a)": Sweep(["a"]),
    "a=choice([1],[2])": Sweep(["[1]", "[2]"]),
    "a=,1": Error("a value is missing at ',1'"),
    "a=1,,2": Error("a value is missing at ',2'"),
    "a=1,2,": Error("a value is missing at the end"),
    "a=range()": Error("needs a stop"),
    "a=range(1,0)": Error("range holds 0 values"),
    "a=range(0,1,0)": Error("a step that is not 0"),
    "a=range(a)": Error("takes three numbers"),
    "a=range(1,2,3,4)": Error("takes three numbers"),
    "a=range(3),4": Error("',4' follows a value that has ended"),
    "a=choice()": Error("choice() holds no value"),
    "a=choice(range(3))": Error("'(' cannot stand"),
    "~a=1,2": Error("a key is removed once"),
    "a=glob(*)": Error("glob() is not supported"),
    "a=sort(3,1)": Error("sort() is not supported"),
    "a=int(3.0)": Error("int() is not supported"),
    "a=f(1)": Error("f() is not a function"),
    "a=(1)": Error("'(' cannot stand"),
}

DEPARTURES = {
    "letters beyond ASCII, and digits first": ["1a=1", "é=1", "a=größe"],
    "values may hold more characters": ["a=~/home", "a=http://x.y/z?q=1", "a=a=b", "a=a;b#c&d"],
    "an empty key": ["=1"],
    "a key with $ is a typing mistake": ["$a=1"],
    "no packages, no Hydra, no classes": ["a@b=1", "hydra.sweeper=x", "method._target_=x"],
    "a slash in a key": ["a/b=1"],
    "keys of mappings may be quoted": ["a={'x, y': 1}"],
    "a repeated key is a mistake": ["a={x:1,x:2}"],
    "decimals are exact": ["a=range(0,1,0.1)"],
    "an empty range is a mistake": ["a=range(1,0)"],
    "unsupported functions": ["a=glob(*)", "a=sort(3,1)", "a=int(3.0)"],
    "a removal that sweeps": ["~a=1,2"],
}


@pytest.mark.parametrize("text", TABLE)
def test_an_override_is_read_as_the_table_says(text: str) -> None:
    expected = TABLE[text]
    if isinstance(expected, Error):
        with pytest.raises(ConfigError) as caught:
            parse(text)
        assert str(expected) in str(caught.value)
        assert repr(text) in str(caught.value)
        return
    found = parse(text)
    if isinstance(expected, Sweep):
        assert (found.sweeps, list(found.spelled)) == (True, list(expected))
    else:
        assert (found.sweeps, found.values) == (False, () if expected is ABSENT else (expected,))


def agrees(ours: Any, hydra: Any) -> bool:
    """Tell whether our text is what Hydra read, up to the type that it guessed."""
    if isinstance(hydra, list) and isinstance(ours, list):
        return len(ours) == len(hydra) and all(map(agrees, ours, hydra))
    if isinstance(hydra, dict) and isinstance(ours, dict):
        return list(ours) == list(hydra) and all(agrees(ours[key], hydra[key]) for key in ours)
    if isinstance(hydra, bool):
        return bool(str(ours).lower() == str(hydra).lower())
    if isinstance(hydra, int | float) and isinstance(ours, str):
        return float(ours) == hydra
    return bool(ours == hydra)


def same_outcome(expected: Any, hydra: dict[str, Any]) -> bool:
    if isinstance(expected, Error) or "error" in hydra:
        return isinstance(expected, Error) and "error" in hydra
    if isinstance(expected, Sweep) or "sweep" in hydra:
        texts = [text.replace("\\ ", " ") for text in hydra.get("sweep", [])]
        return isinstance(expected, Sweep) and all(
            ours == theirs or (ours[0].isdigit() and float(ours) == float(theirs))
            for ours, theirs in zip(expected, texts, strict=True)
        )
    return agrees("absent" if expected is ABSENT else expected, hydra["value"])


@pytest.mark.parametrize("text", TABLE)
def test_hydra_reads_the_same_except_for_the_listed_departures(text: str) -> None:
    listed = text in {text for texts in DEPARTURES.values() for text in texts}
    assert same_outcome(TABLE[text], json.loads(HYDRA.read_text())[text]) is not listed


def test_actions_and_keys_are_told_apart() -> None:
    found = [(o.action, o.key) for o in map(parse, ["a.b=1", "+a.b=1", "++a.b=1", "~a.b"])]
    assert found == [("set", ("a", "b")), ("add", ("a", "b")), ("force", ("a", "b")), ("delete", ("a", "b"))]


def test_a_sweep_is_the_product_in_order_with_the_last_changing_fastest() -> None:
    assert sweep(["method=ties,dare", "seed=3", "+a=range(0,2)"]) == [
        ["method=ties", "seed=3", "+a=0"],
        ["method=ties", "seed=3", "+a=1"],
        ["method=dare", "seed=3", "+a=0"],
        ["method=dare", "seed=3", "+a=1"],
    ]
    assert sweep([]) == [[]]
    assert sweep(["x='a,b', [c,d]"]) == [["x='a,b'"], ["x=[c,d]"]]


def test_a_sweep_of_more_than_a_million_runs_is_refused() -> None:
    with pytest.raises(ConfigError, match="1010000 runs; at most 1000000"):
        sweep(["a=range(101)", "b=range(10000)"])


BASE = {"suite": "mini/clip", "experts": {"digits": "p", "math": "q"}, "method": {"name": "ties"}, "tasks": ["digits"]}


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [
        (["seed=1", "seed=2"], {"seed": "2"}),
        (["suite.size=tiny"], {"suite": {"name": "mini/clip", "size": "tiny"}}),
        (["suite.size=tiny", "suite=mini/t5"], {"suite": {"name": "mini/t5", "size": "tiny"}}),
        (["method.density=.1"], {"method": {"name": "ties", "density": ".1"}}),
        (["method.density=.1", "method=dare"], {"method": {"name": "dare", "density": ".1"}}),
        (["method=ties", "method=dare"], {"method": "dare"}),
        (["method={name: dare}"], {"method": {"name": "dare"}}),
        (
            ["method.inner=ties", "method.inner.density=.2"],
            {"method": {"name": "ties", "inner": {"name": "ties", "density": ".2"}}},
        ),
        (["tasks.split=train"], {"tasks": {"seen": ["digits"], "split": "train"}}),
        (["experts.math.head=h"], {"experts": {"digits": {"model": "p"}, "math": {"model": "q", "head": "h"}}}),
        (["experts.math=r"], {"experts": {"digits": {"model": "p"}, "math": "r"}}),
        (["+experts.code=r"], {"experts": {"digits": {"model": "p"}, "math": {"model": "q"}, "code": "r"}}),
        (["++experts.math=r"], {"experts": {"digits": {"model": "p"}, "math": "r"}}),
        (["experts={code: r}", "experts.text=s"], {"experts": {"code": "r", "text": "s"}}),
        (["~experts", "experts.text=s"], {"experts": {"text": "s"}}),
        (["~experts.math=q"], {"experts": {"digits": {"model": "p"}}}),
        (["~experts.math", "+experts.math=z"], {"experts": {"digits": {"model": "p"}, "math": "z"}}),
        (["runtime.device=cpu"], {"runtime": {"device": "cpu"}}),
        (["+new.key=1"], {"new": {"key": "1"}}),
    ],
)
def test_overrides_change_what_they_name_and_nothing_else(overrides: list[str], changed: dict[str, Any]) -> None:
    unchanged = {
        "suite": {"name": "mini/clip"},
        "experts": {"digits": {"model": "p"}, "math": {"model": "q"}},
        "method": {"name": "ties"},
        "tasks": {"seen": ["digits"]},
    }
    before = json.dumps(BASE)
    assert apply(BASE, overrides) == {**unchanged, **changed}
    assert json.dumps(BASE) == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method=ties,dare", "several values. Add -m for one run of each; a list is written [ties,dare]"),
        ("seed=range(2)", "Add -m for one run of each; a list is written [0,1]"),
        ("experts.maths=r", "there is no expert 'maths'; did you mean math? To add it write +experts.maths=r"),
        ("experts.zz.head=r", "there is no expert 'zz'; there are digits, math. To add it write +experts.zz.head=r"),
        ("+suite.name=x", "the key is there already; drop the + to set it, or write ++ for either"),
        ("~seed", "there is no seed to remove"),
        ("~runtime.device", "there is no runtime.device to remove"),
        ("~experts.math.head", "there is no experts.math.head to remove"),
        ("tasks.seen.0=x", "tasks.seen is ['digits'], which has no keys; write the whole value"),
        ("method.name.x=1", "method.name is 'ties', which has no keys"),
        ("~method.name=dare", "method.name is 'ties', so it stays"),
    ],
)
def test_an_override_that_does_not_fit_says_why(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply(BASE, [override])
    assert repr(override) in str(caught.value)
    assert message in str(caught.value)


def test_all_overrides_that_are_wrong_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        apply(BASE, ["seed", "~nothing", "seed=1", "a=1,2"])
    assert [line.split(":")[0] for line in str(caught.value).split("\n")] == [
        "'seed' is not an override",
        "'~nothing'",
        "'a=1,2'",
    ]


def test_references_take_the_value_of_their_key() -> None:
    document = {
        "seed": "3",
        "a": "${seed}",
        "b": ["x-${a}", {"c": "${method.density}/${flag}"}],
        "flag": True,
        "d": "${b}",
    }
    found = interpolate(document, {"method": {"density": 0.2}, "seed": 0})
    inner = ["x-3", {"c": "0.2/true"}]
    assert found == {"seed": "3", "a": "3", "b": inner, "flag": True, "d": inner}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"a": "${oc.env:HF_TOKEN}"}, "a: ${oc.env:HF_TOKEN} is a resolver, and resolvers are refused"),
        ({"a": {"b": ["x${env:X}"]}}, "a.b[0]: ${env:X} is a resolver"),
        ({"a": "${b}"}, "a: there is no b in this recipe for ${b}"),
        ({"a": "${b.c}", "b": "text"}, "there is no b.c in this recipe"),
        ({"a": "${.b}"}, "a: ${.b} is not a key"),
        ({"a": "${}"}, "a: ${} is not a key"),
        ({"a": "${a}"}, "a: ${a} refers to itself (a → a)"),
        ({"a": "${b}", "b": "${a}"}, "a: ${b} refers to itself (b → a → b)"),
        ({"a": "x ${b", "b": "1"}, "a: 'x ${b' is not a text with ${key} in it"),
        ({"a": "$${b}", "b": "{c}", "c": "1"}, "a: '$${b}' is not a text with ${key} in it"),
        ({"a": "x${b}", "b": ["1"]}, "a: ${b} is ['1'], which is no text to stand in 'x${b}'"),
        ({"a": "x${b}", "b": None}, "a: ${b} is None, which is no text"),
    ],
)
def test_a_reference_that_is_no_plain_key_is_refused(document: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        interpolate(document, {})
    assert message in str(caught.value)


@pytest.mark.parametrize("twice", [lambda key: f"{key}{key}", lambda key: [key, key]], ids=["texts", "lists"])
def test_references_cannot_multiply_without_end(twice: Any) -> None:
    document = {f"k{index}": twice(f"${{k{index + 1}}}") for index in range(40)}
    with pytest.raises(ConfigError, match=r"more than 100000 entries|is not a text"):
        interpolate({**document, "k40": "x" * 100}, {})


def test_a_chain_of_references_has_an_end() -> None:
    document = {f"k{index}": f"${{k{index + 1}}}" for index in range(2000)}
    with pytest.raises(ConfigError, match="refers to itself"):
        interpolate(document, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=range(0,1e9)", "range holds 1000000000 values; 1 to 10000 are allowed"),
        ("a=range(0,1e999999999)", r"takes three numbers below 10\^12"),
        ("a=range(0,1,1e-999999999)", r"takes three numbers below 10\^12"),
    ],
)
def test_a_range_that_would_fill_the_memory_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(text)


def test_brackets_cannot_nest_without_end() -> None:
    with pytest.raises(ConfigError, match="nested deeper than 32"):
        parse("a=" + "[" * 5000)


@given(st.text() | st.text("ab=.,[]{}()'\"\\ ${}:~+-@/range01").map(lambda text: f"a={text}"))
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    try:
        found = parse(text)
    except ConfigError:
        return
    assert math.prod([len(found.values), 1]) == len(found.spelled)


texts = st.text(st.characters(exclude_characters="'\\"), min_size=1)


@given(st.lists(texts, min_size=1))
def test_quoted_text_comes_back_as_it_was(items: list[str]) -> None:
    quoted = ",".join(f"'{item}'" for item in items)
    assert parse(f"a=[{quoted}]").values == (items,)
    assert sweep([f"a={quoted}"]) == [[f"a='{item}'"] for item in items]
