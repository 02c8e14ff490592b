"""The model card's parts that a transcriptomics tuning has instead of classes: what it predicts, and how well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathotune.methods.checkpoint import Tuning

SHOWN = 20
UNITS = {"spot": "spots", "patient": "patients"}


def gene_parts(tuning: Tuning) -> list[str]:
    """What it does, the genes with their correlation, and what it learned from, as Markdown sections."""
    return [_what(tuning), _genes(tuning), _data(tuning)]


def _what(tuning: Tuning) -> str:
    genes, reading = tuning.genes or {}, tuning.reading
    count, objective = len(genes.get("names") or ()), str(tuning.config.get("objective", "direct"))
    partner = (tuning.training.get("partner") or {}).get("kind")
    ways = {
        "direct": "It learned to predict expression from the image.",
        "contrastive": f"It learned to find the {partner} that belongs to an image among those of others.",
        "joint": f"It learned to predict expression from the image, and to find the {partner} that belongs to it.",
    }
    changed = "also in the backbone's own weights" if tuning.config.get("mode") == "encoder" else "in a small adapter"
    lines = [
        "## What it does",
        "",
        (
            f"It reads tiles of {reading.tile_um:.0f} µm ({reading.tile_px} pixels of {reading.mpp:g} µm) and gives "
            f"features that know of expression{f', and predicts {count} genes' if count else ''}. At prediction the "
            "image alone is used."
        ),
        "",
        f"- {ways.get(objective, ways['direct'])}",
        f"- What was learned stands {changed}; the file can be named wherever a backbone can.",
        f"- Made: {tuning.created or 'not saved yet'}",
        "- What it predicts is no measurement. Genes whose correlation below is low say nothing about a slide.",
    ]
    return "\n".join(lines)


def _genes(tuning: Tuning) -> str:
    genes = tuning.genes or {}
    names, r = list(genes.get("names") or ()), list(genes.get("r") or ())
    metrics: dict[str, Any] = tuning.training.get("metrics") or {}
    if not names or len(r) != len(names):
        return ""
    unit = UNITS.get(str(tuning.training.get("level")), "samples")
    held = "test" if genes.get("r_of") == "test" else "validation"
    groups = int(genes.get("r_groups") or 1)
    where = f"{genes.get('r_samples')} {held} {unit} of {groups} section{'s' if groups > 1 else ''} or cohort"
    order = sorted((name for name in range(len(names)) if r[name] is not None), key=lambda index: -r[index])
    lines = [
        "## Genes, and how well each is predicted",
        "",
        f"Correlation of predicted and measured expression on {where}{'s' if groups > 1 else ''}, within each.",
        "",
    ]
    if metrics.get("mean_r") is not None:
        share = 100 * float(metrics.get("significant") or 0.0)
        lines += [
            (
                f"Mean over {metrics.get('genes_judged')} genes: {metrics['mean_r']:.3f}; {share:.0f} % of them have a "
                "false discovery rate below 0.05."
            ),
            "",
        ]
    lines += ["| gene | r |", "| --- | ---: |"]
    lines += [f"| {names[index]} | {r[index]:.3f} |" for index in order[:SHOWN]]
    if len(order) > SHOWN:
        lines += ["", f"The {SHOWN} best of {len(names)}; all stand in the file."]
    if held == "validation":
        lines += ["", "The best epoch was chosen on these same samples, so expect somewhat less elsewhere."]
    return "\n".join(lines)


def _data(tuning: Tuning) -> str:
    training = tuning.training
    samples: dict[str, int] = training.get("samples") or {}
    slides = training.get("slides") or []
    unit = UNITS.get(str(training.get("level")), "samples")
    split = (training.get("split") or {}).get("by", "split not stated")
    lines = [
        "## What it learned from",
        "",
        f"- {', '.join(f'{count} {name}' for name, count in samples.items())} {unit} ({split})",
        f"- Slides, by pseudonym: {', '.join(map(str, slides[:12]))}{' …' if len(slides) > 12 else ''}",
    ]
    return "\n".join(lines)
