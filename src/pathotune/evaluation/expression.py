"""A transcriptomics tuning judged: how well each gene is predicted, and how well images find their own partner."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.datasets.spots import spot_column
from pathotune.device import pick_device
from pathotune.errors import FeaturesMismatch, UsageError
from pathotune.events import Event, Finished, Note
from pathotune.methods import check_backbone, load_config
from pathotune.training.gene_scores import gene_report
from pathotune.training.paired import SPOTS, Paired, beside, gather
from pathotune.training.partners import partner_like
from pathotune.training.schedule import TrainingConfig
from pathotune.training.session import session_path
from pathotune.training.transcriptomics import Source, sentences

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.datasets.cohort import CohortInputs
    from pathotune.methods.checkpoint import Tuning

BATCH = 64


def evaluate(
    tuning: Tuning,
    inputs: CohortInputs,
    *,
    backbone: Backbone | None = None,
    device: str = "auto",
    cancel: Callable[[], bool] | None = None,
) -> Iterator[Event]:
    """Judge a tuning on the test rows of a cohort; on all where none is a test row.

    Parameters
    ----------
    inputs : as in the training: a cohort of sections with spots, or of slides of patients.
    backbone : loaded; else the tuning's own is loaded where features have to be computed.

    Yields
    ------
    Note, Step, and Finished with the contract's JSON: genes {name: {r, p, q}}, mean_r, significant, per_group,
    retrieval, and embedding: a picture of the samples' vectors, coloured by their label or group.

    Raises
    ------
    TuningMismatch, FeaturesMismatch, TableUnreadable, NoTiles
        The cohort does not fit the tuning; the sentence says how.
    """
    started = time.monotonic()
    if backbone is not None:
        check_backbone(tuning, backbone)
    source = Source.of(backbone if backbone is not None else str(tuning.backbone["name"]), pick_device(device))
    changed = any(name.startswith("encoder.") for name in tuning.trained)
    cache = session_path(tuning.path or Path("untitled")) / "spots"
    paired = yield from gather(
        inputs,
        source.card,
        tuning.reading,
        source.load,
        cache,
        images=changed,
        kept_tiles=load_config(tuning.method, tuning.config).kept_tiles if changed else 0,  # type: ignore[attr-defined]
        needs_expression=tuning.genes is not None,
    )
    for note in paired.notes:
        yield Note(note, "warning")
    _same_weights(tuning, paired)
    chosen = paired.rows("test")
    if not len(chosen):
        chosen = np.arange(len(paired), dtype=np.int64)
        if any(paired.split):
            yield Note("No row of the cohort has the split test: all are judged, also those learned from.", "warning")
    if cancel is not None and cancel():
        return
    report = judged(tuning, inputs, paired, chosen, source, pick_device(device))
    if paired.pool is not None:
        paired.pool.remove_large(TrainingConfig().session_mb)
    report |= {"n": len(chosen), "level": paired.level, "seconds": round(time.monotonic() - started, 2)}
    shown = replace(paired, split=tuple("test" if row in set(chosen.tolist()) else "" for row in range(len(paired))))
    yield Finished({**report, "said": sentences(report, "test", shown)})


def judged(
    tuning: Tuning, inputs: CohortInputs, paired: Paired, rows: NDArray[np.int64], source: Source, device: str
) -> dict[str, Any]:
    """The report of these samples, and the picture of their vectors beside the tuning."""
    import torch

    from pathotune.datasets.pathways import PathwayMatrix
    from pathotune.evaluation.embedding import draw_embedding
    from pathotune.methods.transcriptomics.method import restored

    model, scaler = restored(tuning, device)
    groups = [paired.groups[row] for row in rows]
    samples = samples_of(tuning, paired, rows, source, device)
    report: dict[str, Any] = {}
    with torch.inference_mode():
        vectors = torch.cat([model.vectors(samples[i : i + BATCH]) for i in range(0, len(rows), BATCH)])
        scores = None
        if scaler is not None and paired.expression is not None:
            scores = scaler.apply(paired.expression)
            parts = [model.pooled_genes(samples[i : i + BATCH]) for i in range(0, len(rows), BATCH)]
            predicted = torch.cat(parts).cpu().numpy()
            report = gene_report(predicted, scores[rows], scaler.genes, groups)
            pathways = (tuning.genes or {}).get("pathways")
            if pathways:
                member = np.zeros((len(pathways), len(scaler.genes)), dtype=np.float32)
                for index, genes in enumerate(pathways.values()):
                    member[index, genes] = 1
                matrix = PathwayMatrix(tuple(pathways), member, 0, 0, ())
                found = gene_report(matrix.scores(predicted), matrix.scores(scores[rows]), matrix.names, groups)
                report |= {"pathways": found["genes"], "mean_r_pathways": found["mean_r"]}
        said = tuning.training.get("partner")
        partner = None if not said else partner_like(said, tuning.tensors, inputs, paired, scores)
        if partner is not None and model.contrast is not None:
            other = torch.from_numpy(partner.values[rows]).to(device)
            report |= _retrieval(*model.both_sides(vectors, other), groups)
    target = session_path(tuning.path or Path("untitled")) / "embedding.png"
    drawn = draw_embedding(vectors.cpu().numpy(), labels_of(inputs, paired, rows), target)
    return {**report, "embedding": None if drawn is None else str(drawn)}


def labels_of(inputs: CohortInputs, paired: Paired, rows: NDArray[np.int64]) -> list[str]:
    """What these samples are coloured by: the column that was asked for, else their label, else their group.

    Raises
    ------
    UsageError : there is no such column, neither in the cohort table nor in those of the spots.
    """
    cohort, wanted = inputs.cohort, inputs.colour_by.casefold()
    own = paired.cohort_row[rows].tolist()
    if not wanted:
        labels = [cohort.labels[row] or "" for row in own]
        return labels if len(set(labels)) > 1 else [paired.groups[row] for row in rows]
    known = {"slide": cohort.slides, "patient": cohort.patients, "split": cohort.split, **cohort.clinical}
    known["label"] = tuple(label or "" for label in cohort.labels)
    if wanted in known:
        return [known[wanted][row] for row in own]
    places = next((cohort.clinical[name] for name in SPOTS if name in cohort.clinical), ())
    tables = {row: spot_column(beside(cohort, places[row]), wanted) for row in set(own)} if places else {}
    if not any(tables.values()):
        raise UsageError(
            f"There is no column {inputs.colour_by!r} to colour by; the cohort table has {', '.join(sorted(known))}"
            f"{', and the tables of the spots have none of that name' if places else ''}."
        )
    found = []
    for row, sample in zip(own, rows.tolist(), strict=True):
        name = paired.names[sample]
        found.append(tables[row].get((cohort.slides[row], name)) or tables[row].get(("", name), ""))
    return found


def samples_of(tuning: Tuning, paired: Paired, rows: NDArray[np.int64], source: Source, device: str) -> Any:
    """What the model takes of these samples: (b, D) of spots or a list of bags, of the tuning's own backbone."""
    import torch

    from pathotune.methods.transcriptomics.method import tuned_backbone
    from pathotune.training.paired import pooled

    pool = paired.pool
    pictures = paired.images if pool is None else pool.images
    if pictures is not None:
        network = tuned_backbone(tuning, source.load())
        drawn = [rows] if pool is None else [pool.rows(int(row)) for row in rows]
        order = np.concatenate(drawn)
        parts = [pooled(network, pictures[order[start : start + BATCH]]) for start in range(0, len(order), BATCH)]
        found = torch.from_numpy(np.concatenate(parts)).to(device)
        return found if pool is None else list(torch.split(found, [len(part) for part in drawn]))
    if paired.bags is not None:
        return [torch.from_numpy(paired.bags[row].load()).to(device) for row in rows]
    features = paired.features if paired.features is not None else np.zeros((0, 0), np.float32)
    return torch.from_numpy(features[rows]).to(device)


def _retrieval(images: Any, partners: Any, groups: list[str]) -> dict[str, Any]:
    from pathotune.losses.contrastive import recall_at

    found: dict[str, list[float]] = {}
    for name in dict.fromkeys(groups):
        own = np.asarray([group == name for group in groups])
        for key, value in recall_at(images.cpu().numpy()[own], partners.cpu().numpy()[own]).items():
            found.setdefault(key, []).append(value)
    return {"retrieval": {key: float(np.mean(values)) for key, values in found.items()}}


def _same_weights(tuning: Tuning, paired: Paired) -> None:
    """Refuse features of other weights than the tuning's."""
    there, wanted = str(paired.about.extra.get("backbone_sha256") or ""), str(tuning.backbone.get("sha256") or "")
    if there and wanted and there != wanted:
        raise FeaturesMismatch(
            f"The features were made with other weights of {tuning.backbone['name']} ({there[:8]}…) than the tuning "
            f"{tuning.name} needs ({wanted[:8]}…); extract them again."
        )
