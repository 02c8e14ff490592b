"""A backbone against its authors' own loading path: the same images through both, and how far they are apart."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pathotune.backbones import locate
from pathotune.backbones.card import BackboneCard
from pathotune.backbones.loading import BUILT_IN_SEED, built_in_file, load, require_loadable
from pathotune.errors import FileMissing

if TYPE_CHECKING:
    import torch
    from torch import Tensor

log = logging.getLogger(__name__)

# Two float32 runs of the same network through different code.
SAME = 1e-4
IMAGES = 4


class NoReference(Exception):  # caught in this file, never seen by a person
    """The library has no loading path of its own for this card; the text says why."""


def check_backbone(card: BackboneCard, weights: Path | None = None) -> dict[str, Any]:
    """Load a backbone strictly and compare its features with those of its library's own loading path.

    Parameters
    ----------
    card : which backbone.
    weights : its file or folder; without it, wherever `load_backbone` finds one.

    Returns
    -------
    dict
        name, weights, sha256, reference (what it was compared with, or None), max_difference (largest absolute),
        relative_difference, agrees (None where there is nothing to compare with), notes, seconds, sentence.

    Raises
    ------
    BackboneUnavailable, WeightsRefused
        As `load_backbone`; without weights the sentence says what is needed.
    """
    require_loadable(card)
    started = time.perf_counter()
    path = _path_of(card, weights)

    import torch

    backbone = load(card, path, None, None) if path is not None else load(card, None, None, None)
    images = torch.from_numpy(fixed_images(card.image_size or 224))
    result: dict[str, Any] = {
        "name": card.name,
        "weights": None if path is None else str(path),
        "sha256": backbone.weights_sha256,
        "reference": None,
        "max_difference": None,
        "relative_difference": None,
        "agrees": None,
        "notes": [],
    }
    with torch.no_grad():
        pixels = backbone.normalise(images)
        ours = backbone(pixels).pooled
        try:
            if path is None:
                raise NoReference(f"its numbers are drawn from the seed {BUILT_IN_SEED}, not loaded")
            what, theirs, notes = _REFERENCES[card.loader](card, path, pixels)
        except NoReference as reason:
            result["sentence"] = f"{card.title} loads strictly, every tensor in its place; not compared: {reason}."
        else:
            result.update(reference=what, notes=notes, **_distance(ours, theirs))
            result["sentence"] = _sentence(card, result)
    result["seconds"] = round(time.perf_counter() - started, 1)
    return result


def fixed_images(side: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Four images, the same every time: smooth pink and violet patches with grain, uint8 (4, side, side, 3)."""
    rng = np.random.default_rng(7)
    coarse = rng.uniform(0, 1, (IMAGES, 8, 8, 1))
    index = np.arange(side) * 8 // side
    mix = coarse[:, index][:, :, index]
    color = mix * np.array([196, 120, 178]) + (1 - mix) * np.array([236, 208, 226])
    return np.asarray(np.clip(color + rng.normal(0, 12, (IMAGES, side, side, 3)), 0, 255), dtype=np.uint8)


def _path_of(card: BackboneCard, weights: Path | None) -> Path | None:
    if weights is None and locate.is_built_in(card):
        return built_in_file() if card.file_sha256 else None
    if weights is not None and not weights.exists():
        raise FileMissing(weights, "weights file")
    return locate.find_weights(card, weights)[0]


def _distance(ours: Tensor, theirs: Tensor) -> dict[str, Any]:
    if ours.shape != theirs.shape:
        return {"max_difference": None, "relative_difference": None, "agrees": False}
    largest = float((ours - theirs).abs().max())
    relative = largest / max(float(theirs.abs().max()), 1e-12)
    return {"max_difference": largest, "relative_difference": relative, "agrees": relative <= SAME}


def _sentence(card: BackboneCard, result: dict[str, Any]) -> str:
    notes = "".join(f" {note}" for note in result["notes"])
    if result["max_difference"] is None:
        return f"{card.title} gives features of another width than {result['reference']}: the card is wrong.{notes}"
    verdict = "agrees with" if result["agrees"] else "DIFFERS from"
    return (
        f"{card.title} {verdict} {result['reference']}: largest difference {result['max_difference']:.3g} "
        f"({100 * result['relative_difference']:.3g} % of the largest value).{notes}"
    )


def _pooled(card: BackboneCard, tokens: Tensor) -> Tensor:
    import torch

    if card.pooling == "cls+mean_patch":
        return torch.cat([tokens[:, 0], tokens[:, card.prefix_tokens :].mean(dim=1)], dim=-1)
    if card.pooling == "mean+std_patch":
        spread, mean = torch.std_mean(tokens[:, card.prefix_tokens :], dim=1, correction=0)
        return torch.cat([mean, spread], dim=-1)
    return tokens[:, 0]


def _with_timm(card: BackboneCard, path: Path, pixels: Tensor) -> tuple[str, Tensor, list[str]]:
    """timm.create_model on the folder with its config.json, or on the file alone."""
    import timm

    from pathotune.backbones.tile.timm_build import timm_arguments

    if card.rename or card.head:
        raise NoReference("its weights are published with code of its own, not as a model of timm")
    config = _json(path.parent / "config.json")
    arguments = timm_arguments(card)
    try:
        if "architecture" in config and path.name in {"model.safetensors", "pytorch_model.bin"}:
            what = "timm.create_model on the published folder"
            model = timm.create_model(f"local-dir:{path.parent}", pretrained=True, **arguments)
        else:
            what = "timm.create_model with this file"
            overlay = {"file": str(path), "custom_load": False}
            model = timm.create_model(card.architecture, pretrained=True, pretrained_cfg_overlay=overlay, **arguments)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise NoReference(f"timm's own loading failed ({str(error).splitlines()[0][:120]})") from None
    model.eval()
    ours_alone = card.pooling in {"cls+mean_patch", "mean+std_patch"}
    theirs = _pooled(card, model.forward_features(pixels)) if ours_alone else model(pixels)
    return what, theirs, _normalisation_notes(card, config.get("pretrained_cfg", config))


def _with_transformers(card: BackboneCard, path: Path, pixels: Tensor) -> tuple[str, Tensor, list[str]]:
    """AutoModel on the published folder; models that bring code of their own are not run."""
    import transformers

    if not (path.parent / "config.json").is_file():
        raise NoReference("there is no config.json beside the weights, which transformers' own loading needs")
    transformers.utils.logging.disable_progress_bar()
    kind: Any = transformers.AutoModel
    if card.pooling == "head":
        kind = getattr(transformers, card.architecture)
    try:
        model = kind.from_pretrained(str(path.parent), local_files_only=True, trust_remote_code=False).float().eval()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise NoReference(f"transformers' own loading failed ({str(error).splitlines()[0][:120]})") from None
    output = model(pixel_values=pixels)
    if card.pooling == "head":
        theirs = output.image_embeds if hasattr(output, "image_embeds") else output.pooler_output
    else:
        theirs = _pooled(card, output.last_hidden_state)
    preparation = _json(path.parent / "preprocessor_config.json")
    stated = {"mean": preparation.get("image_mean"), "std": preparation.get("image_std")}
    return f"transformers' {kind.__name__}", theirs, _normalisation_notes(card, stated)


def _with_open_clip(card: BackboneCard, path: Path, pixels: Tensor) -> tuple[str, Tensor, list[str]]:
    """open_clip.create_model on the published folder."""
    import open_clip

    config = _json(path.parent / "open_clip_config.json")
    if not config:
        raise NoReference("there is no open_clip_config.json beside the weights, which open_clip's own loading needs")
    try:
        model = open_clip.create_model(f"local-dir:{path.parent}").eval()
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise NoReference(f"open_clip's own loading failed ({str(error).splitlines()[0][:120]})") from None
    stated = config.get("preprocess_cfg", {})
    return (
        "open_clip.create_model on the published folder",
        model.encode_image(pixels),
        _normalisation_notes(card, stated),
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _normalisation_notes(card: BackboneCard, stated: dict[str, Any]) -> list[str]:
    """A sentence where the published configuration normalises otherwise than the card."""
    notes = []
    for key, ours in (("mean", card.mean), ("std", card.std)):
        theirs = stated.get(key)
        if theirs and ours and len(theirs) == 3 and not np.allclose(theirs, ours, atol=2e-3):
            notes.append(f"The published configuration has {key} {list(theirs)}, the card {list(ours)}.")
    return notes


_REFERENCES: dict[str, Callable[[BackboneCard, Path, torch.Tensor], tuple[str, torch.Tensor, list[str]]]] = {
    "timm": _with_timm,
    "transformers": _with_transformers,
    "open_clip": _with_open_clip,
}
