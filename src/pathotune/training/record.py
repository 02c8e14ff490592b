"""From a finished training to its file and the document that tells of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pathotune.methods.checkpoint import STATISTICS, TEXT_VECTORS, TRAINED, Tuning
from pathotune.methods.options import as_plain
from pathotune.training.metrics import classification_report, temperature_fit
from pathotune.training.validation import softmax

if TYPE_CHECKING:
    from pathotune.backbones.card import BackboneCard
    from pathotune.methods.base import MethodConfig
    from pathotune.prompts.text import SentenceVectors
    from pathotune.training.examples import Examples
    from pathotune.training.schedule import TrainingConfig


@dataclass(frozen=True)
class Outcome:
    """What a training came to, at its best epoch.

    Attributes
    ----------
    state : trained tensors by name.
    parameters : how many numbers were trained.
    logits, validation_features : (n_validation, K) and (n_validation, D), uncalibrated.
    features, feature_labels : (m, D), (m,) of training tiles as they are.
    history : one dict per epoch.
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
    logits: np.ndarray
    validation_features: np.ndarray
    features: np.ndarray
    feature_labels: np.ndarray
    history: list[dict[str, float]]
    best_epoch: int
    device: str
    precision: str


def keep(outcome: Outcome, out: str | Path, seconds: float) -> dict[str, Any]:
    """Save the tuning and its card, and return the contract's JSON document."""
    examples = outcome.examples
    labels = examples.labels[examples.validation]
    temperature = float(temperature_fit(outcome.logits, labels))
    groups = examples.groups[examples.validation].tolist()
    report = classification_report(softmax(outcome.logits, temperature), labels, examples.class_names, groups=groups)
    tuning = _tuning(outcome, temperature, report, seconds)
    path = tuning.save(out)
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
        reading=outcome.card.reading(),
        texts=outcome.sentences if text.vectors is not None else (),
        text_encoder=text.encoder,
        training={
            "slides": list(examples.slides),
            "slide_mpp": list(examples.slide_mpp),
            "regions": sum(examples.regions_per_class.values()),
            "regions_per_class": examples.regions_per_class,
            "tiles_per_class": examples.tiles_per_class(),
            "validation_tiles_per_class": examples.tiles_per_class(examples.validation),
            "split": {"by": examples.split_by, "fraction": round(len(labels_of(examples)) / len(examples.labels), 4)},
            "seed": outcome.training.seed,
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


def labels_of(examples: Examples) -> np.ndarray:
    """Classes of the validation tiles."""
    return np.asarray(examples.labels[examples.validation])


def _backbone(card: BackboneCard, facts: dict[str, Any]) -> dict[str, Any]:
    """What the file says of the backbone; `mpp` is the one tiles are read at."""
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
    tensors: "mean" (K, D) per class and "spread" (D,) within classes; facts: how far the validation tiles are from
    their nearest class, as quantiles of the root mean square of (feature - mean) / spread.
    """
    classes = range(len(outcome.examples.class_names))
    features, labels = outcome.features.astype(np.float64), outcome.feature_labels
    mean = np.stack([features[labels == label].mean(axis=0) for label in classes])  # (K, D)
    spread = np.sqrt(((features - mean[labels]) ** 2).mean(axis=0))  # (D,)
    spread = np.where(spread > 1e-6, spread, 1.0)
    distances = nearest_class_distance(outcome.validation_features, mean, spread)
    quantiles = {str(q): float(np.quantile(distances, q)) for q in (0.5, 0.9, 0.95, 0.99)}
    tensors = {"mean": mean.astype(np.float32), "spread": spread.astype(np.float32)}
    return tensors, {"tiles": len(labels), "distance_quantiles": quantiles}


def nearest_class_distance(features: np.ndarray, mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """(n,) distance of features (n, D) to the nearest class mean, in units of the spread; about 1 where typical."""
    scaled = [(((features - center) / spread) ** 2).mean(axis=1) for center in mean]
    return np.asarray(np.sqrt(np.min(scaled, axis=0)))


def pseudonym(fingerprint: str) -> str:
    """A slide's name in files that are passed on: from what the slide holds, never from its file name."""
    return "slide-" + hashlib.sha256(f"pathotune slide {fingerprint}".encode()).hexdigest()[:8]
