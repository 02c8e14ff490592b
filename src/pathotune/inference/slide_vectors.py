"""A ModalTune tuning as a source of features: what it makes of a slide, beside the features of each of its tiles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pathotune.errors import TuningMismatch
from pathotune.features import FeatureSet, header

if TYPE_CHECKING:
    from pathotune.inference.patient_score import PatientModel
    from pathotune.methods.checkpoint import Tuning


def gives_vectors(tuning: Tuning | None) -> bool:
    """Whether the features that are taken from a tuning are vectors of whole slides."""
    from pathotune.methods import level_of

    return tuning is not None and level_of(tuning.method) == "patient"


class SlideVectors:
    """Makes the features that slide-level methods take from a ModalTune tuning; its model is loaded once.

    The vectors of all task prompts are written behind the features of every tile of the slide: what pools tiles then
    has them, and its attention still says which tiles spoke. Image and task token alone make them, as whoever uses the
    result may have no expression.

    Parameters
    ----------
    tuning : of ModalTune.
    backbone : name of the one whose tile features are given.

    Raises
    ------
    TuningMismatch : the tuning takes tiles of another backbone.
    BackboneUnavailable : its slide encoder's weights are not here.
    """

    def __init__(self, tuning: Tuning, backbone: str, device: str = "cpu") -> None:
        from pathotune.inference.patient_score import load_patient_model

        if tuning.backbone["name"] != backbone:
            raise TuningMismatch(
                f"{tuning.name} takes features of {tuning.backbone['name']}, not of {backbone}; choose that backbone."
            )
        self.loaded: PatientModel = load_patient_model(tuning, device)

    def of(self, tiles: FeatureSet) -> FeatureSet:
        """Tile features (n, d) with the slide's vectors behind them, (n, d + prompts · output_dim)."""
        from pathotune.inference.patient_score import vectors_of

        vectors = vectors_of(self.loaded, tiles).reshape(1, -1)
        joined = np.concatenate([tiles.features, np.repeat(vectors, len(tiles), axis=0)], axis=1)
        return replace(tiles, features=joined, tuning=self.loaded.tuning.fingerprint, path=None)

    def written(self, tiles: Path, target: Path) -> Path:
        """The same from file to file; one that is there already and of the same slide and tuning is kept."""
        about = header(tiles)
        if target.is_file():
            there = header(target)
            same = there.tuning == self.loaded.tuning.fingerprint and there.count == about.count
            if same and there.slide_fingerprint == about.slide_fingerprint:
                return target
        return self.of(FeatureSet.load(tiles)).save(target)
