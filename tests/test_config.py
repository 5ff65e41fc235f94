"""Recipes: reading, layering, checking, writing, identity."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusionbench import registry
from fusionbench.config import MethodConfig, Recipe, identity, parse_document, read_document, recipe_schema
from fusionbench.errors import ConfigError
from fusionbench.parameters import Count, Density, Inner, PerExpert, Scale
from fusionbench.registry import Entry
from fusionbench.signatures import describe

SHIPPED = Path(registry.__file__).parent / "presets" / "method"
THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
CONTRACT = Path(__file__).parent / "contracts" / "recipe.schema.json"


def toy(
    *,
    density: PerExpert[Density] = 0.2,
    scale: Scale = 1.0,
    combine: Literal["mean", "sum", "max"] = "mean",
    steps: Count = 3,
    clamp: bool = True,
    note: str | None = None,
    grid: Sequence[float] = (0.1, 0.2),
) -> None:
    """Do nothing.

    Args:
        density: share kept.
    """


def wrap(*, inner: Inner, gain: float = 1.0) -> None:
    """Do nothing to another method's result."""


def plain() -> None:
    """Do nothing without parameters."""


def entry(function: Any, **fields: Any) -> Entry:
    return Entry(function.__name__, function.__doc__ or "", "nowhere:nothing", parameters=describe(function), **fields)


ENTRIES = {
    "method": {
        "toy": entry(toy, compat={"fusion_bench": {"combine": "sum", "steps": 7}, "mergekit": {}}),
        "wrap": entry(wrap),
        "plain": entry(plain),
    },
    "suite": {"mini/clip": Entry("mini/clip", "", "nowhere:nothing")},
    "family": {"clip": Entry("clip", "", "nowhere:nothing")},
    "task": {},
    "experiment": {},
}


@pytest.fixture(autouse=True, scope="module")
def _registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_built_in", lambda kind: ENTRIES[kind])
        yield


@pytest.fixture
def _real_index(monkeypatch: pytest.MonkeyPatch) -> None:
    index = json.loads(registry.INDEX.read_text())
    real = {
        kind: {name: registry.entry_from_json(name, fields) for name, fields in index.get(kind, {}).items()}
        for kind in ENTRIES
    }
    monkeypatch.setattr(registry, "_built_in", lambda kind: real[kind])


def load(*overrides: str) -> Recipe:
    return Recipe.load(None, ["experts.a=x", "method=toy", *overrides])


def problems_of(document: Mapping[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Recipe.read(document)
    first, *lines = str(caught.value).split("\n")
    assert first == "The recipe is wrong:"
    return [line.removeprefix("  ") for line in lines]


def method_problems(method: Any) -> list[str]:
    return problems_of({"experts": {"a": "x"}, "method": method})


def outcome(read: Callable[[], Any]) -> Any:
    """Return what `read` returns, or the words of its error."""
    try:
        return read()
    except ConfigError as error:
        return str(error)


# reading


def test_a_recipe_of_overrides_alone_has_the_schema_s_defaults() -> None:
    recipe = Recipe.load(None, ["base=org/base", "experts.digits=org/a@v1", "experts.math=b", "method=toy"])
    assert recipe.dump() == {
        "suite": None,
        "base": "org/base",
        "experts": {"digits": "org/a@v1", "math": "b"},
        "family": "auto",
        "space": "dense",
        "batch_norm": "average",
        "tasks": {"seen": None, "unseen": None, "split": "test", "corruption": None, "severity": 2, "limit": None},
        "method": {
            "name": "toy",
            "compat": None,
            "density": 0.2,
            "scale": 1.0,
            "combine": "mean",
            "steps": 3,
            "clamp": True,
            "note": None,
            "grid": [0.1, 0.2],
        },
        "seed": 0,
        "output": {"model": True, "dtype": "base", "format": "model", "shard_bytes": 5_000_000_000, "folder": None},
        "runtime": {"device": "auto", "threads": THREADS, "memory": None, "launcher": None, "trackers": []},
    }


def test_bare_values_stand_for_the_mappings_that_they_shorten(tmp_path: Path) -> None:
    short, long = tmp_path / "short.yaml", tmp_path / "long.yaml"
    short.write_text("suite: mini/clip\nexperts: {a: x}\ntasks: [a, b]\nmethod: toy\n")
    long.write_text("suite: {name: mini/clip}\nexperts: {a: {model: x}}\ntasks: {seen: [a, b]}\nmethod: {name: toy}\n")
    assert Recipe.load(short) == Recipe.load(long)
    assert Recipe.load(short).tasks.seen == ("a", "b")


def test_overrides_reach_below_a_bare_value(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("suite: mini/clip\nmethod: toy\n")
    recipe = Recipe.load(file, ["suite.size=tiny", "suite.unseen=[c]", "method.density=.5", "tasks.limit=64"])
    assert recipe.suite is not None
    assert (recipe.suite.size, recipe.suite.unseen, recipe.suite.seed) == ("tiny", ("c",), 0)
    assert (recipe.method.params["density"], recipe.tasks.limit) == (0.5, 64)


def test_a_suite_may_be_the_path_of_a_yaml() -> None:
    recipe = Recipe.load(None, ["suite=./mine.yaml", "method=toy"])
    assert recipe.suite is not None
    assert recipe.suite.name == "./mine.yaml"


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("seed=1e3", "seed", 1000),
        ("seed=9007199254740993", "seed", 9007199254740993),
        ("output.model=no", "output.model", False),
        ("output.model=on", "output.model", True),
        ("base=no", "base", "no"),
        ("base=0x10", "base", "0x10"),
        ("base=1e-4", "base", "1e-4"),
        ("tasks.corruption=null", "tasks.corruption", None),
        ("tasks={severity: 5, corruption: contrast}", "tasks.severity", 5),
        ("tasks=[on, off]", "tasks.seen", ["on", "off"]),
        ("output.shard_bytes=500MB", "output.shard_bytes", 500_000_000),
        ("output.shard_bytes=1.5 kB", "output.shard_bytes", 1500),
        ("runtime.memory=2GB", "runtime.memory", 2_000_000_000),
        ("runtime.memory=1GiB", "runtime.memory", 1_073_741_824),
        ("runtime.memory=123", "runtime.memory", 123),
        ("runtime.device=cuda:1", "runtime.device", "cuda:1"),
        ("batch_norm=as_parameters", "batch_norm", "as_parameters"),
        ("family=clip", "family", "clip"),
        ("method.scale=.3", "method.scale", 0.3),
        ("method.scale=1e-4", "method.scale", 1e-4),
        ("method.clamp=no", "method.clamp", False),
        ("method.note=no", "method.note", "no"),
        ("method.steps=10", "method.steps", 10),
        ("method.density=[.1,1]", "method.density", [0.1, 1.0]),
        ("method.density={a: .1}", "method.density", {"a": 0.1}),
        ("method.density=[{filter: mlp, value: [.1,.2]},{value: 1}]", "method.density",
         [{"filter": "mlp", "value": [0.1, 0.2]}, {"value": 1.0}]),
        ("method.grid=[1,.5,-2e1,x]", "method.grid", [1, 0.5, -20.0, "x"]),
        ("output.folder=${seed}-${method.scale}-${method.density}-${suite.size}", "output.folder", "0-1.0-0.2-small"),
        ("seed=${suite.seed}", "seed", 0),
    ],
)  # fmt: skip
def test_the_type_of_a_key_reads_its_text(override: str, key: str, value: Any) -> None:
    found: Any = load("suite=mini/clip", override).dump()
    for part in key.split("."):
        found = found[part]
    assert found == value
    assert type(found) is type(value)


def test_yaml_is_read_as_text_too(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "experts: {no: 007, on: 1.0}\nbase: ~\nseed: 1e3\nmethod: {name: toy, note: yes, scale: 1e-4, clamp: off}\n"
    )
    recipe = Recipe.load(file)
    assert recipe.dump()["experts"] == {"no": "007", "on": "1.0"}
    assert (recipe.base, recipe.seed) == (None, 1000)
    assert [recipe.method.params[name] for name in ("note", "scale", "clamp")] == ["yes", 1e-4, False]


# layers of a method's parameters


def test_defaults_give_way_to_compat_then_preset_then_what_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "presets/method/toy").mkdir(parents=True)
    (tmp_path / "presets/method/toy/mine.yaml").write_text("name: toy\ncompat: fusion_bench\nsteps: 8\nscale: 2\n")
    monkeypatch.chdir(tmp_path)

    def values(*overrides: str) -> list[Any]:
        method = load(*overrides).method
        return [method.compat, *(method.params[name] for name in ("combine", "steps", "scale"))]

    assert values("method=toy") == [None, "mean", 3, 1.0]
    assert values("method=toy", "method.compat=fusion_bench") == ["fusion_bench", "sum", 7, 1.0]
    assert values("method=toy/mine") == ["fusion_bench", "sum", 8, 2.0]
    assert values("method=toy/mine", "method.scale=9", "method.combine=max") == ["fusion_bench", "max", 8, 9.0]
    assert values("method=toy/mine", "method.compat=null") == [None, "mean", 8, 2.0]
    assert values("method=toy", "method.compat=paper") == ["paper", "mean", 3, 1.0]
    assert values("method=toy/mine", "output.folder=o/${method.steps}/${method.combine}")[2] == 8
    assert load("method=toy/mine", "output.folder=${method.steps}/${method.combine}").output.folder == "8/sum"


def test_a_preset_of_the_user_s_own_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "presets/method").mkdir(parents=True)
    (tmp_path / "presets/method/mine.yaml").write_text("name: toy\nscale: 2\n")
    (tmp_path / "presets/method/nameless.yaml").write_text("scale: 2\n")
    monkeypatch.chdir(tmp_path)
    assert load("method=mine").method == MethodConfig.read({"name": "toy", "scale": 2})
    assert method_problems("nameless") == [
        "method: the preset presets/method/nameless.yaml names no method; it starts with a line such as 'name: ties'."
    ]


def test_a_compat_that_a_method_lacks_is_refused_with_those_it_has() -> None:
    message = "method.compat: toy has no compat 'official'; it has: paper, fusion_bench, mergekit."
    assert method_problems({"name": "toy", "compat": "official"}) == [message]
    assert method_problems({"name": "plain", "compat": "mergekit"}) == [
        "method.compat: plain has no compat 'mergekit'; it has: paper."
    ]


def test_an_inner_method_is_checked_and_completed_like_any_other() -> None:
    recipe = load("method=wrap", "method.inner=toy", "method.inner.compat=fusion_bench", "method.inner.scale=.5")
    inner = recipe.method.params["inner"]
    assert (inner["name"], inner["compat"], inner["scale"], inner["combine"]) == ("toy", "fusion_bench", 0.5, "sum")
    assert inner["density"] == 0.2
    wrong = {"name": "wrap", "inner": {"name": "wrap", "inner": {"name": "toy", "densty": 1, "steps": 0}}, "gain": "x"}
    assert method_problems(wrong) == [
        "method.gain: expected a number, got 'x'",
        "method.inner.inner.densty: not a parameter of toy. Did you mean density? "
        "It has: density, scale, combine, steps, clamp, note, grid.",
        "method.inner.inner.steps: 0 is outside its range [1, inf).",
    ]
    assert method_problems("wrap")[0].startswith("method.inner: wrap needs a value for it.")


# errors


def test_every_problem_of_a_recipe_is_named_at_once() -> None:
    document = {
        "suite": {"name": "mini/clop", "siez": "tiny", "seed": -1},
        "experts": {"a": {"modle": "x"}, "../b": "y"},
        "tasks": {"splt": "test", "split": "dev", "severity": "9", "seen": ["a", "a"]},
        "method": {"name": "toy", "density": "1.5", "combine": "mode", "scael": 1},
        "output": {"model": "maybe", "dtype": "int8", "shard_bytes": "much", "folder": ["x"]},
        "runtime": {"device": "gpu", "threads": "0", "memory": "-1"},
        "seed": "1.5",
        "scale": 0.3,
        "size": "tiny",
        "sede": 1,
    }
    assert problems_of(document) == [
        "suite.name: There is no suite named 'mini/clop'. Did you mean mini/clip?",
        "suite.seed: expected at least 0; got -1",
        "suite.siez is not a key of suite; did you mean size? It has: name, size, seed, experts, unseen.",
        "experts.a.model is missing.",
        "experts.a.modle is not a key of experts.a; did you mean model? It has: model, task, adapter, head.",
        "experts.../b: an expert's name starts with a letter or digit and has no slash, since files are named after it",
        "tasks.seen: a is there more than once",
        "tasks.split: expected 'train', 'validation' or 'test'; got 'dev'",
        "tasks.severity: expected at most 5; got 9",
        "tasks.splt is not a key of tasks; did you mean split? "
        "It has: seen, unseen, split, corruption, severity, limit.",
        "method.scael: not a parameter of toy. Did you mean scale? "
        "It has: density, scale, combine, steps, clamp, note, grid.",
        "method.density: 1.5 is outside its range (0, 1]. share kept.",
        "method.combine: expected one of mean, sum, max; got 'mode'",
        "seed: expected a whole number, got '1.5'",
        "output.model: expected true or false; got 'maybe'",
        "output.dtype: expected 'base', 'float64', 'float32', 'float16' or 'bfloat16'; got 'int8'",
        "output.shard_bytes: expected a number of bytes such as 2GB, 500MB or 1GiB, got 'much'",
        "output.folder: expected text; got ['x']",
        "runtime.device: expected auto, cpu, mps, cuda or cuda:N, got 'gpu'",
        "runtime.threads: expected at least 1; got 0",
        "runtime.memory: expected at least 1; got -1",
        "scale is not a key of a recipe; did you mean method.scale?",
        "size is not a key of a recipe; did you mean suite.size?",
        "sede is not a key of a recipe; did you mean seed? It has: suite, base, experts, family, space, batch_norm, "
        "tasks, method, slices, vocabulary, seed, output, runtime.",
    ]


@pytest.mark.parametrize(
    ("document", "line"),
    [
        ({"suite": "mini/clip"}, "method is missing. Add method=ties, say; `fusionbench list methods` shows all."),
        ({"method": "toy"}, "there is nothing to fuse: name a suite (suite=mini/clip) or experts (experts.NAME=REF)."),
        ({"suite": "mini/clip", "method": "tou"}, "method: There is no method named 'tou'. Did you mean toy?"),
        ({"suite": "mini/clip", "method": "toy/x"}, "method: there is no preset 'toy/x'. Presets of toy: none."),
        ({"suite": "mini/clip", "method": "../../toy"},
         "method: There is no method named '../../toy'. Did you mean toy?"),
        ({"suite": "mini/clip", "method": ["toy"]},
         "method: expected a method such as {name: ties, density: 0.2}, got ['toy']"),
        ({"suite": "mini/clip", "method": {"density": 1}},
         "method: expected a method such as {name: ties, density: 0.2}, got {'density': 1}"),
        ({"suite": "mini/clip", "method": "toy", "family": "clop"},
         "family: There is no family named 'clop'. Did you mean clip?"),
        ({"suite": "mini/clip", "method": "toy", "tasks": {"seen": ["a", "b"], "unseen": ["b", "c"]}},
         "tasks.unseen: b is in tasks.seen too."),
        ({"suite": "mini/clip", "method": "toy", "tasks": "a"}, "tasks.seen: expected a list such as [a, b]; got 'a'"),
        ({"suite": "mini/clip", "method": "toy", "experts": ["a"]},
         "experts: expected a mapping such as {key: value}; got ['a']"),
        ({"suite": "mini/clip", "method": "toy", "base": ""}, "base: expected text; got ''"),
        ({"suite": "mini/clip", "method": "toy", "seed": True}, "seed: expected a whole number, got True"),
        ({"suite": "mini/clip", "method": "toy", "seed": "1e400"}, "seed: expected a whole number, got '1e400'"),
        ({"suite": "mini/clip", "method": "toy", "base": "${oc.env:HF_TOKEN}"},
         "base: ${oc.env:HF_TOKEN} is a resolver, and resolvers are refused: their values, secrets among them, would "
         "be written into records. Only ${key} of this recipe is known."),
        ({"suite": "mini/clip", "method": "toy", "base": "${method.densty}"},
         "base: there is no method.densty in this recipe for ${method.densty}."),
    ],
)  # fmt: skip
def test_a_problem_is_worded_with_its_key_and_what_to_do(document: dict[str, Any], line: str) -> None:
    assert problems_of(document) == [line]


def test_the_file_is_named_where_its_recipe_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("suite: mini/clip\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml is wrong:\n  method is missing"):
        Recipe.load(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: {c: 1, c: 2}\n", "line 2, column 11: the key 'c' is there twice"),
        ("a: 1\na: 2\n", "line 2, column 1: the key 'a' is there twice"),
        ("a: !!python/object:os.system x\n", "line 1, column 4: the tag tag:yaml.org,2002:python/object:os.system is"),
        ("a: !!int 5\n", "the tag tag:yaml.org,2002:int is not read"),
        ("~: 1\n", "line 1, column 1: a key must be text"),
        ("? [a]\n: 1\n", "a key must be text"),
        ("a: [1\n", "line 2, column 1: expected ',' or ']'"),
        ("a: 'x\n", "found unexpected end of stream"),
        ("- a\n", "is not a mapping of keys to values"),
        ("", "is not a mapping of keys to values"),
        ("a: 1\n---\nb: 2\n", "holds 2 YAML documents; one is read"),
        ("a: &a [*a]\n", "has more than 100000 entries or 50 levels, aliases included"),
        ("a: \x00\n", "is not YAML"),
        ("a: " + "[" * 3000, "is not YAML"),
        ("a: " + "[" * 60 + "]" * 60, "50 levels"),
        ("a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 10)}]\n" for i in range(8)
        ), "more than 100000 entries"),
    ],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_yaml_that_says_no_single_thing_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_document(text, "x.yaml")
    assert str(caught.value).startswith("x.yaml")
    assert message in str(caught.value)


def test_anchors_and_merge_keys_of_yaml_are_followed() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n"
    assert parse_document(text, "x.yaml") == {"a": {"x": "1", "y": "2"}, "b": {"x": "1", "y": "3"}}


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\xff\n")
    for name, message in [("none.yaml", "There is no file"), ("latin.yaml", "cannot be read"), ("", "cannot be read")]:
        with pytest.raises(ConfigError, match=message):
            read_document(tmp_path / name)


# what was built


def test_a_recipe_is_never_changed() -> None:
    recipe = load()
    with pytest.raises(pydantic.ValidationError):
        recipe.seed = 1  # type: ignore[misc]


def test_experts_keep_their_order() -> None:
    recipe = Recipe.load(None, ["experts={z: x, a: {model: y, head: h}, m: w}", "method=toy"])
    assert list(recipe.experts) == ["z", "a", "m"]
    again = Recipe.read(parse_document(recipe.to_yaml(), "x"))
    assert list(again.experts) == ["z", "a", "m"]
    assert recipe.dump()["experts"]["a"] == {"model": "y", "task": None, "adapter": None, "head": "h"}


def test_a_method_is_read_and_written_without_a_recipe() -> None:
    method = MethodConfig.read("toy")
    assert method.model_dump() == load().dump()["method"]
    assert MethodConfig.read(method.model_dump()) == method
    with pytest.raises(ConfigError, match=r"method\.scale: expected a number, got 'x'"):
        MethodConfig.read({"name": "toy", "scale": "x"})


text = st.text(min_size=1, max_size=12).filter(lambda item: "${" not in item)
names = st.from_regex(r"\A\w[\w .+@-]{0,8}\Z")
kept = st.floats(0, 1, exclude_min=True)
schedules = st.lists(
    st.fixed_dictionaries({"value": kept | st.lists(kept, min_size=1)}, optional={"filter": text}),
    min_size=1,
    max_size=3,
)
toys = st.fixed_dictionaries(
    {"name": st.just("toy")},
    optional={
        "compat": st.sampled_from([None, "paper", "fusion_bench", "mergekit"]),
        "density": kept | st.lists(kept, min_size=1) | st.dictionaries(names, kept | schedules, min_size=1) | schedules,
        "scale": st.floats(allow_nan=False, allow_infinity=False),
        "combine": st.sampled_from(["mean", "sum", "max"]),
        "steps": st.integers(1, 2**40),
        "clamp": st.booleans(),
        "note": st.none() | text,
        "grid": st.lists(st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text),
    },
)
experts = text | st.fixed_dictionaries({"model": text}, optional={"task": text, "adapter": text, "head": text})
unique = st.none() | st.lists(text, unique=True, max_size=3)
documents = st.fixed_dictionaries(
    {
        "experts": st.dictionaries(names, experts, min_size=1, max_size=3),
        "method": toys | st.fixed_dictionaries({"name": st.just("wrap"), "inner": toys}, optional={"gain": kept}),
    },
    optional={
        "suite": st.sampled_from(["mini/clip", {"name": "mini/clip", "size": "tiny", "seed": 3}]),
        "base": st.none() | text,
        "space": st.sampled_from(["dense", "adapter"]),
        "tasks": st.fixed_dictionaries({}, optional={"seen": unique, "split": st.sampled_from(["train", "test"])})
        | st.fixed_dictionaries(
            {"corruption": st.sampled_from(("contrast", "imagenet_c/spatter")), "severity": st.integers(1, 5)}
        ),
        "seed": st.integers(0, 2**63 - 1),
        "output": st.fixed_dictionaries(
            {}, optional={"model": st.booleans(), "folder": text, "shard_bytes": st.integers(1)}
        ),
        "runtime": st.fixed_dictionaries(
            {}, optional={"memory": st.none() | st.integers(1), "threads": st.integers(1, 99)}
        ),
    },
)


@settings(deadline=None)
@given(documents)
def test_a_recipe_written_as_yaml_reads_back_as_itself(document: dict[str, Any]) -> None:
    recipe = Recipe.read(document)
    again = Recipe.read(parse_document(recipe.to_yaml(), "x.yaml"))
    assert again == recipe
    assert again.to_yaml() == recipe.to_yaml()
    assert Recipe.read(recipe.dump()) == recipe
    assert Recipe.read(json.loads(json.dumps(recipe.dump()))) == recipe


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text("${}seed.toy:a1")
    | st.sampled_from(["toy", "wrap"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("a${name}value", max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["suite", "base", "experts", "tasks", "method", "seed", "output", "runtime", "x"]), anything
    ),
    st.dictionaries(st.sampled_from(["name", "density", "grid", "inner", "note", "compat", "steps"]), anything),
)
def test_any_document_is_a_recipe_or_refused_in_words(document: dict[str, Any], method: dict[str, Any]) -> None:
    for tried in (document, {**document, "experts": {"a": "x"}, "method": {"name": "toy", **method}}):
        found = outcome(lambda tried=tried: Recipe.read(tried))
        if isinstance(found, Recipe):
            assert Recipe.read(parse_document(found.to_yaml(), "x.yaml")) == found
        else:
            assert found.startswith("The recipe is wrong:\n  ")


@settings(deadline=None)
@given(st.text() | st.text("a: -[]{}&*!|>'\"\n#%@,?~<"))
def test_any_text_is_a_document_or_refused_in_words(text: str) -> None:
    found = outcome(lambda: parse_document(text, "x.yaml"))
    assert isinstance(found, dict) or found.startswith("x.yaml")


# identity


def named(*overrides: str, **changes: Any) -> str:
    recipe = Recipe.load(None, ["base=b", "experts={z: x, a: y}", "method=plain", *overrides])
    given: dict[str, Any] = {"inputs": {"base": "fp:1"}, "versions": {"plain": 1}, "build": None}
    return identity(recipe, **{**given, **changes})


def test_the_identity_is_the_hash_of_canonical_json() -> None:
    expert = '{{"adapter":null,"head":null,"model":"{}","task":null}}'
    canonical = (
        '{"build":null,"inputs":{"base":"fp:1"},"recipe":{"base":"b","batch_norm":"average","experts":'
        f'[["z",{expert.format("x")}],["a",{expert.format("y")}]],"family":"auto",'
        '"method":{"compat":null,"name":"plain"},"output":{"dtype":"base","format":"model","model":true,'
        '"shard_bytes":5000000000},"seed":0,"space":"dense","suite":null,"tasks":{"corruption":null,"limit":null,'
        '"seen":null,"severity":2,"split":"test","unseen":null}},"versions":{"plain":1}}'
    )
    assert named() == "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


@pytest.mark.parametrize(
    "override",
    ["runtime.threads=7", "runtime.device=cuda", "runtime.memory=1GB", "output.folder=x", "seed=0",
     "output.shard_bytes=5GB", "experts={z: {model: x}, a: y}", "method={name: plain}", "tasks.severity=2.0"],
)  # fmt: skip
def test_what_changes_no_number_is_not_in_the_identity(override: str) -> None:
    assert named(override) == named()


@pytest.mark.parametrize(
    "override",
    ["seed=1", "experts={a: y, z: x}", "experts.z=w", "experts.z.head=h", "method=toy", "base=null", "tasks.limit=9",
     "output.dtype=float32", "suite=mini/clip", "method.compat=paper"],
)  # fmt: skip
def test_what_may_change_a_number_is_in_the_identity(override: str) -> None:
    assert named(override) != named()


def test_inputs_versions_and_build_are_in_the_identity() -> None:
    others = [
        named(inputs={"base": "fp:2"}),
        named(versions={"plain": 2}),
        named(versions={"plain": 1, "digits": 1}),
        named(build="abc"),
    ]
    assert len({named(), *others}) == 5
    assert named(inputs={"a": "1", "b": "2"}) == named(inputs={"b": "2", "a": "1"})


# schema, shipped files, imports


def test_the_schema_of_recipes_is_the_pinned_one() -> None:
    assert recipe_schema(()) == json.loads(CONTRACT.read_text())


def test_the_schema_has_every_method_with_its_parameters() -> None:
    schema = recipe_schema()
    definitions = schema["$defs"]
    assert definitions["MethodConfig"]["oneOf"] == [
        {"$ref": f"#/$defs/method:{name}"} for name in ("plain", "toy", "wrap")
    ]
    method = definitions["method:toy"]
    assert method["additionalProperties"] is False
    assert method["properties"]["compat"]["enum"] == [None, "paper", "fusion_bench", "mergekit"]
    density, steps = method["properties"]["density"], method["properties"]["steps"]
    assert density["anyOf"][0] == {"type": "number", "exclusiveMinimum": 0, "maximum": 1}
    assert (density["default"], density["description"]) == (0.2, "share kept.")
    assert {"type": "object", "additionalProperties": {"anyOf": [density["anyOf"][0], density["anyOf"][2]]}} in density[
        "anyOf"
    ]
    assert steps["anyOf"][0] == {"type": "integer", "minimum": 1}
    assert method["properties"]["combine"]["anyOf"][0] == {"enum": ["mean", "sum", "max"]}
    assert {"type": "null"} in method["properties"]["note"]["anyOf"]
    assert definitions["method:wrap"]["required"] == ["name", "inner"]
    assert "default" not in definitions["method:wrap"]["properties"]["inner"]


@pytest.mark.parametrize("file", sorted(SHIPPED.rglob("*.yaml")), ids=lambda file: file.stem)
@pytest.mark.usefixtures("_real_index")
def test_every_shipped_preset_is_a_variant_of_a_method(file: Path) -> None:
    name = file.relative_to(SHIPPED).with_suffix("").as_posix()
    method = MethodConfig.read(name)
    assert method.name == name.partition("/")[0]
    typed = {key: value for key, value in read_document(file).items() if key not in ("name", "compat")}
    assert typed
    assert MethodConfig.read({"name": method.name, "compat": method.compat, **typed}) == method


@pytest.mark.usefixtures("_real_index")
def test_ties_of_the_index_is_what_its_spec_says() -> None:
    paper = MethodConfig.read("ties").params
    assert [paper[name] for name in ("density", "scale", "scope", "combine")] == [0.2, 1.0, "model", "mean"]
    theirs = MethodConfig.read("ties/fusion_bench")
    assert [theirs.params[name] for name in ("density", "scale", "scope", "combine")] == [0.2, 0.3, "model", "sum"]
    assert theirs.compat == "fusion_bench"


@pytest.mark.usefixtures("_real_index")
def test_a_user_s_own_variant_comes_before_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "presets/method/ties/fusion_bench.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("name: ties\nscale: 9\n")
    monkeypatch.chdir(tmp_path)
    assert MethodConfig.read("ties/fusion_bench") == MethodConfig.read({"name": "ties", "scale": 9})


def test_reading_recipes_needs_no_torch() -> None:
    code = (
        "import sys, fusionbench.config, fusionbench.compat; print(*{'torch', 'numpy', 'omegaconf'} & {*sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_a_launcher_that_is_not_there_and_a_severity_of_nothing_are_refused() -> None:
    start = ["experts.a=./a", "method=plain"]
    with pytest.raises(ConfigError, match=r"runtime\.launcher\.name.*'pigeons'"):
        Recipe.load(None, [*start, "runtime.launcher=pigeons"])
    with pytest.raises(ConfigError, match=r"tasks\.severity=4 .* there is none. Add tasks\.corruption"):
        Recipe.load(None, [*start, "tasks.severity=4"])
    both = Recipe.load(None, [*start, "tasks.severity=4", "tasks.corruption=contrast"])
    assert both.tasks.severity == 4
    assert Recipe.read(Recipe.load(None, start).dump()) == Recipe.load(None, start)
