"""fusion-bench's model pools and task pools (release 0.2.33), and the suites that hold the same."""

from typing import NamedTuple


class Pool(NamedTuple):
    """What a model pool is here."""

    suite: str
    experts: tuple[str, ...] = ()
    """Its experts; none for all of the suite's."""


class TaskPool(NamedTuple):
    """What a task pool is here."""

    suites: tuple[str, ...]
    """Suites that have its tasks and heads."""
    tasks: tuple[str, ...] = ()
    """Its tasks; none for all of the suite's."""
    split: str = "test"


_CLIP = {"base-patch32": "b32", "base-patch16": "b16", "large-patch14": "l14"}
_SETS = {"TA8": "ta8", "TALL14": "ta14", "TALL20": "ta20"}
EIGHT = ("sun397", "stanford_cars", "resisc45", "eurosat", "svhn", "gtsrb", "mnist", "dtd")
_ROBUST = ("stanford_cars", "eurosat", "resisc45", "gtsrb")
_SUBSETS = {
    "generalization_exp1": ("sun397", "stanford_cars", "resisc45", "dtd", "svhn", "gtsrb"),
    "generalization_exp2": ("sun397", "stanford_cars", "gtsrb", "eurosat", "dtd", "mnist"),
    "robustness_clean": _ROBUST,
    "robustness_corrupted": _ROBUST,
    "svhn_and_mnist": ("svhn", "mnist"),
    "sun397_and_cars": ("sun397", "stanford_cars"),
    "sun397_and_dtd": ("sun397", "dtd"),
    "cars_and_dtd": ("stanford_cars", "dtd"),
    "sun397_cars_and_dtd": ("sun397", "stanford_cars", "dtd"),
}
DEFAULT_POOL = "CLIPVisionModelPool/clip-vit-base-patch32_TA8"
POOLS = {
    **{
        f"CLIPVisionModelPool/clip-vit-{size}_{models}{only}": Pool(f"clip-vit-{short}/{suite}")
        for size, short in _CLIP.items()
        for models, suite in _SETS.items()
        for only in ("", "_model_only")
    },
    **{
        f"CLIPVisionModelPool/clip-vit-base-patch32_{models}": Pool("clip-vit-b32/ta8", experts)
        for models, experts in _SUBSETS.items()
    },
    "CLIPVisionModelPool/clip-vit-base-patch16_TA8_lora": Pool("clip-vit-b16/ta8-lora"),
    "OpenCLIPVisionModelPool/ViT-B-32_TA8": Pool("openclip-vit-b32/ta8"),
    "OpenCLIPVisionModelPool/ViT-B-16_TA8": Pool("openclip-vit-b16/ta8"),
    "OpenCLIPVisionModelPool/ViT-L-14_TA8": Pool("openclip-vit-l14/ta8"),
    "gpt-2_glue": Pool("gpt2/glue7"),
    "Seq2SeqLMPool/flan-t5-base_glue": Pool("flan-t5-base/glue8"),
    "Seq2SeqLMPool/flan-t5-base_glue_lora16": Pool("flan-t5-base/glue8-lora"),
    "Seq2SeqLMPool/flan-t5-large_glue_lora16": Pool("flan-t5-large/glue8-lora"),
    "nyuv2_modelpool": Pool("resnet50/nyuv2"),
}
_CLASSIFICATION = "CLIPVisionModelTaskPool/clip-vit-classification_"
TASKPOOLS = {
    f"{_CLASSIFICATION}TA8": TaskPool(("clip-vit-b32/ta8",), EIGHT),
    f"{_CLASSIFICATION}TA8_val": TaskPool(("clip-vit-b32/ta8",), EIGHT, split="validation"),
    f"{_CLASSIFICATION}TA8_B16": TaskPool(("clip-vit-b16/ta8", "clip-vit-b16/ta8-lora"), EIGHT),
    f"{_CLASSIFICATION}TA8_L14": TaskPool(("clip-vit-l14/ta8",), EIGHT),
    f"{_CLASSIFICATION}TALL14": TaskPool(("clip-vit-b32/ta14",)),
    f"{_CLASSIFICATION}TALL20": TaskPool(("clip-vit-b32/ta20",)),
    "CLIPVisionModelTaskPool/clip-vit-base-patch32_robustness_corrupted": TaskPool(("clip-vit-b32/ta8",), _ROBUST),
    "CLIPVisionModelTaskPool/clip-vit-base-patch32_svhn_and_mnist": TaskPool(("clip-vit-b32/ta8",), ("svhn", "mnist")),
    "clip-vit-base-patch32_robustness_clean": TaskPool(("clip-vit-b32/ta8",), _ROBUST),
    "clip-vit-base-patch32_robustness_corrupted": TaskPool(("clip-vit-b32/ta8",), _ROBUST),
    "OpenCLIPVisionModelTaskPool/ViT-B-32_TA8": TaskPool(("openclip-vit-b32/ta8",)),
    "OpenCLIPVisionModelTaskPool/ViT-B-16_TA8": TaskPool(("openclip-vit-b16/ta8",)),
    "OpenCLIPVisionModelTaskPool/ViT-L-14_TA8": TaskPool(("openclip-vit-l14/ta8",)),
    "gpt-2_glue": TaskPool(("gpt2/glue7",)),
    "flan-t5_glue_text_generation": TaskPool(
        ("flan-t5-base/glue8", "flan-t5-base/glue8-lora", "flan-t5-large/glue8-lora")
    ),
    "nyuv2_taskpool": TaskPool(("resnet50/nyuv2",)),
}
"""Task pools whose heads or tasks belong to another suite than the models have no equal."""
