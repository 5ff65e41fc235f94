"""A Ray cluster of several nodes on this machine: nothing is lost when one goes, and nothing is done twice."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fusionbench.config import Recipe
from fusionbench.errors import ConfigError
from fusionbench.sweep import run_all, run_as_finished

# Ray warns of what is its own to mend.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
Make = Callable[..., Recipe]
RUNS = 200


def test_a_node_that_is_removed_half_way_loses_nothing(make: Make, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    other = cluster.add_node(num_cpus=1)
    try:
        launcher = ["runtime.launcher.name=ray", f"runtime.launcher.address={cluster.address}"]
        recipes = [make(number / 100, *launcher) for number in range(RUNS)]
        numbers = []
        for number, outcome in run_as_finished(recipes, tmp_path / "runs"):
            assert outcome.result is not None, outcome.error
            numbers.append(number)
            if len(numbers) == RUNS // 2:
                cluster.remove_node(other, allow_graceful=False)
    finally:
        cluster.shutdown()
    assert sorted(numbers) == list(range(RUNS))
    plain = list(run_all([make(number / 100) for number in range(RUNS)], tmp_path / "runs"))
    assert all(outcome.result and outcome.result.reused for outcome in plain)
    assert len(list((tmp_path / "runs").glob("*/report.json"))) == RUNS


def test_a_cluster_that_cannot_be_reached_or_is_too_small_is_an_error(make: Make, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match="no machine of the cluster has cpus=1 and gpus=8"):
        list(run_all([make(0.3, "runtime.launcher.name=ray", "runtime.launcher.gpus=8")], tmp_path / "runs"))
