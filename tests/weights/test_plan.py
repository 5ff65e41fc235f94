import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fusing import plan_for
from fusionbench.errors import ConfigError
from fusionbench.registry import methods
from fusionbench.weights.plan import Site, gradient, seed_of, settled

NAMES = [
    "embed.weight",
    *(f"encoder.layers.{i}.{part}" for i in range(3) for part in ("mlp.weight", "attn.weight")),
    "norm.bias",
]
MODEL = {name: torch.zeros(2, 2) for name in NAMES}
EXPERTS = {"digits": MODEL, "signs": MODEL}


def values(parameters, name: str, method: str = "task_arithmetic"):
    """What a parameter resolves to, for each tensor of a small model."""
    plan = plan_for(method, MODEL, EXPERTS, parameters)
    return {step.output.name: step.parameters[name] for step in plan}


def site(depth: int | None, depths: int) -> Site:
    return Site("t", (), 0, "matrix", True, "", depth, depths, ("a",), 0)


def test_one_value_serves_every_tensor_and_every_expert():
    assert set(values({"scale": 0.5}, "scale").values()) == {0.5}
    assert set(values({"weights": 2.0}, "weights").values()) == {(2.0, 2.0)}


def test_a_list_gives_each_expert_its_value_in_their_order():
    assert set(values({"weights": [1, -1]}, "weights").values()) == {(1, -1)}


def test_a_mapping_gives_each_expert_its_value_by_name():
    assert set(values({"weights": {"signs": 3, "digits": 2}}, "weights").values()) == {(2, 3)}


def test_the_first_entry_whose_filter_is_in_the_name_wins():
    found = values(
        {"scale": [{"value": 0.1, "filter": "mlp"}, {"value": 0.2, "filter": "layers.0."}, {"value": 0.3}]}, "scale"
    )
    assert found["encoder.layers.0.mlp.weight"] == 0.1
    assert found["encoder.layers.2.mlp.weight"] == 0.1
    assert found["encoder.layers.0.attn.weight"] == 0.2
    assert found["encoder.layers.1.attn.weight"] == 0.3
    assert found["embed.weight"] == 0.3


def test_a_star_filters_nothing():
    found = values({"scale": [{"value": 0.1, "filter": "mlp"}, {"value": 0.2, "filter": "*"}]}, "scale")
    assert found["embed.weight"] == 0.2


def test_a_tensor_that_no_entry_matches_is_an_error_that_names_it():
    with pytest.raises(ConfigError, match=r"method\.scale has no value for embed\.weight"):
        values({"scale": [{"value": 0.1, "filter": "layers"}]}, "scale")


def test_a_table_that_mergekit_s_modules_of_two_stacks_leave_out_is_named_as_a_module():
    halves = [{"value": 0.1, "filter": ["encoder.", "mlp"]}, {"value": 0.2, "filter": "encoder."}]
    with pytest.raises(ConfigError, match=r"no value for embed\.weight: .* no filter\.$"):
        values({"scale": halves}, "scale")
    halves.append({"value": 0.3, "filter": "decoder."})
    with pytest.raises(ConfigError, match=r"no value for embed\.weight: .* add modules\.shared"):
        values({"scale": halves}, "scale")


def test_a_list_in_a_schedule_is_a_gradient_over_the_blocks():
    found = values({"scale": [{"value": [0.0, 1.0]}]}, "scale")
    assert [found[f"encoder.layers.{i}.mlp.weight"] for i in range(3)] == [0.0, 0.5, 1.0]
    assert found["embed.weight"] == 0.0


def test_experts_may_have_a_schedule_each():
    found = values({"weights": {"digits": [{"value": 1, "filter": "mlp"}, {"value": 2}], "signs": 5}}, "weights")
    assert found["encoder.layers.0.mlp.weight"] == (1, 5)
    assert found["norm.bias"] == (2, 5)


def test_a_list_may_hold_a_schedule_for_one_expert():
    found = values({"weights": [5, [{"value": [0.0, 2.0]}]]}, "weights")
    assert [found[f"encoder.layers.{i}.attn.weight"] for i in range(3)] == [(5, 0.0), (5, 1.0), (5, 2.0)]


def test_one_schedule_for_all_experts_gives_each_its_value():
    found = values({"weights": [{"value": 1, "filter": "mlp"}, {"value": 2}]}, "weights")
    assert found["encoder.layers.0.mlp.weight"] in (1, (1, 1))
    assert found["embed.weight"] in (2, (2, 2))


@pytest.mark.parametrize(
    ("depth", "depths", "points", "expected"),
    [
        (0, 5, [0.0, 1.0], 0.0),
        (4, 5, [0.0, 1.0], 1.0),
        (2, 5, [0.0, 1.0], 0.5),
        (1, 5, [0.0, 1.0], 0.25),
        (1, 5, [0.0, 1.0, 0.0], 0.5),
        (2, 5, [0.0, 1.0, 0.0], 1.0),
        (3, 5, [0.0, 1.0, 0.0], 0.5),
        (3, 4, [1.0, 2.0, 5.0, 9.0], 9.0),
        (2, 4, [1.0, 2.0, 5.0, 9.0], 5.0),
        (0, 1, [0.0, 1.0], 1.0),
        (None, 4, [3.0, 1.0], 3.0),
        (2, 3, [7.0], 7.0),
    ],
)
def test_a_gradient_is_linear_between_its_points(depth, depths, points, expected):
    assert gradient(points, site(depth, depths)) == pytest.approx(expected, abs=1e-12)


@given(
    st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n - 1), st.just(n))),
    st.lists(st.floats(-10, 10), min_size=1, max_size=70),
)
def test_a_gradient_stays_between_its_smallest_and_its_largest_point(place, points):
    value = gradient(points, site(*place))
    assert min(points) - 1e-9 <= value <= max(points) + 1e-9


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"weights": [1, 2, 3]}, "3 values for the 2 experts digits, signs"),
        ({"weights": []}, "0 values"),
        ({"weights": {"digits": 1}}, "names signs"),
        ({"weights": {"digits": 1, "signs": 1, "sings": 1}}, "names sings"),
        ({"scale": [{"value": []}]}, "scale"),
        ({"weights": {"digits": {"signs": 1}, "signs": 1}}, "weights"),
        ({"weights": {"digits": [1, 2], "signs": 1}}, "weights"),
        ({"weights": [[1, 2], 1]}, "weights"),
        ({"scale": {"digits": 1, "signs": 1}}, "scale"),
        ({"scale": [{"value": "high"}]}, "scale"),
    ],
    ids=range(10),
)
def test_values_that_fit_no_expert_or_tensor_are_errors(parameters, words):
    with pytest.raises(ConfigError, match=words):
        values(parameters, "scale")


@pytest.mark.parametrize("name", ["scope", "combine", "elect_on", "trim", "keep", "zero_sign"])
def test_a_choice_is_one_for_the_whole_model(name):
    first = {"scope": "tensor", "combine": "sum", "elect_on": "weighted", "trim": "magnitude"}
    choice = first.get(name, "exact" if name == "keep" else "zero")
    with pytest.raises(ConfigError, match=f"method.{name}"):
        values({name: [{"value": choice}]}, name, "ties")


STATISTICS = {
    "bn.weight": torch.ones(2),
    "bn.running_mean": torch.zeros(2),
    "bn.running_var": torch.ones(2),
    "bn.num_batches_tracked": torch.tensor(3),
    "mask": torch.ones(2, dtype=torch.bool),
}


@pytest.mark.parametrize(
    ("policy", "action"),
    [("average", "batch_norm"), ("keep_base", "copy"), ("recalibrate", "batch_norm"), ("as_parameters", "merge")],
)
def test_batch_norm_statistics_go_where_the_policy_sends_them(policy, action):
    plan = plan_for("task_arithmetic", STATISTICS, {"x": STATISTICS}, batch_norm=policy)
    assert {step.output.name: step.action for step in plan} == {
        "bn.weight": "merge",
        "bn.running_mean": action,
        "bn.running_var": action,
        "bn.num_batches_tracked": "copy",
        "mask": "copy",
    }


def test_what_is_outside_the_tower_is_copied_and_stays_in_its_place():
    plan = plan_for("task_arithmetic", MODEL, EXPERTS, tower="encoder.")
    assert [step.output.name for step in plan] == NAMES
    actions = {step.output.name: step.action for step in plan}
    assert actions["embed.weight"] == "copy"
    assert actions["encoder.layers.0.mlp.weight"] == "merge"


def test_the_output_takes_the_kind_that_is_asked_for_where_it_is_a_number_with_a_point():
    plan = plan_for("task_arithmetic", STATISTICS, {"x": STATISTICS}, dtype="BF16")
    assert {step.output.name: step.output.dtype for step in plan} == {
        "bn.weight": "BF16",
        "bn.running_mean": "BF16",
        "bn.running_var": "BF16",
        "bn.num_batches_tracked": "I64",
        "mask": "BOOL",
    }


def test_a_method_is_told_where_its_tensor_stands():
    steps = {s.output.name: s.site for s in plan_for("ties", MODEL, EXPERTS, config={"model_type": "x"}, seed=4)}
    block = steps["encoder.layers.1.attn.weight"]
    assert (block.depth, block.depths, block.stack, block.role) == (1, 3, "", "matrix")
    assert (block.shape, block.start, block.experts) == ((2, 2), 0, ("digits", "signs"))
    assert block.seed == seed_of(4, "ties")
    assert steps["embed.weight"].depth is None


def test_seeds_differ_between_runs_and_between_methods_and_never_otherwise():
    assert len({seed_of(seed, method) for seed in range(20) for method in ("ties", "dare")}) == 40
    # The first eight bytes of SHA-256 of "0/ties", without the lowest bit.
    assert seed_of(0, "ties") == 0x1AC0B66EE2D7C973 >> 1
    assert all(0 <= seed_of(seed, "ties") < 2**63 for seed in range(50))


def test_without_a_base_the_first_expert_gives_names_and_is_no_base():
    plan = plan_for("simple_average", None, EXPERTS)
    assert [source.label for source in plan.sources] == ["digits", "signs"]
    assert all(step.base is None for step in plan if step.action == "merge")
    assert all([i.source for i in step.experts] == [0, 1] for step in plan)


def test_without_a_base_what_is_not_merged_comes_from_the_first_expert():
    plan = plan_for("simple_average", None, {"x": STATISTICS, "y": STATISTICS})
    copied = {step.output.name: step.base for step in plan if step.action == "copy"}
    assert set(copied) == {"bn.num_batches_tracked", "mask"}
    assert all(place is not None and place.source == 0 for place in copied.values())


def test_where_whole_models_are_given_each_expert_has_its_value_and_nothing_varies():
    known = methods["weighted_ensemble"].parameters

    def found(**given):
        return settled(known, given, ("digits", "signs"))

    assert found(weights={"signs": 3, "digits": 2}, over="logits") == {"weights": (2, 3), "over": "logits"}
    assert found(weights=2.0, trials=4) == {"weights": (2.0, 2.0), "trials": 4}
    assert found(weights=None) == {"weights": None}
    for schedule in ([{"value": 1}], [1, [{"value": 1}]], {"digits": 1, "signs": [{"value": 1}]}):
        with pytest.raises(ConfigError, match=r"method\.weights differs .* or one an expert\.$"):
            found(weights=schedule)
    with pytest.raises(ConfigError, match=r"method\.trials differs .* for the whole model\.$"):
        found(trials=[{"value": 1}])
