"""fusion-bench's methods (release 0.2.33), and what they are here."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fusionbench.compat.fusion_bench.keys import Key


def density_of_threshold(text: str) -> str:
    """Return the kept share for a `threshold`, which is a percentage where it is above 1."""
    kept = float(text)
    return f"{kept / 100 if kept > 1 else kept:.12g}"


def density_of_sparsity(text: str) -> str:
    """Return the kept share for a `sparsity_ratio`, the dropped one."""
    return f"{1 - float(text):.12g}"


def rescale_of_truth(text: str) -> str:
    """Return what DARE does to the kept entries."""
    choices = {"true": "inverse", "false": "none"}
    if text.lower() not in choices:
        raise ValueError("expected true or false")
    return choices[text.lower()]


def normalize_of_merge_func(text: str) -> str:
    """Return whether what agrees is averaged, where it can only be averaged or summed."""
    choices = {"mean": "true", "sum": "false"}
    if text not in choices:
        raise ValueError("only mean and sum have an equal here")
    return choices[text]


@dataclass(frozen=True, slots=True)
class Algorithm:
    """What a method's configuration is here."""

    method: str
    sets: Mapping[str, str] = field(default_factory=dict)
    """Our parameters that their method's name fixes."""
    defaults: Mapping[str, str] = field(default_factory=dict)
    """Their defaults, where ours are others or may come to be."""
    keys: Mapping[str, Key] = field(default_factory=dict)


_SCALE = Key("method.scale")
_NO_NAMES = Key(nothing=("[]", "null"), else_say="no tensor can be left out of a merge yet")
_TIES = Algorithm(
    "ties",
    defaults={"scaling_factor": "0.3", "threshold": "20", "merge_func": "sum"},
    keys={
        "scaling_factor": _SCALE,
        "threshold": Key("method.density", read=density_of_threshold),
        "merge_func": Key("method.combine"),
        "remove_keys": _NO_NAMES,
    },
)
_SAVED = {
    "merge_backbone": Key(nothing=("false",), else_say="heads are kept apart by the family, not by a switch"),
    "model_save_path": Key(nothing=("null",), else_say="write to a folder with --out DIR; the model is in DIR/model"),
    "show_pbar": Key(nothing=("true", "false"), else_say="the runner shows progress"),
}
_SCALED = Algorithm("task_arithmetic", defaults={"scaling_factor": "0.3"}, keys={"scaling_factor": _SCALE})
_DARE_KEYS = {
    "sparsity_ratio": Key("method.density", read=density_of_sparsity),
    "rescale": Key("method.rescale", read=rescale_of_truth),
    "only_on_linear_weights": Key(nothing=("false",), else_say="tensors are not chosen by the kind of layer yet"),
}
_DARE = {"sparsity_ratio": "0.5", "rescale": "true"}

ALGORITHMS = {
    "dummy": Algorithm("pretrained"),
    "simple_average": Algorithm("simple_average"),
    "linear/simple_average_for_causallm": Algorithm("simple_average", keys=_SAVED),
    "linear/weighted_average": Algorithm(
        "weighted_average",
        defaults={"weights": "[0.5,0.5]", "normalize": "true"},
        keys={"weights": Key("method.weights"), "normalize": Key("method.normalize")},
    ),
    "task_arithmetic": _SCALED,
    "linear/task_arithmetic_for_causallm": Algorithm(
        "task_arithmetic", defaults=_SCALED.defaults, keys={**_SCALED.keys, **_SAVED}
    ),
    "ties_merging": _TIES,
    "linear/ties_merging_for_causallm": Algorithm("ties", defaults=_TIES.defaults, keys={**_TIES.keys, **_SAVED}),
    "dare/simple_average": Algorithm(
        "dare", {"combine": "linear", "normalize": "true", "scale": "1"}, defaults=_DARE, keys=_DARE_KEYS
    ),
    "dare/task_arithmetic": Algorithm(
        "dare",
        {"combine": "linear"},
        defaults={**_DARE, "scaling_factor": "0.3"},
        keys={**_DARE_KEYS, "scaling_factor": _SCALE},
    ),
    "dare/ties_merging": Algorithm(
        "dare",
        {"combine": "ties"},
        defaults={**_DARE, "scaling_factor": "0.5", "threshold": "20", "merge_func": "sum"},
        keys={
            **_DARE_KEYS,
            "scaling_factor": _SCALE,
            "threshold": Key("method.ties_density", read=density_of_threshold),
            "merge_func": Key("method.normalize", read=normalize_of_merge_func),
            "remove_keys": _NO_NAMES,
        },
    ),
    "linear/expo": Algorithm("expo", defaults={"extrapolation_factor": "0.1"}, keys={"extrapolation_factor": _SCALE}),
    "magmax/magmax": Algorithm(
        "magmax",
        defaults={"scaling_factor": "0.5"},
        keys={"scaling_factor": _SCALE, "inplace": Key(nothing=("true", "false"), else_say="inputs are never changed")},
    ),
    "slerp/slerp": Algorithm(
        "slerp",
        defaults={"t": "0.5"},
        keys={
            "t": Key("method.t"),
            "DOT_THRESHOLD": Key(nothing=("0.9995",), else_say="the straight line is taken above 0.9995"),
            "epsilon": Key(nothing=("1e-8", "1e-08"), else_say="lengths are not padded"),
        },
    ),
    "isotropic_merging/iso_c": Algorithm(
        "iso_c", defaults={"scaling_factor": "1.0"}, keys={"scaling_factor": _SCALE, "exclude_keys": _NO_NAMES}
    ),
    "isotropic_merging/iso_cts": Algorithm(
        "iso_cts",
        defaults={"scaling_factor": "1.0", "common_space_fraction": "0.8"},
        keys={"scaling_factor": _SCALE, "common_space_fraction": Key("method.common"), "exclude_keys": _NO_NAMES},
    ),
    "task_singular_vector/TaskSingularVectorMerging": Algorithm(
        "tsv_m",
        defaults={"alpha": "1"},
        keys={
            "alpha": _SCALE,
            "exclude_keys": _NO_NAMES,
            "return_single_task_models": Key(nothing=("false",), else_say="one model is returned"),
        },
    ),
    "wudi/wudi": Algorithm(
        "wudi", defaults={"iter_num": "400"}, keys={"iter_num": Key("method.steps"), "exclude_keys": _NO_NAMES}
    ),
}
"""Methods whose configurations are translated."""

KNOWN_AS = {
    "adamerging": "adamerging",
    "bitdelta": "bitdelta",
    "clip_concrete_layer_wise_adamerging": "concrete_adamerging",
    "clip_concrete_task_arithmetic": "concrete_task_arithmetic",
    "clip_concrete_task_wise_adamerging": "concrete_adamerging",
    "clip_layer_wise_adamerging": "adamerging",
    "clip_task_wise_adamerging": "adamerging",
    "concrete_subspace/clip_concrete_layer_wise_adamerging": "concrete_adamerging",
    "concrete_subspace/clip_concrete_task_arithmetic": "concrete_task_arithmetic",
    "concrete_subspace/clip_concrete_task_wise_adamerging": "concrete_adamerging",
    "doge_ta": "doge_ta",
    "emr_merging": "emr",
    "ensemble/max_model_predictor": "max_model",
    "ensemble/simple_ensemble": "simple_ensemble",
    "ensemble/weighted_ensemble": "weighted_ensemble",
    "fisher_merging": "fisher",
    "fw_merging": "fw_merging",
    "mixtral_moe_merging": "moe_merging",
    "mixtral_moe_upscaling": "moe_upscaling",
    "model_recombination": "recombination",
    "model_stock/model_stock": "model_stock",
    "opcm": "opcm",
    "pwe_moe": "pwe_moe",
    "rankone_moe": "rank_one_moe",
    "regmean": "regmean",
    "regmean_plusplus": "regmean_plusplus",
    "smile_upscaling": "smile",
    "smile_upscaling/singular_projection_merging": "singular_projection",
    "surgery": "surgery",
    "tall_mask": "tall_mask",
    "wemoe": "wemoe",
    "wemoe/sparse_weight_ensembling_moe": "efficient_wemoe",
}
"""Our name of methods whose configurations are not translated, by theirs or by the folder that theirs are in."""

WITHOUT_EQUAL = {
    "analysis": "see `fusionbench analyze`",
    "classification": "see `fusionbench finetune`",
    "clip_finetune": "see `fusionbench finetune`",
    "lm_finetune": "see `fusionbench finetune`",
}
"""What to do instead, by the folder of theirs."""
