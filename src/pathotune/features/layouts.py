"""What files of tile features say of themselves, in our own layout and in those of TRIDENT and CLAM."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pathotune.errors import FeaturesUnreadable, TableUnreadable

if TYPE_CHECKING:
    import h5py

LAYOUT = "pathotune features"
NEWEST = 1
STATED_FILE = "pathotune-features.yaml"
"""A file beside features of other tools in which a person states what they do not say themselves."""

# How TRIDENT and CLAM call the models whose cards we have.
ENCODERS: Mapping[str, str] = {
    "conch_v1": "conch",
    "conch_v15": "conch_v1.5",
    "gigapath": "prov-gigapath",
    "hibou_l": "hibou-l",
    "hoptimus0": "h-optimus-0",
    "hoptimus1": "h-optimus-1",
    "lunit-vits8": "lunit-dino-s8",
    "lunit-vits16": "lunit-dino-s16",
    "midnight12k": "midnight-12k",
    "phikon_v2": "phikon-v2",
    "uni_v1": "uni",
    "uni_v2": "uni2-h",
}


def facts_of(file: h5py.File, path: Path) -> dict[str, Any]:
    """The fields of a `FeatureHeader` that stand in attributes, and what `STATED_FILE` beside the file adds.

    Raises
    ------
    FeaturesUnreadable : of a newer format than this version knows, or the person's statement contradicts the file.
    TableUnreadable : `STATED_FILE` cannot be read.
    """
    if _text(file.attrs.get("format")) == LAYOUT:
        return _ours(file, path)
    facts = _foreign(file, path)
    return _with_stated(facts, stated_facts(path.parent), path)


def _ours(file: h5py.File, path: Path) -> dict[str, Any]:
    attributes = file.attrs
    version = int(attributes.get("version", 1))
    if version > NEWEST:
        raise FeaturesUnreadable(
            f"{path.name} has format {version}, and this version of pathotune reads up to {NEWEST}. Update pathotune."
        )
    try:
        width, height = np.asarray(attributes["tile_px0"], dtype=float).tolist()
        return {
            "backbone": _text(attributes["backbone"]),
            "mpp": float(attributes["mpp"]),
            "tile_px": int(attributes["tile_px"]),
            "image_px": int(attributes["image_px"]),
            "tile_px0": (width, height),
            "slide": _text(attributes["slide"]),
            "slide_fingerprint": _text(attributes["slide_fingerprint"]),
            "tuning": _text(attributes.get("tuning")),
            "extra": {**json.loads(_text(attributes.get("extra")) or "{}"), "layout": "pathotune", "mpp_from": "file"},
        }
    except (KeyError, ValueError, TypeError) as error:
        raise FeaturesUnreadable(
            f"{path.name} lacks what our features say of themselves ({error}); extract again."
        ) from None


def _foreign(file: h5py.File, path: Path) -> dict[str, Any]:
    """TRIDENT writes how tiles were laid beside the corners; CLAM does so only in its files of corners."""
    places = dict(file["coords"].attrs)
    about = dict(file["features"].attrs)
    is_trident = "target_magnification" in places
    tile_px = int(_number(places.get("patch_size"), 0))
    encoder = _text(about.get("encoder") or file.attrs.get("encoder") or file.attrs.get("backbone"))
    if encoder in {"", "None"} and path.parent.name.startswith("features_"):
        encoder = path.parent.name.removeprefix("features_")  # TRIDENT names its folders so
    mpp, mpp_from = _number(file.attrs.get("mpp", places.get("mpp")), math.nan), "file"
    if math.isnan(mpp) and _number(places.get("target_magnification"), 0) > 0:
        mpp, mpp_from = 10 / _number(places["target_magnification"], 0), "magnification"
    kept = {name: _plain(places[name]) for name in sorted(places) if name not in {"savetodir", "save_path"}}
    return {
        "backbone": ENCODERS.get(encoder.lower(), "" if encoder == "None" else encoder),
        "mpp": mpp,
        "tile_px": tile_px,
        "image_px": 0,
        "tile_px0": _tile_px0(places, tile_px),
        "slide": _text(places.get("name") or about.get("name")) or path.stem,
        "slide_fingerprint": "",
        "extra": {
            "layout": "trident" if is_trident else "clam",
            "mpp_from": "" if math.isnan(mpp) else mpp_from,
            "coords": kept,
        },
    }


def _tile_px0(places: Mapping[str, Any], tile_px: int) -> tuple[float, float]:
    """(width, height) of a tile in level-0 pixels, (0, 0) where the file does not say."""
    side = _number(places.get("patch_size_level0"), 0.0)
    if not side and _number(places.get("target_magnification"), 0) > 0:
        side = tile_px * _number(places.get("level0_magnification"), 0) / _number(places["target_magnification"], 1)
    if side:
        return side, side
    if "downsample" in places:
        scale = np.ravel(np.asarray(places["downsample"], dtype=float)) * _number(places.get("custom_downsample"), 1)
        return float(tile_px * scale[0]), float(tile_px * scale[-1])
    return (0.0, 0.0)


def stated_facts(folder: Path) -> dict[str, Any]:
    """What a person states of the features in a folder: any of backbone, mpp, tile_px, image_px.

    Raises
    ------
    TableUnreadable : the file is no YAML, or says something else or something that cannot be.
    """
    path = folder / STATED_FILE
    if not path.is_file():
        return {}
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise TableUnreadable(f"{path} cannot be read: {error}") from None
    kinds: dict[str, type] = {"backbone": str, "mpp": float, "tile_px": int, "image_px": int}
    unknown = sorted(set(data) - set(kinds)) if isinstance(data, dict) else [str(data)[:40]]
    if unknown:
        raise TableUnreadable(
            f"{path} says {unknown[0]!r}; it may say {', '.join(kinds)}, each in a line `name: value`."
        )
    stated = {}
    for name, value in data.items():
        try:
            stated[name] = kinds[name](value)
        except (TypeError, ValueError):
            raise TableUnreadable(f"{path}: {name} cannot be {value!r}.") from None
        if name != "backbone" and not (stated[name] > 0 and math.isfinite(stated[name])):
            raise TableUnreadable(f"{path}: {name} must be a positive number, and {value!r} is not.")
    return stated


def _with_stated(facts: dict[str, Any], stated: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The facts completed; a statement against the file is refused, but a magnification is only a round number."""
    for name, value in stated.items():
        there, nominal = facts[name], name == "mpp" and facts["extra"]["mpp_from"] == "magnification"
        is_known = bool(there) and not (isinstance(there, float) and math.isnan(there))
        if name == "backbone":
            is_same = there == value
        else:
            is_same = is_known and abs(there - value) <= (NOMINAL if nominal else EXACT) * there
        if is_known and not is_same:
            raise FeaturesUnreadable(
                f"{path.name} says {name} {there}, but {STATED_FILE} beside it says {value}; put right what is wrong."
            )
        facts[name] = value
        if name == "mpp":
            facts["extra"]["mpp_from"] = "person"
    return facts


EXACT = 0.02
"""Pixel sizes that differ by less are the same: files round them."""
NOMINAL = 0.25
"""What a magnification says of the pixel size is right to about this: scans called 40 have 0.20 to 0.28 µm."""


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _number(value: Any, otherwise: float) -> float:
    """An attribute as a number; tools write numbers as arrays of one, or as text."""
    try:
        number = float(np.ravel(np.asarray(value, dtype=float))[0])
    except (TypeError, ValueError, IndexError):
        return otherwise
    return otherwise if math.isnan(number) else number


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return _text(value) if isinstance(value, bytes) else value
