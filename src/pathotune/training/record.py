"""From a finished training to its file and the document that tells of it."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pathotune.errors import OutputRefused
from pathotune.methods import METHODS
from pathotune.methods.checkpoint import STATISTICS, TEXT_VECTORS, TRAINED, Tuning, tuning_path
from pathotune.methods.options import as_plain
from pathotune.prompts.text import text_facts
from pathotune.training.distance import QUANTILES, FeatureSpace
from pathotune.training.metrics import DRAWS, classification_report, temperature_fit
from pathotune.training.pictures import write_pictures
from pathotune.training.session import Session, best_path, session_path
from pathotune.training.validation import softmax

if TYPE_CHECKING:
    from pathotune.backbones.card import BackboneCard
    from pathotune.backbones.surface import Backbone
    from pathotune.methods.base import MethodConfig
    from pathotune.prompts.text import SentenceVectors
    from pathotune.training.examples import Examples
    from pathotune.training.schedule import TrainingConfig


MOST_WRONG = 50


@dataclass(frozen=True)
class Outcome:
    """What a training came to, at its best epoch.

    Attributes
    ----------
    state : trained tensors by name.
    parameters : how many numbers were trained.
    judged_tiles : the validation tiles that were judged: all of them, except where it has to be quick.
    logits, validation_features : (n, K) and (n, D) of these, uncalibrated.
    features, feature_tiles : (m, D) of training tiles as they are, and which tiles those are.
    history : one dict per epoch.
    swept : which settings a short trial chose, in words.
    went_on_from : SHA-256 of the tuning it started from; empty where it started from nothing.
    computed_tiles : looks of tiles that went through the frozen part of the backbone; the others were kept from before.
    """

    method: str
    config: MethodConfig
    card: BackboneCard
    backbone_facts: dict[str, Any]
    examples: Examples
    training: TrainingConfig
    text: SentenceVectors
    sentences: tuple[str, ...]
    state: dict[str, np.ndarray]
    parameters: int
    judged_tiles: np.ndarray
    logits: np.ndarray
    validation_features: np.ndarray
    features: np.ndarray
    feature_tiles: np.ndarray
    history: list[dict[str, float]]
    best_epoch: int
    device: str
    precision: str
    computed_tiles: int = 0
    went_on_from: str = ""
    swept: str = ""


def keep(outcome: Outcome, out: str | Path, seconds: float, status: str = "done") -> dict[str, Any]:
    """Save the tuning, its card and its session folder, and return the contract's JSON document.

    Parameters
    ----------
    status : "done", or "cancelled" where a person stopped it before its end.
    """
    examples = outcome.examples
    tuning, report, probabilities = _judged(outcome, seconds, DRAWS)
    tuning.training["ended"] = status
    write_pictures(examples, tuning_path(out))
    path = tuning.save(out)
    result = _result(outcome, report, tuning.calibration["temperature"], seconds, path)
    result["most_wrong"] = most_wrong(examples, outcome.judged_tiles, probabilities)
    result["status"] = status
    session = Session(session_path(path))
    written = session.write(examples, result, outcome.training.session_mb * 2**20)
    result["session"] = str(session.folder) if written else None
    return result


def keep_best(outcome: Outcome, out: str | Path, seconds: float) -> None:
    """Save the best epoch so far where a killed program cannot take it away; a disk that will not costs only that."""
    tuning, report, probabilities = _judged(outcome, seconds, draws=0)
    tuning.training["ended"] = "cancelled"  # what it is if nothing comes after it
    with contextlib.suppress(OutputRefused):
        path = tuning.save(best_path(out))
        result = _result(outcome, report, tuning.calibration["temperature"], seconds, path)
        result["most_wrong"] = most_wrong(outcome.examples, outcome.judged_tiles, probabilities)
        Session(session_path(out)).write_best(outcome.examples, result)


def _judged(outcome: Outcome, seconds: float, draws: int) -> tuple[Tuning, dict[str, Any], np.ndarray]:
    """The tuning, its scores on the validation tiles, and their calibrated probabilities (n, K)."""
    examples, tiles = outcome.examples, outcome.judged_tiles
    labels = examples.labels[tiles]
    temperature = float(temperature_fit(outcome.logits, labels))
    probabilities = softmax(outcome.logits, temperature)
    groups = examples.groups[tiles].tolist()
    report = classification_report(probabilities, labels, examples.class_names, groups=groups, draws=draws)
    return _tuning(outcome, temperature, report, seconds), report, probabilities


def most_wrong(
    examples: Examples, tiles: np.ndarray, probabilities: np.ndarray, most: int = MOST_WRONG
) -> list[dict[str, Any]]:
    """The tiles that were taken for another class, the surest mistakes first.

    Parameters
    ----------
    tiles, probabilities : (n,), (n, K) the tiles that were judged.

    Returns
    -------
    ``{"true", "predicted", "probability" (of the predicted class), "probability_true", "tile" (its number in the
    session folder's tiles), "slide" and "box_px0", or "picture"}`` each. No pictures: they are in the session folder or
    on the slide.
    """
    labels, predicted = examples.labels[tiles], probabilities.argmax(axis=1)
    of_true = probabilities[np.arange(len(labels)), labels]
    wrong = np.flatnonzero(predicted != labels)
    order = wrong[np.argsort(of_true[wrong] - probabilities[wrong, predicted[wrong]], kind="stable")][:most]
    return [
        {
            "true": examples.class_names[int(labels[row])],
            "predicted": examples.class_names[int(predicted[row])],
            "probability": float(probabilities[row, predicted[row]]),
            "probability_true": float(of_true[row]),
            "tile": int(tiles[row]),
            **examples.place(int(tiles[row])),
        }
        for row in order.tolist()
    ]


def _result(outcome: Outcome, report: dict[str, Any], temperature: float, seconds: float, path: Path) -> dict[str, Any]:
    examples = outcome.examples
    return {
        "classes": list(examples.class_names),
        "tiles_per_class": examples.tiles_per_class(),
        "validation_tiles_per_class": examples.tiles_per_class(examples.validation),
        "epochs": outcome.history,
        "best_epoch": outcome.best_epoch,
        "val": report,
        "temperature": temperature,
        "trainable_parameters": outcome.parameters,
        "method": outcome.method,
        "backbone": outcome.card.name,
        "device": outcome.device,
        "precision": outcome.precision,
        "computed_tiles": outcome.computed_tiles,
        "text": text_facts(outcome.sentences, outcome.text, examples.class_names if is_by_class(outcome) else ()),
        "seconds": round(seconds, 2),
        "out": str(path),
    }


def _tuning(outcome: Outcome, temperature: float, report: dict[str, Any], seconds: float) -> Tuning:
    examples, text = outcome.examples, outcome.text
    tensors = {TRAINED + name: value for name, value in outcome.state.items()}
    if text.vectors is not None:
        tensors[TEXT_VECTORS] = text.vectors
    statistics, facts = feature_statistics(outcome)
    tensors.update({STATISTICS + name: value for name, value in statistics.items()})
    return Tuning(
        method=outcome.method,
        config=as_plain(outcome.config),
        task=examples.task.to_dict(),
        classes=[
            {"name": name, "color": list(color)}
            for name, color in zip(examples.class_names, examples.class_colors, strict=True)
        ],
        backbone=_backbone(outcome.card, outcome.backbone_facts),
        reading=outcome.training.reading_of(outcome.card),
        texts=outcome.sentences if text.vectors is not None else (),
        text_encoder=text.encoder,
        training={
            "slides": list(examples.slides),
            "slide_mpp": list(examples.slide_mpp),
            "scanners": list(examples.scanners),
            "regions": sum(examples.regions_per_class.values()),
            "regions_per_class": examples.regions_per_class,
            "tiles_per_class": examples.tiles_per_class(),
            "validation_tiles_per_class": examples.tiles_per_class(examples.validation),
            "split": {"by": examples.split_by, "fraction": round(len(labels_of(examples)) / len(examples.labels), 4)},
            "seed": outcome.training.seed,
            "went_on_from": outcome.went_on_from or None,
            "sweep": outcome.swept or None,
            "epochs": len(outcome.history),
            "best_epoch": outcome.best_epoch,
            "metrics": report,
            "options": as_plain(outcome.training),
            "trainable_parameters": outcome.parameters,
            "device": outcome.device,
            "precision": outcome.precision,
            "seconds": round(seconds, 2),
        },
        calibration={"temperature": temperature, "tiles": len(labels_of(examples))},
        feature_statistics=facts,
        tensors=tensors,
    )


def is_by_class(outcome: Outcome) -> bool:
    """Whether each sentence stands for a class."""
    return bool((METHODS[outcome.method].facts or {}).get("classes_are_sentences"))


def labels_of(examples: Examples) -> np.ndarray:
    """Classes of the validation tiles."""
    return np.asarray(examples.labels[examples.validation])


def backbone_facts(card: BackboneCard, backbone: Backbone) -> dict[str, Any]:
    """What a tuning file says of the backbone it was made with."""
    facts = {
        "sha256": backbone.weights_sha256,
        "weights": backbone.weights_source,
        "embed_dim": backbone.embed_dim,
        "output_dim": backbone.output_dim,
        "depth": backbone.depth,
    }
    return _backbone(card, facts)


def _backbone(card: BackboneCard, facts: dict[str, Any]) -> dict[str, Any]:
    """The same from facts; `mpp` is the one tiles are read at."""
    return {
        "name": card.name,
        "title": card.title,
        "source": card.hub_id or facts["weights"],
        **facts,
        "image_size": card.image_size,
        "patch_size": card.patch_size,
        "mpp": card.reading().mpp,
        "mean": list(card.mean or ()),
        "std": list(card.std or ()),
        "pooling": card.pooling,
        "licence": card.licence,
        "non_commercial": card.non_commercial,
        "no_derivatives": card.no_derivatives,
    }


def feature_statistics(outcome: Outcome) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Where the training tiles lie in feature space, to tell later how far a tile is from all of them.

    Returns
    -------
    tensors: those of `distance.FeatureSpace`; facts: how far the validation tiles are from their nearest class, as
    quantiles of the root mean square of (feature - mean) / spread ("distance_quantiles") and of the feature space's own
    distance ("space_quantiles"), its unit ("usual"), and where the prototypes lie.
    """
    examples, labels = outcome.examples, outcome.examples.labels[outcome.feature_tiles]
    places = _pseudonymous_places(examples, outcome.feature_tiles)
    space = FeatureSpace.fit(outcome.features, labels, outcome.validation_features, outcome.training.seed, places)
    found = {
        "distance_quantiles": nearest_class_distance(outcome.validation_features, space.mean, space.spread),
        "space_quantiles": space.distance(outcome.validation_features),
    }
    facts: dict[str, Any] = {
        name: {str(q): float(np.quantile(values, q)) for q in QUANTILES} for name, values in found.items()
    }
    facts |= {"tiles": len(labels), "usual": space.usual, "prototypes": list(space.places)}
    return space.tensors(), facts


def _pseudonymous_places(examples: Examples, tiles: np.ndarray) -> list[dict[str, Any] | None]:
    """Where tiles lie, in words that may be passed on: nothing for those of a table."""
    if not examples.slides_px0:
        return []
    return [
        {"slide": examples.slides[int(examples.slide[tile])], "box_px0": np.round(examples.boxes_px0[tile], 1).tolist()}
        for tile in tiles.tolist()
    ]


def nearest_class_distance(features: np.ndarray, mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """(n,) distance of features (n, D) to the nearest class mean, in units of the spread; about 1 where typical."""
    scaled = [(((features - center) / spread) ** 2).mean(axis=1) for center in mean]
    return np.asarray(np.sqrt(np.min(scaled, axis=0)))


def pseudonym(fingerprint: str) -> str:
    """A slide's name in files that are passed on: from what the slide holds, never from its file name."""
    return "slide-" + hashlib.sha256(f"pathotune slide {fingerprint}".encode()).hexdigest()[:8]
