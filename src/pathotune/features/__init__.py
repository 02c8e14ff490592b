"""Tile features on disk, ours and those of other tools: one HDF5 file a slide, and what each file says of itself."""

from __future__ import annotations

from pathotune.features.featureset import FeatureHeader, FeatureSet, header
from pathotune.features.folder import feature_path, features_of, find_features
from pathotune.features.matching import check_alike, check_features, reading_of

__all__ = [
    "FeatureHeader",
    "FeatureSet",
    "check_alike",
    "check_features",
    "feature_path",
    "features_of",
    "find_features",
    "header",
    "reading_of",
]
