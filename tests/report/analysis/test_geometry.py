import numpy as np
import pytest

from fusionbench.errors import ConfigError, IncompatibleModels
from fusionbench.kernels import tiles
from fusionbench.merge import Pool
from fusionbench.report.analysis import deltas, geometry

BASE = {"layers.0.weight": [[1.0, 1.0]], "layers.1.weight": [[0.0, 2.0]], "norm.weight": [5.0]}


def test_the_cosine_of_the_specifications_example_is_096(make_pool):
    pool = make_pool({"w": [1.0, -1.0]}, a={"w": [3.0, 4.0]}, b={"w": [4.0, 3.0]})
    assert geometry(pool).cosines().values == pytest.approx(np.array([[1, 0.96], [0.96, 1]]), abs=1e-12)


def test_blocks_are_compared_apart_and_together(make_pool):
    pool = make_pool(
        BASE,
        a={"layers.0.weight": [[1, 0]], "layers.1.weight": [[0, 2]]},
        b={"layers.0.weight": [[0, 1]], "layers.1.weight": [[0, 2]]},
    )
    found = geometry(pool)
    assert list(found.grams) == ["outside", "0", "1"]
    assert found.cosines("0").values[0, 1] == 0
    assert found.cosines("1").values[0, 1] == 1
    # τa = (1, 0, 0, 2), τb = (0, 1, 0, 2): 4 / 5
    assert found.cosines().values[0, 1] == pytest.approx(0.8)
    assert found.norms().rows == ("outside", "0", "1", "all")
    assert found.norms().values == pytest.approx(np.array([[0, 0], [1, 1], [2, 2], [5**0.5, 5**0.5]]))
    assert np.isnan(found.cosines("outside").values).all()


def test_entries_that_only_one_expert_changed_are_in_no_conflict(make_pool):
    pool = make_pool({"w": [0.0] * 4}, a={"w": [1, 1, -1, 2]}, b={"w": [-1, 1, 0, -3]}, c={"w": [0, 0, 0, 0]})
    found = geometry(pool)
    assert found.changed.tolist() == [4, 3, 0]
    # a and b both changed entries 0, 1 and 3; they disagree on 0 and 3
    assert found.conflicts().values[0, 1] == pytest.approx(2 / 3)
    assert found.conflicts().values[0, 0] == 0
    assert np.isnan(found.conflicts().values[0, 2])
    # |1-1| + |1+1| + |-1| + |2-3| = 4 of 1+1+1+2 + 1+1+0+3 = 10
    assert found.cancelled().values[-1, 0] == pytest.approx(0.6)


def test_the_size_of_a_block_changes_nothing(make_pool, monkeypatch):
    generator = np.random.default_rng(0)
    pool = make_pool({"w": np.zeros(1000)}, **{name: {"w": generator.normal(size=1000)} for name in "abc"})
    whole = geometry(pool)
    monkeypatch.setattr(deltas, "BLOCK", 37)
    parts = geometry(pool)
    assert tiles.BLOCK != 37
    assert parts.cosines().values == pytest.approx(whole.cosines().values, rel=1e-12)
    assert (parts.opposed == whole.opposed).all()
    assert parts.spent["outside"] == pytest.approx(whole.spent["outside"])


def test_integers_and_batch_norm_statistics_are_not_counted(make_pool):
    pool = make_pool({"w": [1.0, 2.0], "bn.running_mean": [1.0]}, a={"w": [1, 0], "bn.running_mean": [9.0]})
    assert geometry(pool).parameters == 2
    assert geometry(pool).norms().values[-1] == pytest.approx([1.0])


def test_a_pool_without_a_base_is_refused(make_pool):
    pool = make_pool({"w": [1.0]}, a={"w": [1.0]})
    with pytest.raises(ConfigError, match="needs a base"):
        geometry(Pool(None, pool.experts))


def test_another_shape_is_refused(make_pool, tmp_path):
    pool = make_pool({"w": [1.0]}, a={"w": [1.0]})
    (tmp_path / "other").mkdir()
    from safetensors.numpy import save_file

    from fusionbench.weights.sources import open_source

    save_file({"w": np.zeros(3, np.float32)}, tmp_path / "other" / "model.safetensors")
    with pytest.raises(IncompatibleModels):
        geometry(Pool(pool.base, {"other": open_source(tmp_path / "other")}))


def test_progress_ends_with_all_entries(make_pool):
    told = []
    geometry(make_pool(BASE, a={}), lambda *news: told.append(news))
    assert told[-1] == ("reading deltas", 5, 5)
