"""The model card beside a tuning file: what a pathologist should know before using it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathotune.methods.checkpoint import Tuning

SCORES = {
    "balanced_accuracy": "Balanced accuracy",
    "auc": "AUC (one class against the rest, mean)",
    "accuracy": "Accuracy",
    "f1": "F1 (mean over classes)",
    "ece": "Calibration error",
}


def model_card(tuning: Tuning) -> str:
    """The card as Markdown; slides appear by pseudonym only."""
    parts = [
        f"# {tuning.name}",
        "**For research use only. Not a medical device; not for diagnosis.**",
        _what(tuning),
        _classes(tuning),
        _data(tuning),
        _scores(tuning),
        _backbone(tuning),
        _how(tuning),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _what(tuning: Tuning) -> str:
    from pathotune.methods import METHODS

    title = METHODS[tuning.method].title if tuning.method in METHODS else tuning.method
    reading = tuning.reading
    task = tuning.task.get("title") or tuning.task.get("name") or "regions drawn by hand"
    lines = [
        "## What it does",
        "",
        (
            f"It tells {_listed(tuning.class_names)} apart in tiles of {reading.tile_um:.0f} µm "
            f"({reading.tile_px} pixels of {reading.mpp:g} µm). It gives one of these classes to every tile, "
            "also to tissue that is none of them."
        ),
        "",
        f"- Task: {task}",
        f"- Method: {title}",
        f"- Made: {tuning.created or 'not saved yet'}",
    ]
    if tuning.texts:
        lines += ["- Sentences it was told: " + " ".join(f"“{text}”" for text in tuning.texts)]
    return "\n".join(lines)


def _classes(tuning: Tuning) -> str:
    counts: dict[str, Any] = tuning.training.get("tiles_per_class", {})
    validation: dict[str, Any] = tuning.training.get("validation_tiles_per_class", {})
    regions: dict[str, Any] = tuning.training.get("regions_per_class", {})
    lines = [
        "## Classes and what it has seen of them",
        "",
        "| class | regions | tiles | of these held out for validation |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name in tuning.class_names:
        cells = (_or_dash(regions.get(name)), _or_dash(counts.get(name)), _or_dash(validation.get(name)))
        lines.append(f"| {_cell(name)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _data(tuning: Tuning) -> str:
    training = tuning.training
    slides = training.get("slides", [])
    split = training.get("split", {})
    lines = ["## Slides", ""]
    lines.append(f"- {len(slides)} slide{'' if len(slides) == 1 else 's'}, by pseudonym: {_listed(slides) or 'none'}")
    if training.get("slide_mpp"):
        lines.append(f"- Their own pixel size: {_listed([f'{value:g}' for value in training['slide_mpp']])} µm")
    if split:
        lines.append(
            f"- Validation: {split.get('fraction', 0):.0%} of the tiles, split by {split.get('by', 'region')}, so that "
            f"no {split.get('by', 'region')} is on both sides (seed {training.get('seed', 0)})"
        )
    if len(slides) == 1:
        lines.append("- One slide only: how it does on other slides, scanners and laboratories is not known.")
    return "\n".join(lines)


def _scores(tuning: Tuning) -> str:
    metrics = tuning.training.get("metrics", {})
    known = [key for key in SCORES if isinstance(metrics.get(key), int | float)]
    if not known:
        return ""
    lines = [
        "## Scores on the validation regions",
        "",
        "| score | value | 95 % interval |",
        "| --- | ---: | ---: |",
    ]
    intervals = metrics.get("ci95") or {}
    lines += [f"| {SCORES[key]} | {metrics[key]:.3f} | {_interval(intervals.get(key))} |" for key in known]
    lines += [
        "",
        (
            f"The best epoch was chosen on these same regions (number {tuning.training.get('best_epoch', '–')} of "
            f"{tuning.training.get('epochs', '–')}), so expect somewhat less elsewhere. Judge it on slides of your own "
            "with `pathotune evaluate`."
        ),
    ]
    return "\n".join(lines)


def _backbone(tuning: Tuning) -> str:
    backbone = tuning.backbone
    lines = [
        "## Backbone and licence",
        "",
        (
            f"It works with the frozen backbone **{backbone['name']}** only "
            f"({backbone.get('source') or 'source not stated'}), which is not in this file."
        ),
        "",
        f"- Licence of the backbone: {backbone.get('licence') or 'not stated'}",
        f"- Weights, SHA-256: `{backbone.get('sha256') or 'not stated'}`",
    ]
    if backbone.get("non_commercial"):
        lines.append("- The backbone's licence forbids commercial use; it may cover what is tuned on it too.")
    if backbone.get("no_derivatives"):
        lines.append("- The backbone's licence restricts passing on models made from it: read it before sharing this.")
    return "\n".join(lines)


def _how(tuning: Tuning) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in tuning.versions.items())
    parameters = tuning.training.get("trainable_parameters")
    lines = [
        "## How it was made",
        "",
        f"- Trained numbers: {parameters:,}" if isinstance(parameters, int) else "- Trained numbers: not stated",
        f"- Seed: {tuning.training.get('seed', 'not stated')}",
        f"- Temperature of the calibration: {tuning.calibration.get('temperature', 1.0):.3f}",
        f"- Versions: {versions or 'not stated'}",
    ]
    if tuning.training.get("ended") == "cancelled":
        lines.append("- Its training was cancelled; this is the best epoch up to then")
    if tuning.config.get("speed") == "interactive":
        lines.append("- Interactive mode: prompts in the last third of the backbone's blocks only")
    if tuning.training.get("went_on_from"):
        lines.append(f"- It went on from the tuning with SHA-256 `{tuning.training['went_on_from']}`")
    return "\n".join(lines)


def _listed(names: Any) -> str:
    names = [str(name) for name in names]
    return names[0] if len(names) == 1 else " and ".join([", ".join(names[:-1]), names[-1]]) if names else ""


def _or_dash(value: Any) -> str:
    return "–" if value is None else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _interval(between: Any) -> str:
    if isinstance(between, list | tuple) and len(between) == 2 and all(isinstance(x, int | float) for x in between):
        return f"{between[0]:.3f} to {between[1]:.3f}"
    return "–"
