"""Claims on numbers that are worked out by hand, and the claim that spans two tables."""

import pytest

from fusionbench.experiments.answer import Line, Value
from fusionbench.experiments.claims import judged
from fusionbench.experiments.model import Experiment
from fusionbench.experiments.rendering import claims_of
from fusionbench.experiments.reproduce import Answer


def line(label: str, ours: float, printed: float) -> Line:
    return Line(label, {}, {"average": Value(ours)}, {"average": printed}, {})


def claiming(*claims: dict[str, object], **more: object) -> Experiment:
    suite = {"name": "mini/clip"}
    return Experiment.read(
        {"name": "x", "title": "x", "paper": "none", "suite": suite, "stand_in": suite, "claims": list(claims), **more},
        "x",
    )


def test_claims_are_judged_by_averages_and_missing_rows_leave_them_open():
    experiment = claiming(
        {"text": "a beats b", "higher": "a", "lower": "b"}, {"text": "b beats c", "higher": "b", "lower": "c"}
    )
    first, second = judged(experiment, [line("a", 1.0, 5.0), line("b", 2.0, 2.0), line("b", 4.0, 4.0)])
    assert (first.ours, first.printed, first.holds) == ((1.0, 3.0), (5.0, 3.0), False)
    assert (second.ours, second.printed, second.holds) == (None, None, None)


@pytest.mark.parametrize(("lower", "close"), [(60.0, False), (61.0, True)])
def test_a_claim_whose_values_chance_may_have_ordered_is_told_as_close(lower, close):
    experiment = claiming({"text": "a beats b", "higher": "a", "lower": "b"})
    lines = [
        Line("a", {}, {"average": Value(70.0, None, 3.0)}, {}, {}),
        Line("b", {}, {"average": Value(lower - 1.0, None, 4.0 * 2**0.5)}, {}, {}),
        Line("b", {}, {"average": Value(lower + 0.8, None, 4.0 * 2**0.5)}, {}, {}),
    ]
    (found,) = judged(experiment, lines)
    # The mean of two with 4·√2 each has 4: √(3² + 4²) = 5; two of them are 10, the values 10.1 or 9.1 apart.
    assert found.stderr == pytest.approx(5.0)
    assert (found.holds, found.close) == (True, close)


def test_claims_may_be_of_other_columns_and_of_points_of_a_curve():
    experiment = claiming(
        {"text": "worse unseen", "higher": "a", "lower": "a", "lower_column": "unseen_average", "at": {"k": "1"}},
        {"text": "falls", "higher": "a", "lower": "a", "column": "theirs", "at": {"k": "1"}, "lower_at": {"k": "2"}},
        tasks={"theirs": "own"},
    )
    lines = [
        Line(
            "a",
            {"k": "1"},
            {"average": Value(9.0), "unseen_average": Value(4.0), "own": Value(7.0)},
            {"theirs": 70.0},
            {},
        ),
        Line(
            "a",
            {"k": "2"},
            {"average": Value(1.0), "unseen_average": Value(8.0), "own": Value(5.0)},
            {"theirs": 80.0},
            {},
        ),
    ]
    unseen, falls = judged(experiment, lines)
    assert (unseen.ours, unseen.higher, unseen.lower) == ((9.0, 4.0), "a k=1", "a on unseen_average k=1")
    assert (falls.ours, falls.printed, falls.holds) == ((7.0, 5.0), (70.0, 80.0), True)
    unseen, falls = judged(experiment, lines, same_tasks=False)
    # On a stand-in a task is another one, even where it has the same name; averages may be compared.
    assert (unseen.holds, falls.holds) == (True, None)


GAP = {"text": "The gap is larger here.", "higher": "alone", "less": "ties", "lower": "alone", "lower_in": "other"}


def test_gaps_to_the_same_row_are_compared_across_two_experiments():
    here = [
        Line("alone", {}, {"average": Value(90.0, None, 0.3)}, {"average": 90.5}, {}),
        Line("ties", {}, {"average": Value(70.0, None, 0.4)}, {"average": 72.0}, {}),
    ]
    there = [
        Line("alone", {}, {"average": Value(94.0, None, 0.0)}, {"average": 94.5}, {}),
        Line("ties", {}, {"average": Value(84.0, None, 1.2)}, {"average": 84.0}, {}),
    ]
    (found,) = judged(claiming(GAP), here, same_tasks=False, elsewhere={"other": there})
    assert (found.higher, found.lower) == ("alone − ties", "alone − ties of other")
    assert (found.ours, found.printed, found.holds) == ((20.0, 10.0), (18.5, 10.5), True)
    # √(.3² + .4² + 0² + 1.2²)
    assert found.stderr == pytest.approx(1.3)
    (other_way,) = judged(claiming(GAP), there, elsewhere={"other": here})
    assert (other_way.ours, other_way.holds) == ((10.0, 20.0), False)


def test_what_has_to_be_run_first_is_said():
    experiment = claiming(GAP)
    lines = [line("alone", 90.0, 90.0), line("ties", 70.0, 70.0)]
    for elsewhere in ({}, {"other": lines[:1]}):
        found = judged(experiment, lines, elsewhere=elsewhere)
        # However many pairs of rows wait for it, it is said once.
        (said,) = claims_of(Answer(experiment, "mini", None, (0,), claims=(*found, *found)))
        assert said == (
            "The gap is larger here. It cannot be said here before other is run, too: "
            "fusionbench reproduce other --suite mini; then run this again."
        )
