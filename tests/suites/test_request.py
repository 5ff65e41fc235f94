import pytest

from fusionbench.errors import ConfigError
from fusionbench.suites.request import FinetuneRequest


def test_a_part_of_an_adapter_leaves_the_presets_rest():
    request = FinetuneRequest.load(["suite=mini/t5", "tuning=lora", "preset=t5/lora", "recipe.adapter.dropout=0.3"])
    settings = request.settings()
    assert settings.adapter is not None
    assert (settings.adapter.r, settings.adapter.alpha, settings.adapter.dropout) == (16, 32, 0.3)
    assert settings.learning_rate == 4e-5


def test_an_adapter_may_be_asked_for_without_a_preset():
    request = FinetuneRequest.load(["suite=mini/clip", "tuning=ia3", "recipe.adapter.targets=[k_proj,fc2]"])
    settings = request.settings()
    assert request.tuning == "ia3"
    assert settings.adapter is not None
    assert settings.adapter.targets == ("k_proj", "fc2")


def test_a_recipe_without_an_adapter_has_none():
    assert FinetuneRequest.load(["suite=mini/clip", "recipe.steps=7"]).settings().adapter is None


def test_trackers_are_read_by_name_and_none_are_asked_for_by_default():
    assert FinetuneRequest.load(["suite=mini/clip", "trackers=[tensorboard,mlflow]"]).trackers == (
        "tensorboard", "mlflow",
    )  # fmt: skip
    assert FinetuneRequest.load(["suite=mini/clip"]).trackers == ()
    with pytest.raises(ConfigError, match=r"trackers.*tensorboard"):
        FinetuneRequest.load(["suite=mini/clip", "trackers=[tensorbord]"])


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        ("tuning=qlora", "tuning"),
        ("recipe.adapter.rank=4", r"adapter\.rank"),
        ("preset=t5/lorra", "Did you mean t5/lora"),
    ],
)
def test_what_is_unknown_is_refused(tail, message):
    with pytest.raises(ConfigError, match=message):
        FinetuneRequest.load(["suite=mini/clip", tail])


def test_the_device_is_the_cpu_unless_another_is_named():
    assert FinetuneRequest.load(["suite=mini/clip"]).device == "cpu"
    assert FinetuneRequest.load(["suite=mini/clip", "device=cuda:1"]).device == "cuda:1"
    with pytest.raises(ConfigError, match=r"device.*got 'gpu'"):
        FinetuneRequest.load(["suite=mini/clip", "device=gpu"])
    with pytest.raises(ConfigError, match="what a fusion made is trained on the CPU"):
        FinetuneRequest.load(["suite=mini/clip", "device=auto", "init=runs/x"])
