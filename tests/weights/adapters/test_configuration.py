"""Adapters that are more than base and update are refused."""

import pytest

from adapted import edit_config, opened
from fusionbench.errors import CheckpointError


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"peft_type": "VERA"}, "of the kind 'VERA'"),
        ({"init_lora_weights": "pissa_niter_4"}, "changing the base's own weights"),
        ({"trainable_token_indices": [1]}, "rows of the embedding"),
        ({"target_parameters": ["experts.gate"]}, "bare parameters"),
        ({"use_new_variant": True}, "use_new_variant: not known here"),
        ({"use_dora": True, "lora_bias": True}, "how the magnitude acts"),
    ],
)
def test_adapters_that_are_more_than_base_and_update_are_refused_with_the_fix(two, changes, reason):
    edit_config(two / "adapter1", **changes)
    with pytest.raises(CheckpointError, match=reason) as caught:
        opened(two)
    assert "merge_and_unload" in str(caught.value)


def test_a_pattern_that_is_none_is_refused_by_key(two):
    edit_config(two / "adapter1", alpha_pattern={"q_proj(": 1})
    with pytest.raises(CheckpointError, match=r"alpha_pattern 'q_proj\(' is no pattern"):
        opened(two)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"r": 0}, "r should be a number of at least 1, not 0"),
        ({"lora_alpha": "16"}, "lora_alpha should be a number, not '16'"),
        ({"rank_pattern": {"q_proj": None}}, r"rank_pattern\.q_proj should be a number of at least 1, not None"),
        ({"alpha_pattern": [1]}, "alpha_pattern should map names to numbers"),
    ],
)
def test_ranks_and_alphas_that_are_no_numbers_are_refused_by_key(two, changes, reason):
    edit_config(two / "adapter1", **changes)
    with pytest.raises(CheckpointError, match=reason):
        opened(two)


def test_a_configuration_that_is_no_object_is_refused(two):
    (two / "adapter1" / "adapter_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="should hold a JSON object, it holds a list"):
        opened(two)
