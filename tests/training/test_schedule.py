import pytest

from fusionbench.errors import ConfigError
from fusionbench.training import Steps


def factors(steps: Steps) -> list[float]:
    return [steps.factor(step) for step in range(steps.count)]


def test_the_constant_schedule_is_one_throughout():
    assert factors(Steps(3)) == [1.0, 1.0, 1.0]


def test_the_warm_up_rises_by_equal_parts_and_reaches_one():
    assert factors(Steps(5, warmup=4)) == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_the_cosine_has_its_known_values_at_quarters():
    # p = 0, 1/4, 1/2, 3/4: (1 + cos πp) / 2 = 1, .853553, .5, .146447
    assert factors(Steps(4, "cosine")) == pytest.approx([1.0, 0.8535534, 0.5, 0.1464466])


def test_the_linear_schedule_falls_by_equal_parts_after_the_warm_up():
    # two warm-up steps, then p = 0, 1/4, 1/2, 3/4
    assert factors(Steps(6, "linear", warmup=2)) == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25])


def test_the_floor_is_what_is_left_at_the_end():
    # halfway of the linear fall from 1 to .2
    assert Steps(4, "linear", floor=0.2).factor(2) == pytest.approx(0.6)
    assert Steps(10, "cosine", floor=0.05).factor(10) == pytest.approx(0.05)


def test_the_step_schedule_falls_by_its_factor_every_so_many_steps_after_the_warm_up():
    assert factors(Steps(7, "step", warmup=1, decay=(2, 0.5))) == [1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"schedule": "step"}, "needs decay"),
        ({"decay": (2, 0.5)}, "no other schedule"),
        ({"schedule": "step", "decay": (0, 0.5)}, r"\(0, 0\.5\) was given"),
        ({"schedule": "step", "decay": (2, 1.5)}, "at most 1"),
        ({"schedule": "cosin"}, "'cosin'.*cosine"),
        ({"count": -1}, "count.*-1"),
        ({"accumulate": 0}, "accumulate"),
        ({"floor": 1.5}, "1.5.*0 to 1"),
    ],
)
def test_values_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        Steps(**{"count": 4, **wrong})
