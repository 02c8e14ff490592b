"""From a finished training on patients to its file and the document that tells of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.features.matching import reading_of
from pathotune.methods.checkpoint import TRAINED, Tuning
from pathotune.methods.options import as_plain
from pathotune.training.patients import membership
from pathotune.training.record import pseudonym

if TYPE_CHECKING:
    from pathotune.backbones.slide.surface import SlideEncoder
    from pathotune.execution.patient_tuning import PatientRun
    from pathotune.features.featureset import FeatureHeader
    from pathotune.training.fit import Fit
    from pathotune.training.patient_models import PromptModels

# What the sentences are made of; a patient's own never leave the table.
TEMPLATES = (
    "site: …; diagnosis: …; stage: stage …; T: T …; N: N …; M: M …; outcome: died after … | alive at …",
    "site: …; diagnosis: …",
    "site: …; stage: stage …; T: T …; N: N …; M: M …; outcome: died after … | alive at …",
)
ORDER = ("general", "diagnosis", "survival")


@dataclass(frozen=True)
class PatientOutcome:
    """What a training came to.

    models : the linear models by prompt.
    vectors : (patients, prompts, d) of the whole table, at the best epoch.
    report : scores of the held-out patients.
    precision : number format of the steps; vectors and linear models are float32.
    """

    run: PatientRun
    encoder: SlideEncoder
    fit: Fit
    models: dict[str, PromptModels]
    vectors: NDArray[np.float32]
    report: dict[str, Any]
    parameters: int
    headers: list[FeatureHeader]
    precision: str = "float32"


def save_patient_tuning(outcome: PatientOutcome, method: str, out: str | Path, seconds: float) -> dict[str, Any]:
    """Save the tuning and its card, and return the contract's JSON document."""
    run, status = outcome.run, "cancelled" if outcome.fit.is_cancelled else "done"
    path = _tuning(outcome, method, seconds, status).save(out)
    table = run.table
    return {
        "classes": list(table.class_names),
        "patients": len(table),
        "patients_per_class": _per_class(table.labels, table.class_names),
        "validation_patients": len(run.held),
        "events": int((table.event == 1).sum()),
        "with_expression": int(table.has_genes.sum()),
        "sites": dict(Counter(site for site in table.sites if site)),
        "tiles": int(sum(header.count for header in outcome.headers)),
        "epochs": outcome.fit.history,
        "best_epoch": outcome.fit.epoch,
        "val": outcome.report,
        "trainable_parameters": outcome.parameters,
        "method": method,
        "backbone": run.features.card.name,
        "slide_encoder": outcome.encoder.card.name,
        "prompts": list(run.config.prompt_names),
        "sentences": run.targets.written,
        "device": run.device,
        "precision": outcome.precision,
        "seconds": round(seconds, 2),
        "out": str(path),
        "status": status,
        "said": [in_words(outcome.report, "held-out patients")],
    }


def in_words(report: dict[str, Any], which: str) -> str:
    """One sentence with the scores of a report."""
    parts = []
    for name, title in (("balanced_accuracy", "balanced accuracy"), ("auc", "AUC"), ("c_index", "concordance index")):
        value = report.get(name)
        interval = report.get("c_index_ci95") if name == "c_index" else (report.get("ci95") or {}).get(name)
        if value is not None:
            parts.append(f"{title} {value:.3f}" + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""))
    return f"On {report['n']} {which}: {', '.join(parts) or 'nothing that could be judged'}."


def _tuning(outcome: PatientOutcome, method: str, seconds: float, status: str) -> Tuning:
    run = outcome.run
    table, genes, sites = run.table, run.genes, sorted({site for site in run.table.sites if site})
    reading = reading_of(run.features.common, run.features.card)
    tensors = {TRAINED + name: value for name, value in outcome.fit.state.items()}
    for prompt, models in outcome.models.items():
        tensors |= models.tensors(prompt, sites)
    if genes is not None:
        tensors |= genes.scaler.tensors() | membership(genes.pathways.member)
    return Tuning(
        method=method,
        config={**as_plain(run.config), "slide_weights": "", "run_local_code": False},
        task=run.task,
        classes=[{"name": one["name"], "color": list(one["color"])} for one in run.task["classes"]],
        backbone=_backbone(outcome, reading.mpp),
        reading=reading,
        texts=tuple(TEMPLATES[ORDER.index(name)] for name in run.config.prompt_names),
        text_encoder=run.targets.encoder,
        genes=None if genes is None else {**genes.scaler.to_dict(), "pathways": list(genes.pathways.names)},
        pathways_sha256=None if genes is None else genes.sha256,
        training={
            "level": "patient",
            "slides": [pseudonym(header.slide_fingerprint or header.slide) for header in outcome.headers],
            "patients": len(table),
            "patients_per_class": _per_class(table.labels, table.class_names),
            "validation_patients": len(run.held),
            "events": int((table.event == 1).sum()),
            "with_expression": int(table.has_genes.sum()),
            "sites": sites,
            "survival_edges": list(run.targets.edges),
            "time_unit": run.config.time_unit,
            "oldest": run.oldest,
            "text_dim": int(run.targets.texts.shape[-1]),
            "features": {"width": run.features.common.width, "tile_px": run.features.common.tile_px},
            "split": {"by": "patient", "fraction": round(len(run.held) / len(table), 4)},
            "seed": run.training.seed,
            "epochs": len(outcome.fit.history),
            "best_epoch": outcome.fit.epoch,
            "metrics": outcome.report,
            "options": as_plain(run.training),
            "trainable_parameters": outcome.parameters,
            "device": run.device,
            "precision": outcome.precision,
            "seconds": round(seconds, 2),
            "ended": status,
        },
        tensors=tensors,
    )


def _backbone(outcome: PatientOutcome, mpp: float) -> dict[str, Any]:
    """The tile backbone whose features are taken, and the slide encoder they are fed to."""
    card, slide = outcome.run.features.card, outcome.encoder
    return {
        "name": card.name,
        "title": card.title,
        "source": card.hub_id,
        "sha256": outcome.run.features.sha256,
        "embed_dim": card.embed_dim,
        "output_dim": card.output_dim,
        "image_size": card.image_size,
        "patch_size": card.patch_size,
        "mpp": mpp,
        "mean": list(card.mean or ()),
        "std": list(card.std or ()),
        "licence": card.licence,
        "non_commercial": card.non_commercial or slide.card.non_commercial,
        "no_derivatives": card.no_derivatives or slide.card.no_derivatives,
        "slide_encoder": {
            "name": slide.card.name,
            "title": slide.card.title,
            "source": slide.card.hub_id or slide.weights_source,
            "sha256": slide.weights_sha256,
            "width": slide.width,
            "depth": slide.depth,
            "licence": slide.card.licence,
        },
    }


def _per_class(labels: NDArray[np.int64], names: tuple[str, ...]) -> dict[str, int]:
    return {name: int((labels == index).sum()) for index, name in enumerate(names)}
