"""The papers' own suites: every published model is counted, and every description can be read."""

import hashlib
import re

import pytest
import yaml

from fusionbench.cache import cache_folder
from fusionbench.config import Recipe
from fusionbench.errors import CheckpointError, ConfigError
from fusionbench.experiments.model import load_experiment
from fusionbench.experiments.model import names as experiments
from fusionbench.registry import suites, tasks
from fusionbench.run.setting import resolve
from fusionbench.suites import Suite, load_suite
from fusionbench.suites.paper import check_origins, describe, names, suite_of
from fusionbench.suites.tasks import task_spec
from fusionbench.tasks.class_lists import class_list

GLUE = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2")
TA8 = ("sun397", "stanford_cars", "resisc45", "eurosat", "svhn", "gtsrb", "mnist", "dtd")
# Table 2 of arXiv:2406.03280: models by pool.
TABLE_2 = {
    "openclip-vit-b32/ta8": 8,
    "openclip-vit-b16/ta8": 8,
    "openclip-vit-l14/ta8": 8,
    "clip-vit-b32/ta8": 8,
    "clip-vit-l14/ta8": 8,
    "resnet50/nyuv2": 3,
    "gpt2/glue7": 7,
    "flan-t5-base/glue8": 8,
    "flan-t5-base/glue8-lora": 8,
    "flan-t5-large/glue8-lora": 8,
}


def read(name: str) -> Suite:
    return suite_of(name, describe(name))


def test_the_74_experts_and_26_tasks_of_the_benchmarks_table_are_there():
    """Of these, 24 OpenCLIP files and 3 ResNet-50s are not on the hub.

    Not in the table, and here: the pools of 14 and 20 tasks, of ViT-B/16 (whole, LoRA, linearised LoRA), T5, T0-3B and
    Mistral.
    """
    found = {name: len(read(name).pool.experts) for name in TABLE_2}
    assert found == TABLE_2
    assert sum(found.values()) == 74
    kinds = {
        "image": {task for name in TABLE_2 if "clip" in name for task in read(name).tasks.tasks},
        "scene": set(read("resnet50/nyuv2").tasks.tasks),
        "classification": set(read("gpt2/glue7").tasks.tasks),
        "text to text": {task for name in TABLE_2 if name.startswith("flan") for task in read(name).tasks.tasks},
    }
    assert {kind: len(of) for kind, of in kinds.items()} == {
        "image": 8, "scene": 3, "classification": 7, "text to text": 8,
    }  # fmt: skip
    on_the_hub = [name for name in TABLE_2 if not read(name).origins]
    assert sum(TABLE_2[name] for name in on_the_hub) == 74 - 24 - 3


@pytest.mark.parametrize("name", names())
def test_every_suite_is_registered_and_its_tasks_can_be_read(name):
    suite = read(name)
    assert suites[name].summary == describe(name).summary
    assert set(suite.tasks.tasks) <= {*suite.pool.experts, *suite.unseen}
    for task in suite.tasks.tasks:
        assert task_spec(suite, task).kind in tasks
    for method in suite.method_defaults:
        Recipe.load(None, [f"suite={name}", f"method={method}"])


def test_every_experiments_suite_is_there_with_the_experts_that_it_names():
    for experiment in map(load_experiment, experiments()):
        suite = read(experiment.suite["name"])
        parts = [experiment.suite, *({**experiment.suite, **row.part} for row in experiment.rows)]
        for part in parts:
            chosen = {key: tuple(part[key]) if key in part else None for key in ("experts", "unseen")}
            assert suite.restricted(**chosen).seen or suite.name == "mistral-7b/three-experts"


@pytest.mark.parametrize("name", names())
def test_every_model_and_data_set_says_how_it_is_had(name):
    """An id of the hub, or a local file with its source; a local model that nobody publishes has the command."""
    suite = read(name)
    models = {"base": str(suite.pool.base)}
    models |= {key: str(expert.adapter or expert.model) for key, expert in suite.pool.experts.items()}
    for key, reference in models.items():
        origin = suite.origins.get(key)
        if origin is None:
            assert re.fullmatch(r"([\w.-]+/)?[\w.-]+(@[\w.-]+)?", reference), (key, reference)
        else:
            assert reference.startswith(str(cache_folder("models")))
            assert ("not published" in origin.source) == (origin.make is not None), key
    for task in suite.tasks.tasks:
        dataset = task_spec(suite, task).dataset
        assert dataset.startswith(str(cache_folder("models"))) or re.fullmatch(r"[\w.-]+(/[\w.-]+)?", dataset), task


def test_published_ids():
    b32 = read("clip-vit-b32/ta8")
    assert b32.pool.base == "openai/clip-vit-base-patch32"
    assert tuple(b32.pool.experts) == TA8
    assert b32.pool.experts["stanford_cars"].model == "tanganke/clip-vit-base-patch32_stanford-cars"
    twenty = read("clip-vit-l14/ta20").pool.experts
    assert list(twenty)[8:] == [
        "oxford_flowers102", "pcam", "fer2013", "oxford_iiit_pet", "stl10", "cifar100",
        "cifar10", "food101", "fashion_mnist", "emnist_letters", "kmnist", "rendered_sst2",
    ]  # fmt: skip
    assert twenty["rendered_sst2"].model == "tanganke/clip-vit-large-patch14_rendered-sst2"
    assert [e.model for e in read("gpt2/glue7").pool.experts.values()] == [f"tanganke/gpt2_{task}" for task in GLUE]
    lora = read("flan-t5-large/glue8-lora").pool.experts["stsb"]
    assert (lora.model, lora.adapter) == ("google/flan-t5-large", "tanganke/flan-t5-large_glue-stsb_lora-16")


# Parts 2.1 and 3.2 of the specification: how a task is called in the ids of models, and where its data are.
CLIP_TASKS = {
    "sun397": ("sun397", "tanganke/sun397"),
    "stanford_cars": ("stanford-cars", "tanganke/stanford_cars"),
    "resisc45": ("resisc45", "tanganke/resisc45"),
    "eurosat": ("eurosat", "tanganke/eurosat"),
    "svhn": ("svhn", "ufldl-stanford/svhn"),
    "gtsrb": ("gtsrb", "tanganke/gtsrb"),
    "mnist": ("mnist", "ylecun/mnist"),
    "dtd": ("dtd", "tanganke/dtd"),
    "oxford_flowers102": ("oxford_flowers102", "dpdl-benchmark/oxford_flowers102"),
    "pcam": ("pcam", "1aurent/PatchCamelyon"),
    "fer2013": ("fer2013", "clip-benchmark/wds_fer2013"),
    "oxford_iiit_pet": ("oxford-iiit-pet", "timm/oxford-iiit-pet"),
    "stl10": ("stl10", "tanganke/stl10"),
    "cifar100": ("cifar100", "tanganke/cifar100"),
    "cifar10": ("cifar10", "tanganke/cifar10"),
    "food101": ("food101", "ethz/food101"),
    "fashion_mnist": ("fashion_mnist", "zalando-datasets/fashion_mnist"),
    "emnist_letters": ("emnist_letters", "tanganke/emnist_letters"),
    "kmnist": ("kmnist", "tanganke/kmnist"),
    "rendered_sst2": ("rendered-sst2", "nateraw/rendered-sst2"),
}
CLIP_BASES = {"b32": "clip-vit-base-patch32", "b16": "clip-vit-base-patch16", "l14": "clip-vit-large-patch14"}


@pytest.mark.parametrize("size", CLIP_BASES)
@pytest.mark.parametrize("count", [8, 14, 20])
def test_suites_of_image_tasks_are_the_first_of_one_list_with_ids_of_one_form(size, count):
    suite = read(f"clip-vit-{size}/ta{count}")
    assert suite.pool.base == f"openai/{CLIP_BASES[size]}"
    wanted = {task: f"tanganke/{CLIP_BASES[size]}_{name}" for task, (name, _) in list(CLIP_TASKS.items())[:count]}
    assert {task: expert.model for task, expert in suite.pool.experts.items()} == wanted
    assert list(suite.pool.experts) == list(suite.seen) == list(CLIP_TASKS)[:count]


@pytest.mark.parametrize("task", CLIP_TASKS)
def test_an_image_task_has_its_published_data_its_own_class_names_and_its_own_prompts(task):
    spec = task_spec(read("clip-vit-b16/ta20"), task)
    assert spec.dataset == CLIP_TASKS[task][1]
    assert (spec.class_names, spec.templates) == (class_list(task).class_names, class_list(task).templates)
    # The hub's test split, of Food-101 its validation split; a tenth of train where something is selected.
    test = "validation" if task == "food101" else "test"
    assert spec.splits == {"train": "train", "validation": "train[10%]", "test": test}
    assert (spec.columns.image, spec.columns.label) == (("jpg", "cls") if task == "fer2013" else ("image", "label"))
    assert spec.config == ("cropped_digits" if task == "svhn" else None)


def test_columns_splits_and_metrics_are_those_of_the_published_data_sets():
    clip = read("clip-vit-b32/ta20")
    fer, svhn, food = (task_spec(clip, task) for task in ("fer2013", "svhn", "food101"))
    assert (fer.columns.image, fer.columns.label) == ("jpg", "cls")
    assert (svhn.dataset, svhn.config) == ("ufldl-stanford/svhn", "cropped_digits")
    assert food.splits == {"train": "train", "validation": "train[10%]", "test": "validation"}
    glue = read("gpt2/glue7")
    mnli, qqp = task_spec(glue, "mnli"), task_spec(glue, "qqp")
    assert (mnli.splits or {})["test"] == "validation_matched"
    assert (qqp.columns.text, qqp.columns.pair) == ("question1", "question2")
    words = read("flan-t5-base/glue8")
    assert task_spec(words, "stsb").metrics == ("spearman",)
    assert task_spec(words, "cola").options["prompt"] == "glue/cola"
    assert describe("flan-t5-base/glue8").method_defaults["adamerging"]["learning_rate"] == "1e-4"


def test_the_releases_files_have_the_releases_names():
    suite = read("openclip-vit-l14/ta8")
    place = str(cache_folder("models") / "task_vectors" / "ViT-L-14")
    assert suite.pool.base == f"{place}/zeroshot.pt"
    names_there = ["SUN397", "Cars", "RESISC45", "EuroSAT", "SVHN", "GTSRB", "MNIST", "DTD"]
    assert [e.model for e in suite.pool.experts.values()] == [f"{place}/{name}/finetuned.pt" for name in names_there]
    heads = [task_spec(suite, task).head for task in suite.seen]
    assert heads == [f"{place}/head_{name}.pt" for name in names_there]
    assert {f"heads/{task}" for task in suite.seen} | {"base", *suite.seen} == set(suite.origins)


def test_linearised_adapters_have_their_own_ids():
    experts = read("clip-vit-b16/ta8-l_lora").pool.experts
    assert experts["stanford_cars"].adapter == "tanganke/clip-vit-base-patch16_stanford-cars_l-lora-16"
    assert {expert.model for expert in experts.values()} == {"openai/clip-vit-base-patch16"}
    assert tuple(experts) == TA8


# Data set, configuration and where its splits come from: corrections to the specifications, P 1.15.
VALIDATION = ("validation[first 32 of seed 42]", "validation[after 32 of seed 42]")
TIES = {
    "paws": ("labeled_final", "validation", "test"),
    "quartz": (None, "validation", "test"),
    "wiki_qa": (None, "validation", "test"),
    "qasc": (None, *VALIDATION),
    "winogrande": ("winogrande_xl", *VALIDATION),
    "wsc": ("wsc.fixed", *VALIDATION),
    "story_cloze": ("2016", "test[first 32 of seed 42]", "test[after 32 of seed 42]"),
    "rte": ("rte", *VALIDATION),
    "cb": ("cb", *VALIDATION),
    "wic": ("wic", *VALIDATION),
    "copa": ("copa", *VALIDATION),
    "hellaswag": (None, *VALIDATION),
    **{f"anli_r{n}": (None, f"dev_r{n}[first 32 of seed 42]", f"test_r{n}") for n in (1, 2, 3)},
}


@pytest.mark.parametrize(
    ("name", "count", "options"),
    [
        ("t5-base/ties7", 7, {"first": "1", "length": "128"}),
        ("t5-large/ties7", 7, {"first": "1", "length": "128"}),
        ("t0-3b/ia3-11", 11, {"length": "512"}),
    ],
)
def test_the_protocol_of_the_ties_papers(name, count, options):
    suite = read(name)
    assert len(suite.tasks.tasks) == count
    for task in suite.tasks.tasks:
        spec = task_spec(suite, task)
        config, validation, test = TIES[task]
        splits = spec.splits or {}
        assert (spec.kind, spec.config, splits["validation"], splits["test"]) == ("choices", config, validation, test)
        assert {key: str(value) for key, value in spec.options.items() if key != "prompts"} == options
    assert (read("t5-base/ties7").tasks.tasks["story_cloze"]["splits"])["train"] == "validation"


def test_the_cells_of_the_mistral_table():
    suite = read("mistral-7b/three-experts")
    cells = {
        task: (spec.dataset, spec.options["metric"], spec.options.get("filter"), spec.options["batch"])
        for task in suite.unseen
        for spec in [task_spec(suite, task)]
    }
    assert cells == {
        "mmlu": ("mmlu", "acc", None, "6"),
        "truthfulqa": ("truthfulqa_mc2", "acc", None, "6"),
        "gsm8k": ("gsm8k", "exact_match", "flexible-extract", "6"),
        "arc_challenge": ("arc_challenge", "acc_norm", None, "6"),
    }
    assert suite.pool.vocabulary is not None
    assert suite.pool.vocabulary.source == "base"


# What the papers and their code set by architecture: corrections to the specifications, P 1.3 to 1.10, and P 5.
DEFAULTS = {
    "clip-vit-b32/ta8": {"fisher": {"examples": 256, "batch": 32}, "regmean": {"off_diagonal": 0.6, "batch": 32}},
    "clip-vit-l14/ta20": {"fisher": {"examples": 256, "batch": 8}, "regmean": {"off_diagonal": 0.6, "batch": 8}},
    "clip-vit-b16/ta8": {
        # FusionBench's tables let λ leave [0, 1]; the Concrete paper's do not.
        "adamerging": {"learning_rate": 1e-3, "steps": 1000, "batch": 16, "batches": 1, "clamp": False},
        "wemoe": {"learning_rate": 1e-4, "schedule": "constant"},
        "smile": {"gate_k": 16, "k": 128},
    },
    "clip-vit-b16/ta8-l_lora": {"ties": {"scope": "changed"}},
    "openclip-vit-b32/ta8": {
        "concrete_adamerging": {"inner_rate": 1.0, "learning_rate": 1e-3, "batch": 16},
        "adamerging": {"learning_rate": 1e-3, "steps": 1000, "batch": 16, "batches": 1, "clamp": True},
    },
    "gpt2/glue7": {
        "fisher": {"examples": 512, "batch": 8}, "regmean": {"off_diagonal": 0.6, "batch": 32},
        "adamerging": {"learning_rate": 1e-4},
    },
    "flan-t5-base/glue8-lora": {
        "ties": {"scope": "changed"}, "adamerging": {"learning_rate": 1e-4, "steps": 1000, "batch": 8},
        "concrete_adamerging": {"inner_rate": 0.1, "learning_rate": 1e-4, "batch": 8}, "smile": {"gate_k": 2, "k": 4},
    },
    "flan-t5-base/glue8": {"smile": {"gate_k": 4, "k": 16}},
    "flan-t5-large/glue8-lora": {"ties": {"scope": "changed"}},
    "t5-large/ties7": {"task_arithmetic": {"scale": 0.4}, "ties": {"scale": 1.0, "density": 0.2, "combine": "mean"}},
    "t0-3b/ia3-11": {"task_arithmetic": {"scale": 0.4}},
    "mistral-7b/three-experts": {"smile": {"gate_k": 8, "k": 512}},
}  # fmt: skip


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_of_methods_are_what_the_papers_set(name):
    for method, wanted in DEFAULTS[name].items():
        recipe = Recipe.load(None, [f"suite={name}", f"method={method}"])
        assert {key: recipe.method.params[key] for key in wanted} == wanted


def test_four_tasks_have_corrupted_splits_as_published():
    suite = read("clip-vit-b32/ta8")
    having = {task for task in suite.tasks.tasks if task_spec(suite, task).corrupted_splits}
    assert having == {"stanford_cars", "eurosat", "resisc45", "gtsrb"}
    assert len(task_spec(suite, "eurosat").corrupted_splits) == 7


def test_what_is_not_built_here_has_no_size_and_no_seed():
    assert load_suite("clip-vit-b32/ta8").suite.name == "clip-vit-b32/ta8"
    for wrong in ({"size": "tiny"}, {"seed": 1}):
        with pytest.raises(ConfigError, match=r"leave suite.size and suite.seed out"):
            load_suite("clip-vit-b32/ta8", **wrong)
    with pytest.raises(ConfigError, match=r"Did you mean.*clip-vit-b32/ta8"):
        load_suite("clip-vit-b32/ta9")


def test_no_suite_is_held_back():
    assert [name for name in names() if describe(name).unavailable is not None] == []
    assert len(names()) == 23


def test_what_cannot_be_run_says_why(tmp_path, monkeypatch):
    from fusionbench.suites import paper

    (tmp_path / "suite").mkdir()
    document = {"summary": "One", "paper": "arXiv:1", "pool": {"experts": {"a": "x"}}, "unavailable": "nobody has it"}
    (tmp_path / "suite" / "mine.yaml").write_text(yaml.safe_dump(document))
    monkeypatch.setattr(paper, "PRESETS", tmp_path)
    with pytest.raises(ConfigError, match="The suite mine cannot be run: nobody has it"):
        paper.open_paper_suite("mine", size="small", seed=0)


def test_a_model_that_is_a_local_file_is_asked_for_with_its_place_and_source(tmp_path, monkeypatch):
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="not published") as error:
        resolve(Recipe.load(None, ["suite=resnet50/nyuv2", "method=simple_average"]))
    assert str(tmp_path / "models" / "nyuv2" / "experts" / "segmentation") in str(error.value)
    assert "fusionbench finetune suite=resnet50/nyuv2" in str(error.value)


def test_a_file_is_held_to_its_checksum(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()

    def suite(sha256: str) -> Suite:
        origins = {"a": {"source": "a release", "sha256": sha256}}
        return Suite.read(
            {"name": "mine", "pool": {"experts": {"a": str(tmp_path / "model.pt")}}, "tasks": {}, "origins": origins}
        )

    check_origins(suite(digest))
    with pytest.raises(CheckpointError, match=f"SHA-256 is {digest}, expected {'0' * 64}"):
        check_origins(suite("0" * 64))


@pytest.mark.parametrize("name", ["gpt2/glue7", "flan-t5-base/glue8", "flan-t5-large/glue8-lora", "resnet50/nyuv2"])
def test_a_report_says_where_experts_saw_the_validation_examples(name: str) -> None:
    """Their hub has no third split: validation is a tenth of train (corrections, P 4.3)."""
    assert any("a tenth of the training" in note and "trained on too" in note for note in describe(name).notes)
