"""What tells runs of one method apart."""

from collections.abc import Callable

from fusionbench.records import MethodRef, Report, Run, Variant
from fusionbench.report.labels import entries_of, labels_of, order_of, shown

MakeRun = Callable[..., Run]


def labels(*runs: Run) -> list[str]:
    return labels_of(entries_of(runs))


def test_a_method_that_ran_once_is_its_name(make_accuracies: MakeRun) -> None:
    assert labels(make_accuracies("a", "ties", {"x": 0.5}, params={"scale": 0.3})) == ["ties"]


def test_only_parameters_that_differ_within_a_method_are_named(make_accuracies: MakeRun) -> None:
    runs = [
        make_accuracies("a", "ties", {"x": 0.5}, params={"scale": 0.3, "density": 0.2}),
        make_accuracies("b", "ties", {"x": 0.5}, params={"scale": 1.0, "density": 0.2}),
        make_accuracies("c", "dare", {"x": 0.5}, params={"density": 0.9}),
    ]
    assert labels(*runs) == ["ties (scale=0.3)", "ties (scale=1.0)", "dare"]


def test_nested_parameters_lists_and_words_are_written_as_in_a_recipe(make_accuracies: MakeRun) -> None:
    runs = [
        make_accuracies("a", "ties", {"x": 0.5}, params={"weights": {"x": 1}, "combine": "sum", "layers": [1, 2]}),
        make_accuracies("b", "ties", {"x": 0.5}, params={"weights": {"x": 2}, "combine": "mean", "layers": None}),
    ]
    assert labels(*runs) == ["ties (combine=sum, layers=[1, 2], weights.x=1)", "ties (combine=mean, weights.x=2)"]


def test_seeds_and_keys_of_the_recipe_tell_apart_too(make_accuracies: MakeRun) -> None:
    corrupted = {"tasks": {"corruption": "motion_blur"}, "runtime": {"threads": 7}, "output": {"folder": "z"}}
    plain = {"tasks": {"corruption": None}, "runtime": {"threads": 1}}
    runs = [
        make_accuracies("a", "ties", {"x": 0.5}, recipe=plain),
        make_accuracies("b", "ties", {"x": 0.4}, recipe=corrupted, seed=1),
    ]
    assert labels(*runs) == ["ties (seed=0)", "ties (tasks.corruption=motion_blur, seed=1)"]


def test_a_choice_of_experts_is_named_by_their_names(make_accuracies: MakeRun) -> None:
    two = {"suite": {"name": "mini/clip", "size": "small", "seed": 0, "experts": ["x", "y"]}}
    own = {"experts": {"x": {"model": "somewhere/long"}}}
    runs = [make_accuracies("a", "ties", {"x": 0.5}, recipe=two), make_accuracies("b", "ties", {"x": 0.4}, recipe=own)]
    assert labels(*runs) == ["ties (suite.experts=[x, y], experts=[])", "ties (experts=[x])"]


def test_runs_that_read_the_same_get_the_start_of_their_identity(make_accuracies: MakeRun) -> None:
    runs = [
        make_accuracies("a", "ties", {"x": 0.5}, identity="sha256:0123456789"),
        make_accuracies("b", "ties", {"x": 0.4}, identity="sha256:abcdef0123"),
    ]
    assert labels(*runs) == ["ties #01234567", "ties #abcdef01"]


def test_equal_reports_count_once(make_accuracies: MakeRun) -> None:
    runs = [make_accuracies(folder, "ties", {"x": 0.5}, identity="sha256:00") for folder in ("a", "b")]
    assert labels(*runs) == ["ties"]


def test_variants_are_told_apart_by_label_or_by_parameters(make_accuracies: MakeRun) -> None:
    run = make_accuracies("a", "adamerging", {"x": 0.5})

    def with_variants(*variants: Variant) -> Run:
        method = MethodRef(name="adamerging", inner=MethodRef(name="ties"))
        return Run(run.folder, Report.build(identity="i", method=method, variants=variants, metrics={}), None, "")

    assert labels(with_variants(Variant(params={"steps": 1}), Variant(params={"steps": 2}))) == [
        "adamerging (steps=1)",
        "adamerging (steps=2)",
    ]
    named = with_variants(Variant(label="first", params={"steps": 1}), Variant(label="last", params={"steps": 2}))
    assert labels(named) == ["adamerging (first)", "adamerging (last)"]


def test_a_recipe_that_cannot_be_read_adds_nothing(make_accuracies: MakeRun) -> None:
    run = make_accuracies("a", "ties", {"x": 0.5})
    for text in ("{", "- a\n- b\n", ""):
        (entry,) = entries_of([Run(run.folder, run.report, run.info, text)])
        assert "tasks.corruption" not in entry.settings
        assert entry.settings["seed"] == 0


def test_settings_sort_numbers_by_size_after_none_and_before_words() -> None:
    assert sorted(["sum", 10, None, 0.5, "mean", 2], key=order_of) == [None, 0.5, 2, 10, "mean", "sum"]


def test_values_are_shown_as_typed() -> None:
    assert [shown(value) for value in (True, None, 0.1, "a b", ["x", 1])] == ["true", "null", "0.1", "a b", "[x, 1]"]


def test_numbers_have_as_few_digits_as_tell_them_apart(make_accuracies):
    scales = {"a": 0.5488135039273248, "b": 0.548830012, "c": 0.25, "d": 3, "e": 1e-06, "f": 1000.0}
    runs = [make_accuracies(name, "ties", {"x": 0.5}, params={"scale": scale}) for name, scale in scales.items()]
    assert labels(*runs) == [
        "ties (scale=0.54881)", "ties (scale=0.54883)", "ties (scale=0.25)", "ties (scale=3)", "ties (scale=1e-06)",
        "ties (scale=1000.0)",
    ]  # fmt: skip


def test_lists_of_numbers_are_shortened_too(make_accuracies):
    runs = [
        make_accuracies(name, "ties", {"x": 0.5}, params={"weights": weights})
        for name, weights in (("a", [0.123456789, 1.0]), ("b", [0.333333333, 1.0]))
    ]
    assert labels(*runs) == ["ties (weights=[0.1235, 1.0])", "ties (weights=[0.3333, 1.0])"]


def test_numbers_that_differ_in_the_last_digit_only_stay_whole(make_accuracies):
    runs = [
        make_accuracies(name, "ties", {"x": 0.5}, params={"scale": scale})
        for name, scale in (("a", 0.1), ("b", 0.1 + 2**-56))
    ]
    assert labels(*runs) == ["ties (scale=0.1)", "ties (scale=0.10000000000000002)"]
