"""Every published table has one experiment, and no experiment leans on a default."""

from collections import Counter

import pytest

from fusionbench.errors import ConfigError
from fusionbench.experiments.answer import Line
from fusionbench.experiments.claims import judged
from fusionbench.experiments.model import FIRST, Experiment, load_experiment, names, points, with_size
from fusionbench.experiments.printed import printed_of
from fusionbench.experiments.published import about, cells, files
from fusionbench.experiments.reproduce import _word
from fusionbench.registry import experiments, methods, suites
from fusionbench.suites.paper import describe, suite_of

NO_NUMBER = {
    "statistics", "coefficients", "logits", "routers", "deltas", "checkpoint_every", "evaluate_every", "adapter",
    "together",
}  # fmt: skip
"""Parameters that say where something is kept or how often it is told, and change no number; `together`
how much is held in memory at once, which changes no more than rounding."""


AGAINST_ITS_OWN_CLAIM = ("concrete-flan-t5-large-lora", "layer-wise concrete_adamerging")
"""The one printed table (87.5 against AdaMerging's 87.6) that contradicts what its paper says of all."""


def rows_of(experiment: Experiment):
    return points(experiment, stand_in=True)


def test_each_published_table_is_answered_by_exactly_one_experiment():
    named = Counter(file for name in names() for file in load_experiment(name).published)
    assert set(named) == set(files())
    assert len(files()) == 49
    assert set(named.values()) == {1}


def test_each_figure_is_named_once():
    named = Counter(figure for name in names() for figure in load_experiment(name).figures)
    assert set(named.values()) == {1}
    assert len(named) == 13


def test_the_index_lists_them_all():
    assert tuple(experiments) == names()


@pytest.mark.parametrize("name", names())
def test_every_parameter_that_changes_a_number_is_written_out(name):
    for row in load_experiment(name).rows:
        entry = methods[row.method["name"]]
        wanted = {p.name for p in entry.parameters} - NO_NUMBER
        # `plus_plus` decides whether its density counts, but both are written.
        assert wanted <= set(row.method), f"{row.label}: {sorted(wanted - set(row.method))}"


def test_corrupted_rows_say_how_strong_the_corruption_is():
    experiment = load_experiment("robustness-clip-b32")
    assert all(row.settings["tasks"] == {"severity": "2"} for row in experiment.rows)
    assert {(point.load().tasks.corruption, point.load().tasks.severity) for point in rows_of(experiment)} == {
        (None if word is None else str(word), 2) for word in experiment.vary["tasks.corruption"]
    }


@pytest.mark.parametrize("stand_in", [True, False])
@pytest.mark.parametrize("name", names())
def test_recipes_are_valid_on_the_stand_in_and_on_the_papers_suite(name, stand_in):
    experiment = load_experiment(name)
    assert experiment.stand_in["name"] in suites
    for point in points(experiment, stand_in=stand_in):
        recipe = point.load()
        assert recipe.method.name == point.row.method["name"]
        assert recipe.suite.name in suites


def test_adapters_of_t0_and_of_the_stand_in_are_merged_in_their_own_space():
    experiment = load_experiment("re-ties-ia3")
    for stand_in in (True, False):
        assert {point.load().space for point in points(experiment, stand_in=stand_in)} == {"adapter"}
    # Bare adapters have no gradients: Fisher merging says so. RegMean finds no map in them and averages.
    unavailable = {row.label for row in experiment.rows if row.unavailable}
    assert unavailable == {row.label for row in experiment.rows if row.no_stand_in} == {"fisher"}


def test_a_rows_own_setting_wins_over_that_of_all_rows():
    experiment = load_experiment("re-ties-ia3")
    own = experiment.rows[2].model_copy(update={"settings": {"space": "dense"}})
    changed = experiment.model_copy(update={"rows": (experiment.rows[2], own)})
    assert [point.load().space for point in points(changed, stand_in=True)] == ["adapter", "dense"]


def test_three_ways_of_tuning_run_the_same_methods():
    experiment = load_experiment("tuning-strategies-clip-b16")
    kinds: dict[str, list] = {}
    for point in points(experiment, stand_in=False):
        kinds.setdefault(point.load().suite.name, []).append(point.load().method)
    assert list(kinds) == ["clip-vit-b16/ta8", "clip-vit-b16/ta8-lora", "clip-vit-b16/ta8-l_lora"]
    full, lora, linearised = kinds.values()
    assert full == lora == linearised
    assert len(full) == 4


@pytest.mark.parametrize("name", names())
def test_every_row_finds_its_printed_cells_and_every_printed_method_has_a_row(name):
    experiment = load_experiment(name)
    if experiment.kind in ("transfer", "cosine"):
        return
    answered = set()
    for point in rows_of(experiment):
        if point.row.printed is not None:
            varied = {experiment.variant.get(key, key): _word(value) for key, value in point.values.items()}
            assert printed_of(experiment, point.row, varied), (point.row.label, varied)
            answered.add(point.row.printed.method)
    printed = {method for file in experiment.published for method in about(file)["methods"].split()}
    # A reference model that nobody fused, and rows of the overview's other settings.
    assert printed - answered <= {"reference", "pretrained"}


@pytest.mark.parametrize("name", [name for name in names() if load_experiment(name).vary])
def test_every_printed_point_of_what_varies_is_run(name):
    experiment = load_experiment(name)
    for key, values in experiment.vary.items():
        word = experiment.variant.get(key, key)
        variants = [dict(cell.variant) for file in experiment.published for cell in cells(file)]
        printed = {variant[word] for variant in variants if word in variant}
        assert printed <= {_word(value) for value in values}, key


def test_notes_are_whole_sentences():
    """A comma or a colon outside of quotes would have cut one in two."""
    notes = [(name, note) for name in names() for note in load_experiment(name).notes]
    assert [
        pair for pair in notes if not (pair[1][0] in "λ" or pair[1][0].isupper()) or not pair[1].endswith(".")
    ] == []


def test_claims_name_rows_that_are_there():
    for name in names():
        experiment = load_experiment(name)
        labels = {row.label for row in experiment.rows}
        for claim in experiment.claims:
            other = load_experiment(claim.lower_in) if claim.lower_in else experiment
            both = {claim.less} - {None}
            assert {claim.higher, *both} <= labels, (name, claim)
            assert {claim.lower, *both} <= {row.label for row in other.rows}, (name, claim)
            # Its rows are looked for among finished runs, of one point each.
            assert not claim.lower_in or not (other.vary or any(row.select for row in other.rows)), (name, claim)


def test_values_are_divided_by_those_of_a_row_that_comes_first():
    relative = {name: load_experiment(name) for name in names() if load_experiment(name).relative_to}
    assert set(relative) == {"number-of-tasks-t5-base", "number-of-tasks-t5-large"}
    assert all(experiment.rows[0].label == experiment.relative_to for experiment in relative.values())


@pytest.mark.parametrize("stand_in", [True, False])
@pytest.mark.parametrize("name", [name for name in names() if FIRST in load_experiment(name).vary])
def test_numbers_of_tasks_count_experts_that_are_named_in_their_order(name, stand_in):
    experiment = load_experiment(name)
    for point in points(experiment, stand_in=stand_in):
        whole = point.row.stand_in_part if stand_in else point.row.part
        named = whole.get("experts") or (experiment.stand_in if stand_in else experiment.suite)["experts"]
        assert len(set(named)) == 7
        assert list(point.load().suite.experts) == named[: int(point.values[FIRST])]


def test_the_orders_of_the_reproduction_begin_with_the_task_that_is_shown():
    experiment = load_experiment("task-orders-t5-base")
    orders = {row.label: row.part["experts"] for row in experiment.rows}
    assert orders == {
        "PAWS first": ["paws", "qasc", "quartz", "wiki_qa", "winogrande", "story_cloze", "wsc"],
        "QASC first": ["qasc", "paws", "quartz", "wiki_qa", "winogrande", "story_cloze", "wsc"],
        "QuaRTz first": ["quartz", "qasc", "paws", "wiki_qa", "winogrande", "story_cloze", "wsc"],
    }


def test_every_experiment_has_a_quick_profile_and_what_it_leaves_is_of_the_whole():
    for name in names():
        experiment = load_experiment(name)
        assert "quick" in experiment.shorter, name
        for profile, left in experiment.fewer.items():
            assert profile in experiment.shorter
            for key, values in left.items():
                assert set(values) < set(experiment.vary[key]), (name, key)


def test_profiles_change_only_parameters_that_methods_have():
    for name in names():
        for profile in load_experiment(name).shorter.values():
            for method, values in profile.items():
                assert set(values) <= {p.name for p in methods[method].parameters}, (name, method)


def test_adaptation_looks_at_the_inputs_that_are_scored_as_in_the_papers():
    """Of GLUE these are the hub's validation split, which is the suites' test split; their own is of training data."""
    rows = [(name, row) for name in names() for row in load_experiment(name).rows if "adapt_split" in row.method]
    assert {row.method["adapt_split"] for _, row in rows} == {"test"}
    assert sum("flan-t5" in name for name, _ in rows) == 8


def test_the_three_experts_of_the_mistral_table_have_rows_of_their_own():
    experiment = load_experiment("mistral-7b")
    printed = {row.label: printed_of(experiment, row, {}) for row in experiment.rows if "expert" in row.label}
    assert [(label, values["gsm8k"]) for label, values in printed.items()] == [
        ("expert 1 (MetaMath-Mistral-7B)", 71.49),
        ("expert 2 (dolphin-2.1-mistral-7b)", 56.93),
        ("expert 3 (speechless-code-mistral-7b-v1.0)", 48.98),
    ]
    suite = suite_of("mistral-7b/three-experts", describe("mistral-7b/three-experts"))
    order = [expert.model.partition("/")[2] for expert in suite.pool.experts.values()]
    for row in experiment.rows:
        if "expert" in row.label:
            weights = [float(weight) for weight in row.method["weights"]]
            chosen = weights.index(1.0)
            assert row.label == f"expert {chosen + 1} ({order[chosen]})"
            assert sum(weights) == 1.0


def test_fused_rows_of_the_mistral_table_are_of_float16_as_the_papers():
    rows = load_experiment("mistral-7b").rows
    assert {row.label for row in rows if row.settings != {"output": {"dtype": "float16"}}} == {"pretrained"}


def test_the_fisher_rows_of_the_table_with_gpt2_take_512_examples_in_eights():
    rows = {row.label: row.method for row in load_experiment("multi-task-gpt2").rows}
    assert (rows["fisher"]["examples"], rows["fisher"]["batch"]) == ("512", "8")
    assert rows["regmean"]["off_diagonal"] == "0.6"


def test_fisher_rows_take_mergelms_estimator_but_of_choices_of_texts():
    """These predict no distribution over classes; a run on stand-ins of the papers' suites found it out."""
    rows = [(name, row) for name in names() for row in load_experiment(name).rows if row.method["name"] == "fisher"]
    others = {name for name, row in rows if row.method["estimator"] != "mergelm"}
    assert others == {"re-ties-t5-base", "re-ties-t5-large"}


def test_a_wrong_name_or_profile_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean multi-task-clip-b32"):
        load_experiment("multi-task-clip-b23")
    with pytest.raises(ConfigError, match="Did you mean quick"):
        list(points(load_experiment("multi-task-clip-b32"), stand_in=True, profile="quik"))


def test_a_wrong_size_is_told_before_anything_is_run():
    experiment = load_experiment("multi-task-clip-b32")
    assert with_size(experiment, "tiny").stand_in == {"name": "mini/clip", "size": "tiny"}
    with pytest.raises(ConfigError, match="--size huge: a stand-in is tiny, small or large"):
        with_size(experiment, "huge")


def test_cells_in_doubt_are_no_targets():
    doubtful = [cell for file in files() for cell in cells(file) if cell.note and not cell.sound]
    assert doubtful
    sound = [cell for cell in cells("fusionbench-v2_table03_clip-vit-b32_multi-task.csv") if cell.sound]
    assert any(cell.note.startswith("label") for cell in sound)


def printed_lines(experiment: Experiment) -> list[Line]:
    lines = []
    for point in points(experiment, stand_in=False):
        varied = {experiment.variant.get(key, key): _word(value) for key, value in point.values.items()}
        lines.append(Line(point.row.label, varied, {}, printed_of(experiment, point.row, varied), {}))
    return lines


@pytest.mark.parametrize("name", [name for name in names() if load_experiment(name).claims])
def test_what_a_paper_claims_holds_in_its_own_numbers(name):
    experiment = load_experiment(name)
    others = {claim.lower_in for claim in experiment.claims if claim.lower_in}
    elsewhere = {other: printed_lines(load_experiment(other)) for other in others}
    for claim in judged(experiment, printed_lines(experiment), elsewhere=elsewhere):
        if claim.printed is not None:
            contradicted = (name, claim.higher) == AGAINST_ITS_OWN_CLAIM
            assert (claim.printed[0] > claim.printed[1]) != contradicted, claim
