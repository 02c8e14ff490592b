"""Slide encoders: the features of a slide's tiles to tokens and one vector, behind one surface; frozen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pathotune.registry import Entry, Table

if TYPE_CHECKING:
    from pathotune.backbones.slide.surface import SlideEncoder

# One builder each: (card, features' width) -> SlideEncoder with weights still to come.
SLIDE_ENCODERS = Table(
    "slide encoder",
    (
        Entry(
            "small-slide",
            "pathotune.backbones.slide.small:build",
            "a small transformer of fixed random weights, on features of any backbone, for every machine",
        ),
        Entry(
            "gigapath-slide",
            "pathotune.backbones.slide.longnet:build",
            "Prov-GigaPath's LongNet, on features of prov-gigapath",
        ),
        Entry(
            "titan-slide",
            "pathotune.backbones.slide.titan:build",
            "TITAN, through your own copy of its code, on features of conch_v1.5",
        ),
    ),
)


def load_slide_encoder(
    name: str,
    *,
    feature_dim: int | None = None,
    weights: str | Path | None = None,
    random_seed: int | None = None,
    run_local_code: bool = False,
) -> SlideEncoder:
    """Build a slide encoder and load its weights strictly.

    Parameters
    ----------
    name : one of `SLIDE_ENCODERS`.
    feature_dim : width of the tile features; needed by small-slide, checked by the others.
    weights : a file, or a folder that holds one; for TITAN the folder with its code and weights. Without it: the models
        folder, then the hub's cache, then the hub.
    random_seed : no weights at all, but numbers drawn from this seed; for tests and measurements.
    run_local_code : the person has read the code in the folder `weights` and lets it run (TITAN).

    Returns
    -------
    SlideEncoder
        Frozen, in evaluation mode, on the CPU, in float32.

    Raises
    ------
    UnknownName
        No such slide encoder.
    BackboneUnavailable
        The weights or the code are not here, or the code may not be run.
    WeightsRefused
        A tensor is missing, unexpected or of another shape.
    TuningMismatch
        The features are not as wide as those the encoder is fed with.
    """
    from pathotune.backbones.slide.loading import load

    return load(name, feature_dim, None if weights is None else Path(weights), random_seed, run_local_code)
