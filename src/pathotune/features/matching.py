"""Whether features fit a backbone and a reading: checked from what the files say, never assumed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from pathotune.errors import FeaturesMismatch
from pathotune.features.featureset import FeatureHeader, FeatureSet
from pathotune.features.layouts import EXACT, NOMINAL, STATED_FILE
from pathotune.tiles.tileset import Reading

if TYPE_CHECKING:
    from pathotune.backbones.card import BackboneCard

_EXAMPLES = {"backbone": "backbone: uni", "mpp": "mpp: 0.5", "tile_px": "tile_px: 256"}
_TITLES = {"backbone": "which backbone made it", "mpp": "its pixel size", "tile_px": "how large its tiles are"}


def check_features(
    features: FeatureSet | FeatureHeader,
    backbone: BackboneCard | str,
    reading: Reading | None = None,
    *,
    tuning: str = "",
    sha256: str = "",
) -> None:
    """Refuse features of another backbone, pixel size, tile size or tuning.

    Parameters
    ----------
    backbone : the card (then its pixel size and width count too) or name of the backbone they must come from.
    reading : how the tiles must have been read; without it, any tile size, as long as the file says which.
    tuning : fingerprint of the tuning they must come from, "" for the plain backbone.
    sha256 : of the backbone's weights, where it is known.

    Raises
    ------
    FeaturesMismatch : the sentence says what differs or is not said, and what to do.
    """
    about = features.header if isinstance(features, FeatureSet) else features
    file = about.path.name if about.path else about.slide
    _check_stated(about, file)
    name = backbone if isinstance(backbone, str) else backbone.name
    if about.backbone != name:
        raise FeaturesMismatch(
            f"{file} holds features of {about.backbone}, and {name} is needed; give the folder with those of {name}, "
            f"or extract them with: pathotune features --backbone {name}"
        )
    if not isinstance(backbone, str) and backbone.output_dim and about.width != backbone.output_dim:
        raise FeaturesMismatch(
            f"{file} has {about.width} features a tile, but {backbone.title} gives {backbone.output_dim}; they were "
            "pooled in another way or come from another model. Extract them again."
        )
    there = str(about.extra.get("backbone_sha256") or "")
    if sha256 and there and sha256 != there:
        raise FeaturesMismatch(
            f"{file} was made with other weights of {name} ({there[:8]}…) than those here ({sha256[:8]}…); extract "
            "again."
        )
    if about.tuning != tuning:
        here, other = (f"the tuning {text[:8]}…" if text else "the plain backbone" for text in (about.tuning, tuning))
        raise FeaturesMismatch(f"{file} was made with {here}, and {other} is needed; extract again.")
    wanted = None if isinstance(backbone, str) else backbone.mpp
    if reading is not None:
        wanted = reading.mpp
    if wanted is not None and not _is_same_size(about, wanted):
        raise FeaturesMismatch(
            f"{file} was read at {about.mpp:g} µm per pixel, and {wanted:g} is needed; extract again at that size."
        )
    if reading is not None and about.tile_px != reading.tile_px:
        raise FeaturesMismatch(
            f"{file} has tiles of {about.tile_px} px, and tiles of {reading.tile_px} px are needed; extract again."
        )
    if reading is not None and (stain := _stain_of(about)) != reading.stain:
        raise FeaturesMismatch(
            f"{file} was made of tiles whose stain was {_handled(stain)}, and tiles whose stain is "
            f"{_handled(reading.stain)} are needed; leave --features out, so that they are extracted as needed."
        )


def _stain_of(about: FeatureHeader) -> str:
    """How the tiles' stain was handled; files of other programs leave it as it is."""
    kept = about.extra.get("reading")
    return str(kept.get("stain", "none")) if isinstance(kept, dict) else "none"


def _handled(stain: str) -> str:
    return "left as it is" if stain == "none" else f"brought to one reference ({stain})"


def _is_same_size(about: FeatureHeader, mpp: float) -> bool:
    """A magnification says the pixel size only roughly."""
    reach = NOMINAL if about.extra.get("mpp_from") == "magnification" else EXACT
    return abs(about.mpp - mpp) <= reach * mpp


def _are_same_size(first: FeatureHeader, other: FeatureHeader) -> bool:
    return (math.isnan(first.mpp) and math.isnan(other.mpp)) or _is_same_size(other, first.mpp)


def _check_stated(about: FeatureHeader, file: str) -> None:
    """Refuse a file that does not say what has to be known."""
    unknown = [name for name in _TITLES if not getattr(about, name) or (name == "mpp" and math.isnan(about.mpp))]
    if unknown:
        where = f"{about.path.parent / STATED_FILE}" if about.path else STATED_FILE
        raise FeaturesMismatch(
            f"{file} does not say {' and '.join(_TITLES[name] for name in unknown)}. State it once for the folder: "
            f"write {' and '.join(repr(_EXAMPLES[name]) for name in unknown)} (with the right value) into {where}"
        )


def check_alike(headers: Iterable[FeatureHeader]) -> FeatureHeader:
    """The common facts of several files, whose slide and count are those of the first.

    Raises
    ------
    FeaturesMismatch : two files differ in backbone, width, pixel size, tile size or tuning; both are named.
    """
    first: FeatureHeader | None = None
    for about in headers:
        if first is None:
            first = about
            continue
        for name, title in (
            *(("backbone", "backbone"), ("width", "number of features"), ("tile_px", "tile size in pixels")),
            *(("mpp", "pixel size"), ("tuning", "tuning")),
        ):
            one, other = getattr(first, name), getattr(about, name)
            if one != other and not (name == "mpp" and _are_same_size(first, about)):
                files = " and ".join(item.path.name if item.path else item.slide for item in (first, about))
                raise FeaturesMismatch(
                    f"{files} differ in their {title} ({one or 'not said'} and {other or 'not said'}); features of one "
                    "cohort must be made in one way."
                )
    if first is None:
        raise FeaturesMismatch("There is no file of features; extract some with: pathotune features")
    return first


def reading_of(features: FeatureSet | FeatureHeader, card: BackboneCard | None = None) -> Reading:
    """How the tiles of these features were read, for the tuning that is made from them.

    Raises
    ------
    FeaturesMismatch : the file does not say it.
    """
    about = features.header if isinstance(features, FeatureSet) else features
    _check_stated(about, about.path.name if about.path else about.slide)
    kept = about.extra.get("reading")
    if isinstance(kept, dict):
        return replace(Reading.from_dict(kept), mpp=about.mpp, tile_px=about.tile_px)
    image_px = about.image_px or (card.image_size if card is not None and card.image_size else about.tile_px)
    return Reading(mpp=about.mpp, tile_px=about.tile_px, image_px=image_px)
