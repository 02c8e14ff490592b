"""The training of transcriptomics tuning: from a cohort with expression to one tuning file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pathotune.backbones import backbone_card
from pathotune.backbones.licences import warn_before_tuning
from pathotune.datasets.expression import GeneScaler, Scale, variable_genes
from pathotune.datasets.pathways import pathway_matrix, pathways_sha256, read_pathways
from pathotune.device import pick_device
from pathotune.errors import FileMissing, TableUnreadable, UsageError
from pathotune.events import Event, Finished, Note, Saving
from pathotune.features.featureset import header
from pathotune.features.folder import find_features
from pathotune.features.matching import reading_of
from pathotune.methods.checkpoint import TRAINED, Tuning, check_writable
from pathotune.methods.options import as_plain
from pathotune.training.gene_scores import gene_report
from pathotune.training.paired import Paired, divided, gather
from pathotune.training.partners import Partner, partner_of
from pathotune.training.record import pseudonym
from pathotune.training.session import session_path
from pathotune.training.stopping import Stopping, never

if TYPE_CHECKING:
    from pathotune.backbones.card import BackboneCard
    from pathotune.backbones.surface import Backbone
    from pathotune.datasets.cohort import CohortInputs
    from pathotune.methods.transcriptomics.config import TranscriptomicsConfig
    from pathotune.tasks import Task
    from pathotune.tiles.tileset import Reading
    from pathotune.training.paired_trainee import PairedTrainee
    from pathotune.training.schedule import TrainingConfig

EPOCHS, PATIENCE = 60, 15


@dataclass
class Source:
    """The backbone: its card, its weights once they are needed, and how its tiles are read."""

    card: BackboneCard
    given: Backbone | str
    device: str
    _loaded: Backbone | None = None

    def load(self) -> Backbone:
        """The loaded backbone on the device."""
        from pathotune.backbones import load_backbone

        if self._loaded is None:
            found = load_backbone(self.given) if isinstance(self.given, str) else self.given
            self._loaded = found.to(self.device)
        return self._loaded

    @classmethod
    def of(cls, backbone: Backbone | str, device: str) -> Source:
        """From a loaded backbone or the name of one."""
        return cls(backbone_card(backbone) if isinstance(backbone, str) else backbone.card, backbone, device)


def reading_for(inputs: CohortInputs, card: BackboneCard, training: TrainingConfig) -> Reading:
    """How tiles are read: as the features that are there say, else as the backbone's card does."""
    if inputs.features is not None:
        for slide in inputs.cohort.slides:
            try:
                return reading_of(header(find_features(inputs.features, slide)), card)
            except FileMissing:
                continue
    return training.reading_of(card)


def tune(
    inputs: CohortInputs,
    method: str,
    config: TranscriptomicsConfig,
    backbone: Backbone | str,
    training: TrainingConfig,
    task: Task | str | None = None,
    out: str | Path = "tuning.pathotune.safetensors",
    *,
    cancel: Callable[[], bool] = never,
) -> Iterator[Event]:
    """Tune on paired images and expression, and save the tuning.

    Parameters
    ----------
    inputs : the cohort. With a column spots (a spots table or a Visium folder of each slide) a sample is a spot, else a
        patient with the tiles of all slides. Rows with the split test are only judged in the end.
    method, config : "transcriptomics" and its options.
    backbone : loaded, or its name; it is loaded where features have to be computed.
    training : how to train; 0 epochs are 60, and its learning rate counts by `config.rate`.
    task : its title stands on the card.
    out : the tuning file.
    cancel : true ends the training with the best epoch so far.

    Yields
    ------
    Note, Step, EpochEnd, Saving, and Finished with genes, mean_r and what else was found.

    Raises
    ------
    TableUnreadable, NoTiles, FeaturesMismatch, UsageError
        Images and expression do not fit together; the sentence says how.
    """
    from pathotune.training.fit import fit
    from pathotune.training.paired_trainee import PairedTrainee

    started = time.monotonic()
    check_writable(out)
    if inputs.folds:
        raise UsageError(
            "Transcriptomics tuning has no folds; give the cohort table a column split instead of --folds."
        )
    training = replace(
        training,
        epochs=training.epochs or EPOCHS,
        patience=training.patience or PATIENCE,
        lr=training.lr * config.rate,
    )
    source = Source.of(backbone, pick_device(training.device))
    yield from warn_before_tuning(source.card)
    reading = reading_for(inputs, source.card, training)
    stopping = Stopping(cancel)
    with_images, with_genes = config.mode == "encoder", config.predicts or config.partner == "expression"
    cache = session_path(out) / "spots"
    paired = yield from stopping.passing(
        gather(
            inputs,
            source.card,
            reading,
            source.load,
            cache,
            images=with_images,
            kept_tiles=config.kept_tiles,
            needs_expression=with_genes,
        )
    )
    paired, how = divided(paired, training.val_fraction, training.seed)
    for note in paired.notes:
        yield Note(note, "warning")
    genes = genes_of(inputs, config, paired)
    for note in genes.notes:
        yield Note(note)
    partner = partner_of(inputs, config, paired, genes.scores)
    yield Note(_what_is_learned(paired, genes, how))
    trainee = PairedTrainee(config, paired, genes.scores, partner, source, training)
    done = yield from fit(trainee, training, stopping)
    yield Saving()
    trainee.finish()
    result = _saved(trainee, genes, partner, inputs, training, reading, done, out, method, task, how, started)
    if paired.pool is not None:
        paired.pool.remove_large(training.session_mb)
    yield Finished(result)


@dataclass(frozen=True)
class Genes:
    """The genes of a tuning.

    scaler : None where none are used.
    scores : (n, G) z-scores of all samples, or None.
    pathways : names of pathways and their (P, G) membership, where they were given.
    """

    scaler: GeneScaler | None
    scores: np.ndarray | None
    pathway_names: tuple[str, ...] = ()
    member: np.ndarray | None = None
    pathways_sha256: str | None = None
    notes: tuple[str, ...] = ()


def genes_of(inputs: CohortInputs, config: TranscriptomicsConfig, paired: Paired) -> Genes:
    """Choose the genes by the training samples alone: those named, else the most variable; scale them."""
    table = paired.expression
    if table is None:
        return Genes(None, None)
    rows = paired.rows("train").tolist()
    names = named_genes(config.gene_names)
    pathways = None if inputs.pathways is None else read_pathways(inputs.pathways)
    scale: Scale | None = None if config.size_factors or table.scale != "counts" else "linear"
    wanted = names or variable_genes(table, config.genes, rows, scale=scale)
    scaler = GeneScaler.fit(table, rows, wanted, scale)
    notes = []
    if scaler.unknown:
        notes.append(f"{len(scaler.unknown)} of the genes asked for are not in the expression table.")
    if scaler.constant:
        notes.append(f"{len(scaler.constant)} of the genes asked for do not vary over the training samples.")
    found = Genes(scaler, scaler.apply(table), notes=tuple(notes))
    if pathways is None:
        return found
    matrix = pathway_matrix(pathways, scaler.genes, least_genes=2, among="genes that are learned")
    sha256 = pathways_sha256(pathways)
    return replace(
        found,
        pathway_names=matrix.names,
        member=matrix.member,
        pathways_sha256=sha256,
        notes=(*notes, *matrix.notes),
    )


def named_genes(text: str) -> tuple[str, ...]:
    """Genes from "A,B", or from a file with one in a line."""
    if not text.strip():
        return ()
    path = Path(text.strip())
    if path.suffix in {".txt", ".csv", ".tsv"}:
        if not path.is_file():
            raise FileMissing(path, "list of genes")
        text = path.read_text(encoding="utf-8-sig")
    names = tuple(dict.fromkeys(part.strip() for part in text.replace("\n", ",").split(",") if part.strip()))
    if not names:
        raise TableUnreadable(f"{path.name} names no genes.")
    return names


def _what_is_learned(paired: Paired, genes: Genes, how: str) -> str:
    unit = "spots" if paired.level == "spot" else "patients"
    counts = f"{len(paired.rows('train'))} {unit} to learn from, {len(paired.rows('val'))} to choose the epoch by"
    test = len(paired.rows("test"))
    return (
        f"{counts} ({how}){f', {test} to judge in the end' if test else ''}; "
        f"{len(genes.scaler.genes) if genes.scaler else 0} genes."
    )


def report_of(predicted: np.ndarray, paired: Paired, genes: Genes, rows: np.ndarray) -> dict[str, Any]:
    """`gene_report` of these samples, and of the pathways where there are any."""
    if genes.scaler is None or genes.scores is None or not len(rows):
        return {}
    groups = [paired.groups[row] for row in rows]
    report = gene_report(predicted[rows], genes.scores[rows], genes.scaler.genes, groups)
    if genes.member is not None:
        from pathotune.datasets.pathways import PathwayMatrix

        matrix = PathwayMatrix(genes.pathway_names, genes.member, 0, 0, ())
        one, two = matrix.scores(predicted[rows]), matrix.scores(genes.scores[rows])
        of_pathways = gene_report(one, two, genes.pathway_names, groups)
        report["pathways"] = of_pathways["genes"]
        report["mean_r_pathways"] = of_pathways["mean_r"]
    return report


def _saved(
    trainee: PairedTrainee,
    genes: Genes,
    partner: Partner | None,
    inputs: CohortInputs,
    training: TrainingConfig,
    reading: Reading,
    done: Any,
    out: str | Path,
    method: str,
    task: Task | str | None,
    how: str,
    started: float,
) -> dict[str, Any]:
    """Judge, write the file and return the contract's document."""
    paired, card = trainee.paired, trainee.source.card
    test = paired.rows("test")
    judged, name = (test, "test") if len(test) else (paired.rows("val"), "val")
    predicted = trainee.predicted()
    report = {} if predicted is None else report_of(predicted, paired, genes, judged)
    report |= trainee.retrieval(judged)
    about = _about_genes(genes, report, name, judged, paired)
    title = task if isinstance(task, str) else getattr(task, "title", "") or "Expression of genes"
    tensors = {TRAINED + key: value for key, value in trainee.state().items()}
    tensors |= {} if genes.scaler is None else genes.scaler.tensors()
    tensors |= {} if partner is None else partner.tensors()
    slides = [pseudonym(known) if known else f"slide {number}" for number, known in enumerate(paired.fingerprints, 1)]
    seconds = round(time.monotonic() - started, 2)
    tuning = Tuning(
        method=method,
        config=as_plain(trainee.config),
        task={"title": title, "level": paired.level},
        classes=[],
        backbone=backbone_facts(trainee.source, paired),
        reading=reading,
        training={
            "slides": list(dict.fromkeys(slides)),
            "samples": {name: len(paired.rows(name)) for name in ("train", "val", "test")},
            "level": paired.level,
            "partner": None if partner is None else partner.to_dict(),
            "split": {"by": how},
            "seed": training.seed,
            "epochs": len(done.history),
            "best_epoch": done.epoch,
            "ended": "cancelled" if done.is_cancelled else "done",
            "metrics": {key: value for key, value in report.items() if key not in {"genes", "pathways", "per_group"}},
            "options": as_plain(training),
            "trainable_parameters": trainee.count(),
            "seconds": seconds,
        },
        genes=about,
        pathways_sha256=genes.pathways_sha256,
        tensors=tensors,
    )
    path = tuning.save(out)
    return {
        "level": paired.level,
        "samples": tuning.training["samples"],
        "judged_on": name,
        **report,
        "epochs": done.history,
        "best_epoch": done.epoch,
        "trainable_parameters": trainee.count(),
        "method": method,
        "backbone": card.name,
        "seconds": seconds,
        "status": tuning.training["ended"],
        "out": str(path),
        "said": sentences(report, name, paired),
    }


def _about_genes(
    genes: Genes, report: dict[str, Any], split: str, judged: np.ndarray, paired: Paired
) -> dict[str, Any] | None:
    """What the file says of the genes: their scale, and how well each is predicted on what was held out."""
    scaler = genes.scaler
    if scaler is None:
        return None
    about = scaler.to_dict() | {
        "r": [report["genes"][gene]["r"] for gene in scaler.genes] if report.get("genes") else [],
        "r_of": split,
        "r_samples": len(judged),
        "r_groups": len({paired.groups[row] for row in judged}),
    }
    if genes.member is not None:
        about["pathways"] = {
            pathway: np.flatnonzero(member).tolist()
            for pathway, member in zip(genes.pathway_names, genes.member, strict=True)
        }
        about["pathways_r"] = [report["pathways"][pathway]["r"] for pathway in genes.pathway_names]
    return about


def sentences(report: dict[str, Any], split: str, paired: Paired) -> list[str]:
    """What a person is told of a report."""
    unit = "spots" if paired.level == "spot" else "patients"
    said = []
    if report.get("mean_r") is not None:
        share = report.get("significant") or 0.0
        said.append(
            f"On {len(paired.rows(split)) or len(paired)} {split} {unit}: mean correlation {report['mean_r']:.3f} over "
            f"{report['genes_judged']} genes, {100 * share:.0f} % of them with a false discovery rate below 0.05."
        )
    if report.get("mean_r_pathways") is not None:
        said.append(f"Mean correlation of {len(report['pathways'])} pathways: {report['mean_r_pathways']:.3f}.")
    found = report.get("retrieval")
    if found:
        shown = ", ".join(
            f"{key.split('@')[1]}: {value:.3f}" for key, value in found.items() if key.startswith("recall")
        )
        said.append(f"Share of images whose own partner is among the nearest {shown}.")
    return said


def backbone_facts(source: Source, paired: Paired) -> dict[str, Any]:
    """What the file says of the backbone."""
    card, loaded = source.card, source._loaded
    sha256 = paired.about.extra.get("backbone_sha256") if loaded is None else loaded.weights_sha256
    return {
        "name": card.name,
        "title": card.title,
        "source": card.hub_id or (loaded.weights_source if loaded is not None else "features"),
        "sha256": str(sha256 or ""),
        "embed_dim": card.embed_dim,
        "output_dim": paired.about.width,
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
