"""Means of routing weights, worked out by hand; whole runs are in tests/e2e/test_analyses.py."""

import pytest
import torch

from fusionbench.errors import MissingData
from fusionbench.mixing.routed import RoutedSettings, build_routed
from fusionbench.report.analysis.routing import _mean, _watched, routing


def test_weights_of_samples_are_averaged():
    assert _mean(torch.tensor([[0.0, 1.0], [1.0, 0.5]]), None).tolist() == [0.5, 0.75]


def test_weights_that_a_batch_shares_stay():
    assert _mean(torch.tensor([0.25, 0.75]), None).tolist() == [0.25, 0.75]


def test_weights_of_tokens_are_averaged_over_real_tokens_then_over_samples():
    weights = torch.tensor([[[1.0], [3.0]], [[0.0], [8.0]]])
    mask = torch.tensor([[1, 1], [1, 0]])
    # Samples: (1 + 3) / 2 = 2 and 0 / 1 = 0.
    assert _mean(weights, mask).tolist() == [1.0]
    assert _mean(weights, None).tolist() == [3.0]


def test_each_call_of_a_routed_mlp_is_seen_and_the_watch_ends():
    mlp = torch.nn.Sequential()
    mlp.add_module("fc", torch.nn.Linear(2, 2))
    routed = build_routed(mlp, RoutedSettings(experts=3, width=2, depth=0, parts="fc")).to_empty(device="cpu")
    torch.nn.init.zeros_(routed.router.free)
    with torch.no_grad():
        for part in routed.mlp.parameters():
            part.zero_()
        routed.router.free.copy_(torch.tensor([0.5, 0.25, 0.0]))
    seen = {"mlp": []}
    with torch.no_grad(), _watched({"mlp": routed}, seen):
        routed(torch.zeros(4, 1, 2))
    assert [(count, mean.tolist()) for count, mean in seen["mlp"]] == [(4, [0.5, 0.25, 0.0])]
    with torch.no_grad():
        routed(torch.zeros(4, 1, 2))
    assert len(seen["mlp"]) == 1


def test_groups_that_share_weights_are_seen_one_by_one():
    mlp = torch.nn.Sequential()
    mlp.add_module("fc", torch.nn.Linear(1, 1))
    settings = RoutedSettings(experts=1, width=1, depth=1, route="batch", shared_by=2, parts="fc")
    routed = build_routed(mlp, settings).to_empty(device="cpu")
    with torch.no_grad():
        for parameter in routed.parameters():
            parameter.zero_()
        # The weight is the input itself.
        routed.router.layers[0].weight.fill_(1.0)
    seen = {"mlp": []}
    with torch.no_grad(), _watched({"mlp": routed}, seen):
        routed(torch.tensor([[1.0], [2.0], [5.0]]))
    assert [(count, mean.tolist()) for count, mean in seen["mlp"]] == [(2, [1.5]), (1, [5.0])]


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(MissingData, match="holds no model"):
        routing(tmp_path)
