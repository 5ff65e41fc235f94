"""Architectures: how each runs, what of it is fused, and where its parts are. One file each, none a method."""

from fusionbench.families.base import (
    Backbone,
    Batch,
    Family,
    HasImages,
    HasParts,
    HasText,
    HasTokens,
    LinearSite,
    MlpParts,
)
from fusionbench.families.image_processor import ImageProcessor
from fusionbench.families.modules import as_source, load_module, specs_of, weights_in
from fusionbench.families.registration import family, family_for, family_named

__all__ = [
    "Backbone",
    "Batch",
    "Family",
    "HasImages",
    "HasParts",
    "HasText",
    "HasTokens",
    "ImageProcessor",
    "LinearSite",
    "MlpParts",
    "as_source",
    "family",
    "family_for",
    "family_named",
    "load_module",
    "specs_of",
    "weights_in",
]
