import pytest

from fusionbench.errors import ConfigError
from fusionbench.finetune.recipe import FinetuneRecipe, preset
from fusionbench.training import Steps


def test_the_papers_settings_for_clip_are_those_it_prints():
    # arXiv:2406.03280, appendix: Adam, fixed rate 1e-5, 4000 steps, batch 32
    paper = preset("clip/paper")
    assert (paper.steps, paper.batch, paper.learning_rate, paper.weight_decay) == (4000, 32, 1e-5, 0.0)
    assert paper.schedule == "constant"


def test_the_code_of_fusionbench_differs_from_its_paper_in_batch_and_schedule():
    assert preset("clip/fusion_bench").schedule == "cosine"
    assert preset("clip/fusion_bench").batch == 128


def test_an_unknown_preset_is_an_error_with_the_nearest():
    with pytest.raises(ConfigError, match=r"'clip/papr'\. Did you mean clip/paper"):
        preset("clip/papr")


def test_a_recipe_says_its_course_to_the_loop():
    recipe = FinetuneRecipe(
        steps=7, schedule="linear", warmup=2, floor=0.1, accumulate=3, clip=1.5, seed=4, validate_every=5, keep="best"
    )
    assert recipe.course() == Steps(7, "linear", 2, 0.1, 3, 1.5, 4, 5, "best")


def test_the_scene_recipe_halves_the_rate_every_ten_epochs_of_nyuv2():
    # FusionBench, NYUv2: Adam 1e-4, halved every 10 of 40 epochs; 795 training images are 50 batches of 16.
    recipe = preset("scene/nyuv2")
    course = recipe.course()
    assert (recipe.learning_rate, recipe.weight_decay, course.count) == (1e-4, 0.0, 40 * 50)
    assert [course.factor(epoch * 50) for epoch in (0, 9, 10, 20, 39)] == [1.0, 1.0, 0.5, 0.25, 0.125]


@pytest.mark.parametrize("wrong", [{"schedule": "step"}, {"decay": {"every": 3}}])
def test_the_decay_and_its_schedule_belong_together(wrong):
    with pytest.raises(ConfigError, match=r"schedule=step needs decay\.every, and no other schedule has a decay"):
        FinetuneRecipe.read(wrong)


def test_a_recipe_without_a_decay_does_not_speak_of_it():
    assert "decay" not in FinetuneRecipe().model_dump()
    stepped = FinetuneRecipe.read({"schedule": "step", "decay": {"every": "10"}})
    assert stepped.model_dump()["decay"] == {"every": 10, "factor": 0.5}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("learning_rate", 0),
        ("batch", 0),
        ("schedule", "cosin"),
        ("precision", "fp16"),
        ("lr", 1e-3),
        ("clip", -1),
        ("betas", [0.9, 1]),
    ],
)
def test_a_wrong_setting_is_refused_by_its_key(key, value):
    with pytest.raises(ConfigError, match=key):
        FinetuneRecipe.read({key: value})


def test_the_best_of_no_validations_is_refused():
    with pytest.raises(ConfigError, match="keep=best needs validate_every"):
        FinetuneRecipe.read({"keep": "best"})


def test_text_of_a_yaml_file_is_read_by_the_type_of_its_key():
    recipe = FinetuneRecipe.read({"steps": "1e3", "learning_rate": "3e-4", "betas": ["0.9", "0.98"], "clip": None})
    assert (recipe.steps, recipe.learning_rate, recipe.betas) == (1000, 3e-4, (0.9, 0.98))


def test_the_papers_adapters_are_of_rank_16_and_scale_2():
    # arXiv:2312.06173, appendix: Flan-T5 with LoRA r = 16, alpha = 32, learning rate 4e-5, batch 16, 2000 steps
    flan = preset("t5/lora")
    assert (flan.steps, flan.batch, flan.learning_rate) == (2000, 16, 4e-5)
    for name in ("t5/lora", "clip/lora"):
        adapter = preset(name).adapter
        assert adapter is not None
        assert (adapter.r, adapter.alpha) == (16, 32)


def test_the_t5_of_ties_sees_1024_examples_a_step():
    # arXiv:2306.01708: constant rate 1e-4, effective batch 1024
    recipe = preset("t5/ties")
    assert recipe.batch * recipe.accumulate == 1024
    assert (recipe.learning_rate, recipe.schedule, recipe.adapter) == (1e-4, "constant", None)


@pytest.mark.parametrize(
    ("adapter", "key"),
    [({"r": 0}, "r"), ({"dropout": 1.0}, "dropout"), ({"rank": 4}, "rank"), ({"targets": []}, "targets")],
)
def test_a_wrong_setting_of_an_adapter_is_refused_by_its_key(adapter, key):
    with pytest.raises(ConfigError, match=rf"adapter.*{key}"):
        FinetuneRecipe.read({"adapter": adapter})
