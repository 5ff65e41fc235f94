"""What methods that look at data are lent, and what they leave: parameters settled, artefacts whole, notes kept."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fusionbench.config import Recipe
from fusionbench.errors import ConfigError, OutputError
from fusionbench.records import DataUse
from fusionbench.run import resolve, run
from fusionbench.run.whole import Left, bench_of, fuse_whole, load_artefact, read_left, save_artefact, write_left
from fusionbench.weights.writer import CheckpointWriter

Make = Callable[..., Recipe]


def test_weights_by_expert_are_given_to_a_method_in_the_experts_order(recipe: Make, tmp_path: Path) -> None:
    by_name = recipe("weighted_ensemble", "method.weights={dogs:3,cats:1}")
    fused, _ = fuse_whole(bench_of(resolve(by_name), tmp_path, lambda *_: None))
    listed = recipe("weighted_ensemble", "method.weights=[1,3]")
    again, _ = fuse_whole(bench_of(resolve(listed), tmp_path, lambda *_: None))
    assert fused._about["weights"] == again._about["weights"] == [0.25, 0.75]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("method", "given", "said"),
    [
        ("weighted_ensemble", "method.weights={cats:1,birds:2}", r"method\.weights names birds"),
        ("weighted_ensemble", "method.weights=[1,2,3]", r"method\.weights has 3 values for the 2 experts cats, dogs"),
        ("weighted_ensemble", "method.weights=[{value:1}]", r"method\.weights differs from tensor to tensor"),
        ("weighted_ensemble", "method.weights={cats:1,dogs:[{value:[1,2]}]}", r"method\.weights differs"),
        ("adamerging", "method.init=[{value:0.1,filter:mlp},{value:0.3}]", r"method\.init differs from tensor"),
        ("fisher", "method.examples=[{value:3}]", r"method\.examples differs from tensor to tensor"),
    ],
)
def test_what_does_not_fit_the_experts_or_the_whole_model_is_refused(
    recipe: Make, tmp_path: Path, method: str, given: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        run(recipe(method, given), out=tmp_path / "run")


def test_an_artefact_takes_an_earlier_ones_place(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        save_artefact(tmp_path, "statistics/cats", {"w": torch.tensor([value])}, {"method": "fisher"})
        kept = load_artefact(tmp_path, "statistics/cats")
        assert kept is not None
        assert kept["w"].tolist() == [value]
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()] == [
        "statistics/cats/model.safetensors"
    ]
    assert load_artefact(tmp_path, "statistics/dogs") is None


@pytest.mark.parametrize("moment", ["write", "replace"])
def test_the_earlier_artefact_stays_until_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def save(value: Tensor) -> None:
        save_artefact(tmp_path, "coefficients", {"w": value}, {})

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    save(torch.tensor([1.0]))
    with monkeypatch.context() as patch:
        if moment == "write":
            patch.setattr(CheckpointWriter, "write", stop)
        else:
            patch.setattr("fusionbench.run.whole.os.replace", stop)
        with pytest.raises(KeyboardInterrupt):
            save(torch.tensor([2.0]))
    kept = load_artefact(tmp_path, "coefficients")
    assert kept is not None
    assert kept["w"].tolist() == [1.0]
    save(torch.tensor([3.0]))
    kept = load_artefact(tmp_path, "coefficients")
    assert kept is not None
    assert kept["w"].tolist() == [3.0]


def test_what_a_method_told_is_kept_and_a_damaged_record_is_one_clear_error(tmp_path: Path) -> None:
    left = Left({"selected": DataUse(split="validation", tasks=("cats",))}, ["a note"], "weights")
    write_left(tmp_path, left)
    assert read_left(tmp_path) == left
    file = tmp_path / "artefacts" / "left.json"
    for damaged in (file.read_text()[:-9], "[]", '{"notes": []}'):
        file.write_text(damaged)
        with pytest.raises(OutputError, match=r"left\.json is damaged.*--force"):
            read_left(tmp_path)
    assert read_left(tmp_path / "elsewhere") == Left()
