"""The model card beside a tuning file: what a pathologist should know before using it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pathotune.methods.classes import takes_sentences
from pathotune.prompts.text import alike, cosines

if TYPE_CHECKING:
    from pathlib import Path

    from pathotune.methods.checkpoint import Tuning

OVERLAY = "overlay.jpg"
# Letters of a class's sentences that the card shows; several wordings of each may be many.
SHOWN = 300
SCORES = {
    "balanced_accuracy": "Balanced accuracy",
    "auc": "AUC (one class against the rest, mean)",
    "accuracy": "Accuracy",
    "f1": "F1 (mean over classes)",
    "ece": "Calibration error",
}


def picture_path(path: Path, label: int) -> Path:
    """The picture of a class in the folder NAME.card beside a tuning, by its number in the order of the logits."""
    return pictures_folder(path) / f"class-{label + 1}.jpg"


def overlay_path(path: Path) -> Path:
    """The picture of a prediction in the folder NAME.card."""
    return pictures_folder(path) / OVERLAY


def pictures_folder(path: Path) -> Path:
    """Where the pictures of a tuning's card lie."""
    return path.with_name(path.name.removesuffix(".safetensors").removesuffix(".pathotune") + ".card")


def model_card(tuning: Tuning) -> str:
    """The card as Markdown; slides appear by pseudonym only."""
    head = [f"# {tuning.name}", "**For research use only. Not a medical device; not for diagnosis.**"]
    if tuning.method == "transcriptomics":
        from pathotune.methods.gene_card import gene_parts

        parts = [*head, *gene_parts(tuning), _use(tuning), _licences(tuning), _how(tuning)]
        return "\n\n".join(part for part in parts if part) + "\n"
    parts = [
        *head,
        _what(tuning),
        _use(tuning),
        _classes(tuning),
        _sentences(tuning),
        _pictures(tuning),
        _data(tuning),
        _scores(tuning),
        _mistakes(tuning),
        _licences(tuning),
        _how(tuning),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _what(tuning: Tuning) -> str:
    from pathotune.methods import METHODS

    title = METHODS[tuning.method].title if tuning.method in METHODS else tuning.method
    reading = tuning.reading
    task = tuning.task.get("title") or tuning.task.get("name") or "regions drawn by hand"
    tiles = f"tiles of {reading.tile_um:.0f} µm ({reading.tile_px} pixels of {reading.mpp:g} µm)"
    what = (
        f"It tells whole slides of {_listed(tuning.class_names)} apart, from all their {tiles}. It gives one of these "
        "classes to every slide, also to one that is none of them."
        if is_of_slides(tuning)
        else f"It tells {_listed(tuning.class_names)} apart in {tiles}. It gives one of these classes to every tile, "
        "also to tissue that is none of them."
    )
    lines = [
        "## What it does",
        "",
        what,
        "",
        f"- Task: {task}",
        f"- Method: {title}",
        f"- Made: {tuning.created or 'not saved yet'}",
    ]
    if tuning.texts and not takes_sentences(tuning.method):
        lines += ["- Sentences it was told: " + " ".join(f"“{text}”" for text in tuning.texts)]
    if tuning.config.get("text", "own") != "own":
        lines += [f"- A control, not for use: its sentences are {tuning.config['text']} on purpose"]
    return "\n".join(lines)


def _sentences(tuning: Tuning) -> str:
    """What stands for each class in words, and how alike that is, where classes are sentences."""
    vectors, names = tuning.text_vectors, tuning.class_names
    if not takes_sentences(tuning.method) or vectors is None or not len(names) == len(vectors) == len(tuning.texts):
        return ""
    heads = "".join(f" {_cell(name)} |" for name in names)
    lines = ["## The sentences of its classes", "", f"| class | sentence |{heads}"]
    lines.append("| --- | --- |" + " ---: |" * len(names))
    for name, text, row in zip(names, tuning.texts, cosines(vectors), strict=True):
        shown = text if len(text) <= SHOWN else f"{text[:SHOWN].rsplit(' ', 1)[0]} …"
        lines.append(f"| {_cell(name)} | {_cell(shown)} | {' | '.join(f'{value:.2f}' for value in row)} |")
    lines += ["", "The numbers are cosines between the sentences, as the text encoder sees them: 1 is the same."]
    lines += [f"- {sentence}" for sentence in alike(names, vectors)]
    added = tuning.training.get("added_by_sentence") or []
    if added:
        lines.append(f"- Added by sentence alone, without a tile to learn from or to be judged by: {_listed(added)}")
    return "\n".join(lines)


def _use(tuning: Tuning) -> str:
    stain = tuning.task.get("stain")
    organ = tuning.task.get("organ")
    made_for = ", ".join(str(part) for part in (organ, stain) if part)
    lines = [
        "## Intended use",
        "",
        "- Research on tissue images: to outline, count and compare the classes below, with a person looking at it.",
        "- Not for diagnosis, prognosis or treatment of any person.",
        f"- Made for: {made_for}" if made_for else "- Made for: tissue and stain as on the slides below",
        (
            "- Slides from another scanner, laboratory, stain or organ than those below are outside of what it was "
            "judged on: judge it there first with `pathotune evaluate`."
        ),
    ]
    return "\n".join(lines)


def _pictures(tuning: Tuning) -> str:
    """The strips of tiles that lie beside the card, where they do; paths are relative to it."""
    if tuning.path is None:
        return ""
    shown = []
    for label, name in enumerate(tuning.class_names):
        path = picture_path(tuning.path, label)
        if path.is_file():
            place = quote(f"{path.parent.name}/{path.name}")
            shown += [f"**{_cell(name)}**", "", f"![tiles of {_cell(name)}]({place})", ""]
    parts = ["## Some of the tiles it learned from", "", *shown] if shown else []
    if overlay_path(tuning.path).is_file():
        place = quote(f"{pictures_folder(tuning.path).name}/{OVERLAY}")
        parts += ["## What it makes of a slide", "", f"![predicted classes on a slide]({place})", ""]
        parts += ["Only the tiles that were predicted are shown."]
    return "\n".join(parts).rstrip()


def _mistakes(tuning: Tuning) -> str:
    """Scores of each class, and who is taken for whom."""
    metrics, names = tuning.training.get("metrics", {}), tuning.class_names
    per_class, confusion = metrics.get("per_class") or {}, metrics.get("confusion") or []
    if not per_class or len(confusion) != len(names):
        return ""
    lines = [
        "## Each class, and who is taken for whom",
        "",
        "| drawn as | found | right | F1 | " + " | ".join(f"taken for {_cell(name)}" for name in names) + " |",
        "| --- |" + " ---: |" * (3 + len(names)),
    ]
    for name, row in zip(names, confusion, strict=True):
        found = per_class.get(name) or {}
        scores = [_number(found.get(key)) for key in ("recall", "precision", "f1")]
        lines.append(f"| {_cell(name)} | {' | '.join([*scores, *map(str, row)])} |")
    lines += ["", "Found: part of its tiles that were called so. Right: part of what was called so that is so."]
    return "\n".join(lines)


def _classes(tuning: Tuning) -> str:
    meant = _definitions(tuning)
    if is_of_slides(tuning):
        return _classes_of_slides(tuning, meant)
    counts: dict[str, Any] = tuning.training.get("tiles_per_class", {})
    validation: dict[str, Any] = tuning.training.get("validation_tiles_per_class", {})
    regions: dict[str, Any] = tuning.training.get("regions_per_class", {})
    lines = [
        "## Classes and what it has seen of them",
        "",
        "| class | what it means | regions | tiles | of these held out for validation |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for name in tuning.class_names:
        cells = (_or_dash(regions.get(name)), _or_dash(counts.get(name)), _or_dash(validation.get(name)))
        lines.append(f"| {_cell(name)} | {_cell(meant.get(name, 'as drawn'))} | {' | '.join(cells)} |")
    return "\n".join(lines)


def is_of_slides(tuning: Tuning) -> bool:
    """Whether it answers for whole slides."""
    return bool(tuning.training.get("level") == "slide")


def _classes_of_slides(tuning: Tuning, meant: dict[str, str]) -> str:
    counts: dict[str, Any] = tuning.training.get("slides_per_class", {})
    held: dict[str, Any] = tuning.training.get("validation_slides_per_class", {})
    lines = [
        "## Classes and what it has seen of them",
        "",
        "| class | what it means | slides | of these held out for validation |",
        "| --- | --- | ---: | ---: |",
    ]
    for name in tuning.class_names:
        cells = (_or_dash(counts.get(name)), _or_dash(held.get(name)))
        lines.append(f"| {_cell(name)} | {_cell(meant.get(name, 'as labelled'))} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _definitions(tuning: Tuning) -> dict[str, str]:
    """The task's sentence for each class that has one."""
    rows = tuning.task.get("classes") or ()
    return {str(row.get("name")): str(row["sentence"]) for row in rows if isinstance(row, dict) and row.get("sentence")}


def _data(tuning: Tuning) -> str:
    training = tuning.training
    slides = training.get("slides", [])
    split = training.get("split", {})
    mpps, scanners = training.get("slide_mpp") or [], training.get("scanners") or []
    lines = ["## Slides", ""]
    if slides and len(mpps) == len(slides):
        lines += ["| slide, by pseudonym | scanner | pixel size, µm |", "| --- | --- | ---: |"]
        known = scanners if len(scanners) == len(slides) else ["not stated"] * len(slides)
        rows = zip(slides, known, mpps, strict=True)
        lines += [f"| {_cell(str(name))} | {_cell(str(made))} | {mpp:g} |" for name, made, mpp in rows]
        lines.append("")
    else:
        from_words = takes_sentences(tuning.method) and training.get("epochs") == 0
        seen = "- None: it was made from sentences alone" if from_words else "- A table of tiles"
        lines.append(f"- {len(slides)} slides, by pseudonym: {_listed(slides)}" if slides else seen)
    regions = training.get("regions")
    if regions:
        lines.append(f"- Regions drawn on them: {regions}")
    if split:
        parts = "slides" if is_of_slides(tuning) else "tiles"
        lines.append(
            f"- Validation: {split.get('fraction', 0):.0%} of the {parts}, split by {split.get('by', 'region')}, so "
            f"that no {split.get('by', 'region')} is on both sides (seed {training.get('seed', 0)})"
        )
    if len(slides) == 1:
        lines.append("- One slide only: how it does on other slides, scanners and laboratories is not known.")
    return "\n".join(lines)


def _scores(tuning: Tuning) -> str:
    metrics = tuning.training.get("metrics", {})
    known = [key for key in SCORES if isinstance(metrics.get(key), int | float)]
    if not known:
        return ""
    where = "slides" if is_of_slides(tuning) else "regions"
    step = "penalty" if tuning.config.get("solver") == "regression" else "epoch"
    lines = [
        f"## Scores on the validation {where}",
        "",
        "| score | value | 95 % interval |",
        "| --- | ---: | ---: |",
    ]
    intervals = metrics.get("ci95") or {}
    lines += [f"| {SCORES[key]} | {metrics[key]:.3f} | {_interval(intervals.get(key))} |" for key in known]
    lines += [
        "",
        (
            f"The best {step} was chosen on these same {where} (number {tuning.training.get('best_epoch', '–')} of "
            f"{tuning.training.get('epochs', '–')}), so expect somewhat less elsewhere. Judge it on slides of your own "
            "with `pathotune evaluate`."
        ),
    ]
    return "\n".join(lines)


def _licences(tuning: Tuning) -> str:
    from pathotune.methods import METHODS

    backbone = tuning.backbone
    holds = (METHODS[tuning.method].facts or {}).get("holds") if tuning.method in METHODS else None
    needs = f"**{backbone['name']}** only ({backbone.get('source') or 'source not stated'})"
    lines = [
        "## Backbone and licences",
        "",
        {
            "backbone": f"It was made from the backbone {needs}; all of its weights, changed, are in this file.",
            "network": f"It has the architecture of {needs}, and weights of its own, which are in this file.",
        }.get(str(holds), f"It works with the frozen backbone {needs}, which is not in this file."),
        "",
        f"- Licence of the backbone: {backbone.get('licence') or 'not stated'}",
        f"- Weights, SHA-256: `{backbone.get('sha256') or 'not stated'}`",
    ]
    if tuning.text_encoder and tuning.text_encoder.get("name"):
        lines.append(
            f"- Sentences were read by the text encoder {tuning.text_encoder['name']}{_licence_of_text(tuning)}"
        )
    lines.append(
        "- This file is a changed copy of the backbone: the backbone's licence is on it, beside what the slides' "
        "owners agreed to."
        if holds == "backbone"
        else "- This file holds only what was trained on top of it, and says nothing on who may use that: its maker "
        "does, within the backbone's licence and what the slides' owners agreed to."
    )
    if backbone.get("non_commercial"):
        lines.append("- The backbone's licence forbids commercial use; it may cover what is tuned on it too.")
    if backbone.get("no_derivatives"):
        lines.append("- The backbone's licence restricts passing on models made from it: read it before sharing this.")
    return "\n".join(lines)


def _licence_of_text(tuning: Tuning) -> str:
    from pathotune.backbones.text import TEXT

    name = str((tuning.text_encoder or {}).get("name")).partition(":")[0]
    if name not in TEXT:
        return ""
    licence = (TEXT[name].facts or {}).get("licence")
    return f" (licence: {licence})" if licence else ""


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
    if tuning.embedded is not None:
        lines.append(
            f"- Features: of the backbone with the tile tuning {tuning.embedded.get('name', '')} "
            f"({tuning.embedded.get('method')}), which this file holds"
        )
    if tuning.training.get("sweep"):
        lines.append(f"- Settings chosen by a short trial: {tuning.training['sweep']}")
    if tuning.training.get("ended") == "cancelled":
        lines.append("- Its training was cancelled; this is the best epoch up to then")
    if tuning.config.get("speed") == "interactive":
        lines.append("- Interactive mode: only the last third of the backbone's blocks was prompted or changed")
    if tuning.training.get("went_on_from"):
        lines.append(f"- It went on from the tuning with SHA-256 `{tuning.training['went_on_from']}`")
    return "\n".join(lines)


def _number(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, int | float) else "–"


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
