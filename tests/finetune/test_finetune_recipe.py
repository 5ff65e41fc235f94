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


@pytest.mark.parametrize(
    ("key", "value"),
    [("learning_rate", 0), ("batch", 0), ("schedule", "cosin"), ("precision", "fp16"), ("lr", 1e-3), ("clip", -1)],
)
def test_a_wrong_setting_is_refused_by_its_key(key, value):
    with pytest.raises(ConfigError, match=key):
        FinetuneRecipe.read({key: value})


def test_text_of_a_yaml_file_is_read_by_the_type_of_its_key():
    recipe = FinetuneRecipe.read({"steps": "1e3", "learning_rate": "3e-4", "betas": ["0.9", "0.98"], "clip": None})
    assert (recipe.steps, recipe.learning_rate, recipe.betas) == (1000, 3e-4, (0.9, 0.98))
