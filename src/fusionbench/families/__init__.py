"""Architectures: how each runs, what of it is fused, and where its parts are. One file each, none a method."""

from fusionbench.families.base import (
    Backbone,
    Batch,
    Family,
    HasHead,
    HasImages,
    HasParts,
    HasPermutations,
    HasRouters,
    HasText,
    HasTextInput,
    HasTextToText,
    HasTokens,
    LinearSite,
    MlpParts,
    Permutation,
)
from fusionbench.families.batch_norm import batch_norms, reestimate
from fusionbench.families.image_processor import ImageProcessor
from fusionbench.families.modules import as_source, load_module, specs_of, weights_in
from fusionbench.families.registration import family, family_for, family_named
from fusionbench.families.text_codec import TextCodec
from fusionbench.families.tokens import TokenProcessor

__all__ = [
    "Backbone",
    "Batch",
    "Family",
    "HasHead",
    "HasImages",
    "HasParts",
    "HasPermutations",
    "HasRouters",
    "HasText",
    "HasTextInput",
    "HasTextToText",
    "HasTokens",
    "ImageProcessor",
    "LinearSite",
    "MlpParts",
    "Permutation",
    "TextCodec",
    "TokenProcessor",
    "as_source",
    "batch_norms",
    "family",
    "family_for",
    "family_named",
    "load_module",
    "reestimate",
    "specs_of",
    "weights_in",
]
