"""What transcriptomics tuning does to a backbone's features on tasks that have nothing to do with expression.

    python benchmarks/poster_table.py --data DIR [--out DIR] [--seeds 5] [--no-encoder]

The layout of the poster "Enhancing Pathology Foundation Models with Transcriptomics": the base's balanced accuracy,
the difference of each tuning per task, and the mean difference. Direct and contrastive tunings, each in features mode
(an adapter of frozen features) and in encoder mode (LoRA, all weights), on real spots (HER2ST sections C2 and C3,
Andersson et al. 2021, CC BY 4.0) and on a generated bulk cohort (one profile a patient, a bag of tiles each), and with
images and expression paired at random. Tasks, whose labels do not come from expression: tumour or normal on tiles of
the bottom half of a CAMELYON16 region (learned on the top half), and seven classes of generated tissue in a stain that
was not learned from. The probe is a logistic regression on standardised features. Beside them stands what the same
tunings are worth for expression itself: the mean correlation over the 50 most variable genes on section C4, or over the
genes that follow the tissue on patients that were held out, as difference to a ridge regression on the frozen features.

Only seeds of the tuning differ; pictures and features are computed once and kept under --out, and so is every finished
row: a run that was stopped goes on. In encoder mode every tile passes the backbone in every epoch, so that there are
few of them (--epochs); on patients a few tiles of each pass in a step, gradients through all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pathotune.datasets.cohort import CohortInputs
from pathotune.datasets.expression import Expression
from pathotune.device import choose_precision, number_format
from pathotune.features.featureset import FeatureHeader, FeatureSet
from pathotune.methods import load_config
from pathotune.slides.synthetic import STAINS, textures
from pathotune.training.fit import fit
from pathotune.training.gene_scores import gene_report
from pathotune.training.paired import Bag, Paired, divided, gather, pooled
from pathotune.training.paired_trainee import PairedTrainee
from pathotune.training.partners import partner_of
from pathotune.training.schedule import TrainingConfig
from pathotune.training.tilepool import TilePool
from pathotune.training.transcriptomics import EPOCHS, PATIENCE, Genes, Source, genes_of

sys.path.insert(0, str(Path(__file__).parent))
from expression_her2st import cohort_of, drained, kept, ridge, scores_on, shuffled, with_erbb2
from tile_tables import camelyon16

CLASSES = ("tumor", "benign_glands", "stroma", "smooth_muscle", "immune_cells", "necrosis", "adipose")
PICTURES, SIDE, MPP = 40, 224, 0.5
PATIENTS, TILES_PER_PATIENT, BULK_GENES, SQUARES, SQUARE_PX = 125, 32, 60, 2, 896
ENCODER_TILES, ENCODER_POOL, ENCODER_PATIENTS = 2, 4, 16
MODES: dict[str, dict[str, Any]] = {
    "features": {"mode": "features"},
    "LoRA": {"mode": "encoder", "tuned": "lora", "encoder_rate": 1.0, "encoder_tiles": ENCODER_TILES},
    "full": {"mode": "encoder", "tuned": "full", "encoder_rate": 0.1, "encoder_tiles": ENCODER_TILES},
}
SHUFFLED = ", pairs shuffled"


@dataclass
class World:
    """Everything that is not trained: the tasks, and the two sets of pairs.

    precision : the number format of every feature.
    epochs : of the encoder mode.
    tasks : name → images (n, h, w, 3), features (n, D), labels (n,), test (n,) of the frozen backbone.
    """

    inputs: CohortInputs
    source: Source
    tasks: dict[str, dict[str, np.ndarray]]
    spots: Paired
    bulk: Paired
    precision: str
    epochs: int

    def paired(self, where: str, seed: int) -> Paired:
        """Spots or patients with a split for this seed, shuffled where the name says so."""
        found = self.bulk
        if where.startswith("spots"):
            found, _ = divided(self.spots, TrainingConfig().val_fraction, seed)
        return shuffled(found, seed) if where.endswith(SHUFFLED) else found

    def genes(self, where: str, paired: Paired) -> Genes:
        """Those that are learned."""
        if where.startswith("spots"):
            return with_erbb2(self.inputs, paired, True)
        return genes_of(replace(self.inputs, pathways=None), load_config("transcriptomics", {}), paired)  # type: ignore[arg-type]


# -- pictures and what the frozen backbone makes of them, computed once ------------------------------------------------


def saved(path: Path, work: Any) -> dict[str, np.ndarray]:
    """Arrays that were computed before, or are computed now and kept."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        found = work()
        np.savez(path, **found)
        print(f"{path.name} made", flush=True)
    return dict(np.load(path))


def in_batches(backbone: Any, images: np.ndarray, precision: str) -> np.ndarray:
    """(n, D) of a backbone."""
    with number_format("cpu", precision):
        parts = [pooled(backbone, images[start : start + 32]) for start in range(0, len(images), 32)]
    return np.concatenate(parts)


def format_of(source: Source, images: np.ndarray) -> str:
    """The number format that is faster here and agrees: one for all of the table."""

    def forward(tiles: torch.Tensor) -> torch.Tensor:
        return source.load()(source.load().normalise(tiles)).pooled.float()

    return choose_precision(
        forward, torch.from_numpy(images[:8]), "cpu", "auto", source.card.tolerance, source.load().speed_name
    ).name


def of_camelyon(data: Path, source: Source) -> dict[str, np.ndarray]:
    """Pictures, labels and halves of the CAMELYON16 tiles."""
    from pathotune.slides import open_slide
    from pathotune.tiles.reader import TileReader

    rows = list(camelyon16(data.resolve()))
    reading = replace(source.card.reading(), tile_px=112)  # the table's tiles are half as wide as the backbone's
    with open_slide(rows[0]["path"], mpp=rows[0]["mpp"]) as slide, TileReader(slide, reading) as reader:
        images = reader.read_at([row["x_px0"] for row in rows], [row["y_px0"] for row in rows])
    return {
        "images": images,
        "labels": np.asarray([row["label"] == "tumour" for row in rows], dtype=int),
        "test": np.asarray([row["split"] == "test" for row in rows]),
    }


def of_generated() -> dict[str, np.ndarray]:
    """Pictures and classes of generated tissue; the last quarter is in another stain."""
    images, labels, test = [], [], []
    for number, name in enumerate(CLASSES):
        for index in range(PICTURES):
            is_test = index >= PICTURES * 3 // 4
            stain = STAINS["purple" if is_test else "standard"].varied(index)
            dyes = textures.paint(name, SIDE, MPP, 10_000 + index)
            images.append(stain.colours(dyes.nuclear, dyes.matrix, dyes.marker))
            labels.append(number)
            test.append(is_test)
    return {"images": np.stack(images), "labels": np.asarray(labels), "test": np.asarray(test)}


def tile_of(squares: dict[str, list[Any]], name: str, stain: Any, random: np.random.Generator) -> np.ndarray:
    """(SIDE, SIDE, 3) of a class: a place of a square that goes on over its edges, turned and mirrored."""
    dyes = squares[name][random.integers(SQUARES)]
    down, across = random.integers(SQUARE_PX, size=2)
    rows, columns = (np.arange(start, start + SIDE) % SQUARE_PX for start in (down, across))
    parts = [part[np.ix_(rows, columns)] for part in (dyes.nuclear, dyes.matrix, dyes.marker)]
    tile = np.rot90(stain.colours(*parts), random.integers(4))
    return np.ascontiguousarray(tile[:, ::-1] if random.integers(2) else tile)


def bulk_tiles() -> dict[str, np.ndarray]:
    """Patients as bags of generated tiles, each patient in a stain of her own; expression follows how much there is of
    each class. Half of the genes follow the mixture of tissues, the others nothing.
    """
    random = np.random.default_rng(5)
    squares = {
        name: [textures.paint(name, SQUARE_PX, MPP, 20_000 + index) for index in range(SQUARES)] for name in CLASSES
    }
    loads = random.normal(size=(BULK_GENES // 2, len(CLASSES)))
    images, rows = [], []
    for patient in range(PATIENTS):
        share = random.dirichlet(np.full(len(CLASSES), 0.6))
        stain = STAINS["standard"].varied(1000 + patient)
        names = [CLASSES[number] for number in random.choice(len(CLASSES), TILES_PER_PATIENT, p=share)]
        images += [tile_of(squares, name, stain, random) for name in names]
        signal = np.exp(3 + 1.5 * loads @ share + 0.3 * random.normal(size=len(loads)))
        noise = np.exp(3 + random.normal(size=BULK_GENES - len(loads)))
        rows.append(np.log1p(np.concatenate([signal, noise])))
    return {"images": np.stack(images), "expression": np.asarray(rows, np.float32)}


def bulk_cohort(made: dict[str, np.ndarray], source: Source, out: Path) -> Paired:
    """The generated patients: three fifths learn, a fifth chooses the epoch, a fifth is judged."""
    names = tuple(f"P{patient:03d}" for patient in range(PATIENTS))
    bags = []
    for patient, name in enumerate(names):
        path = out / "bulk" / f"{name}.h5"
        features = made["features"][patient * TILES_PER_PATIENT :][:TILES_PER_PATIENT]
        if not path.is_file():
            coords = np.stack([np.arange(len(features)) * float(SIDE), np.zeros(len(features))], axis=1)
            size = (float(SIDE), float(SIDE))
            FeatureSet(features, coords, source.card.name, MPP, SIDE, SIDE, size, name, name).save(path)
        bags.append(Bag(((path, len(features)),)))
    about = FeatureHeader(1, made["features"].shape[1], source.card.name, MPP, SIDE, SIDE, (224.0, 224.0), "", "")
    starts = np.arange(PATIENTS + 1) * ENCODER_POOL
    first = np.arange(PATIENTS)[:, None] * TILES_PER_PATIENT + np.arange(ENCODER_POOL)
    genes = tuple(f"GENE{index}" for index in range(BULK_GENES))
    return Paired(
        "patient",
        names,
        ("all",) * PATIENTS,
        names,
        tuple(("test", "val", "train", "train", "train")[index % 5] for index in range(PATIENTS)),
        np.arange(PATIENTS),
        about,
        features=made["features"].reshape(PATIENTS, TILES_PER_PATIENT, -1).mean(axis=1),
        bags=tuple(bags),
        pool=TilePool(made["images"][first.ravel()], starts),
        expression=Expression(made["expression"], names, genes, source="generated"),
    )


# -- one row ----------------------------------------------------------------------------------------------------------


def probe(features: np.ndarray, task: dict[str, np.ndarray]) -> float:
    """Balanced accuracy in percent of a logistic regression on the test tiles."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, test = ~task["test"], task["test"]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    model.fit(features[train], task["labels"][train])
    return 100 * float(balanced_accuracy_score(task["labels"][test], model.predict(features[test])))


def correlation(where: str, paired: Paired, genes: Genes, predicted: np.ndarray) -> float:
    """Mean correlation times 100 on what was held out: over 50 genes of section C4, or the genes that follow tissue."""
    test = paired.rows("test")
    if where.startswith("spots"):
        return 100 * scores_on(paired, genes, predicted, test)["top50"]
    names = genes.scaler.genes  # type: ignore[union-attr]
    report = gene_report(predicted, genes.scores[test], names, [paired.groups[row] for row in test])  # type: ignore[index]
    return 100 * float(np.mean([report["genes"][f"GENE{index}"]["r"] for index in range(BULK_GENES // 2)]))


def base_of(world: World, where: str, seed: int) -> float:
    """`correlation` of a ridge regression on the frozen features; of patients on the mean of their tiles."""
    paired = world.paired(where.removesuffix(SHUFFLED), seed)
    genes = world.genes(where, paired)
    return correlation(where, paired, genes, ridge(paired, genes, paired.features))  # type: ignore[arg-type]


def tuned(world: World, where: str, objective: str, mode: str, seed: int) -> dict[str, Any]:
    """Train once; balanced accuracy of each task with the enhanced features, and the expression's correlation."""
    config: Any = load_config("transcriptomics", {"objective": objective, "aggregator": "abmil"} | MODES[mode])
    paired, is_encoder = world.paired(where, seed), config.mode == "encoder"
    if not is_encoder:
        paired = replace(paired, images=None, pool=None)
    genes = world.genes(where, paired)
    partner = partner_of(world.inputs, config, paired, genes.scores)
    plain = TrainingConfig(seed=seed)
    training = replace(
        plain,
        epochs=world.epochs if is_encoder else EPOCHS,
        patience=PATIENCE,
        batch_size=ENCODER_PATIENTS if is_encoder and paired.pool is not None else plain.batch_size,
        lr=plain.lr * config.rate,
    )
    started, worked = time.monotonic(), time.process_time()
    trainee = PairedTrainee(config, paired, genes.scores, partner, world.source, training)
    done = drained(fit(trainee, training))
    if trainee.encoder is None:
        trainee.finish()
    elif not config.predicts:
        trainee._fit_head()  # in the number format of the training, which is quicker than in that of saved files
    test = paired.rows("test")
    with torch.no_grad():
        predicted = trainee.model.pooled_genes(trainee._samples(test)).cpu().numpy()
    found: dict[str, Any] = {"expression": correlation(where, paired, genes, predicted)}
    for name, task in world.tasks.items():
        features = task["features"]
        if trainee.encoder is not None:
            features = in_batches(trainee.encoder.backbone, task["images"], world.precision)
        with torch.no_grad():
            found[name] = probe(trainee.model.adapter(torch.from_numpy(features)).numpy(), task)
    found |= {"best_epoch": done.epoch, "history": done.history, "trained": trainee.count()}
    return found | {"seconds": time.monotonic() - started, "processor_seconds": time.process_time() - worked}


def rows_of(with_encoder: bool) -> Iterator[tuple[str, str, str]]:
    """(objective, mode, where) of every row, in the order of the table."""
    for pairs in ("", SHUFFLED):
        for where in ("spots", "bulk"):
            for mode in MODES if with_encoder else ("features",):
                for objective in ("direct", "contrastive"):
                    yield objective, mode, where + pairs


def world_of(options: argparse.Namespace) -> World:
    """Make or load all that is frozen."""
    source, out = Source.of(options.backbone, "cpu"), options.out
    tasks = {
        "CAMELYON16, bottom half": saved(out / "camelyon16.npz", lambda: of_camelyon(options.data, source)),
        "generated tissue, another stain": saved(out / "generated.npz", of_generated),
    }
    made = saved(out / "bulk.npz", bulk_tiles)
    precision = format_of(source, next(iter(tasks.values()))["images"])
    for name, part in {**tasks, "bulk": made}.items():
        file = out / f"features {name} {precision}.npz".replace(",", "").replace(" ", "-")

        def work(part: dict[str, np.ndarray] = part) -> dict[str, np.ndarray]:
            return {"features": in_batches(source.load(), part["images"], precision)}

        part["features"] = saved(file, work)["features"]
    inputs = cohort_of(options.data, out)
    reading = TrainingConfig().reading_of(source.card)
    spots = drained(gather(inputs, source.card, reading, source.load, out / "spots", images=True))
    return World(inputs, source, tasks, spots, bulk_cohort(made, source, out), precision, options.epochs)


def main() -> None:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("out/poster_table"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=1, help="of the encoder mode")
    parser.add_argument("--no-encoder", action="store_true", help="features mode only: minutes instead of hours")
    parser.add_argument("--rows", default="", help="only rows whose name holds this; several runs can share --out")
    parser.add_argument("--finished", action="store_true", help="print what is finished, compute nothing more")
    parser.add_argument("--backbone", default="pathotune-tiny")
    options = parser.parse_args()
    torch.set_num_threads(1)
    world = world_of(options)
    base = {name: probe(task["features"], task) for name, task in world.tasks.items()}
    rows = [row for row in rows_of(not options.no_encoder) if options.rows in ", ".join(row)]
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {row: [] for row in rows}
    for seed in range(options.seeds):
        for row in rows:
            objective, mode, where = row
            told = f"{mode} {options.epochs} epochs" if mode != "features" else mode
            name = f"{where} {told} {objective} {seed}".replace(",", "").replace(" ", "-")

            def work(row: tuple[str, str, str] = row, seed: int = seed) -> dict[str, Any]:
                objective, mode, where = row
                return tuned(world, where, objective, mode, seed) | {"expression_base": base_of(world, where, seed)}

            file = options.out / "rows" / f"{name}.json"
            if file.is_file() or not options.finished:
                found[row].append(kept(file, work))
    report(base, {row: runs for row, runs in found.items() if runs}, options)


def report(base: dict[str, float], found: dict[tuple[str, str, str], list[dict[str, Any]]], options: Any) -> None:
    """The table in Markdown, and everything as JSON."""

    def shown(values: list[float]) -> str:
        spread = f" ({statistics.pstdev(values):.1f})" if len(values) > 1 else ""
        return f"{statistics.mean(values):+.1f}{spread}"

    rounds = "1 epoch" if options.epochs == 1 else f"{options.epochs} epochs"
    print(f"\n{options.backbone}; {rounds} in encoder mode.")
    print("Balanced accuracy in percent, differences in points: mean (sd) over the seeds.")
    titles = ["", "seeds", *base, "mean difference", "r × 100 of expression"]
    print(f"\n| {' | '.join(titles)} |\n|{' --- |' * len(titles)}")
    print(f"| base | | {' | '.join(f'{value:.1f}' for value in base.values())} | | |")
    for where in ("spots", "bulk"):
        own = {run["expression_base"] for (_, _, place), runs in found.items() if place == where for run in runs}
        if not own:
            continue
        print(f"| base, {where}: ridge | | {'| ' * len(base)}| {statistics.mean(own):.1f} |")
    for (objective, mode, where), runs in found.items():
        differences = [[run[name] - value for run in runs] for name, value in base.items()]
        means = [statistics.mean(of_seed) for of_seed in zip(*differences, strict=True)]
        expression = [run["expression"] - run["expression_base"] for run in runs]
        cells = [shown(values) for values in (*differences, means, expression)]
        print(f"| {objective}, {mode}, {where} | {len(runs)} | {' | '.join(cells)} |")
    rows = {", ".join(row): runs for row, runs in found.items()}
    (options.out / "poster_table.json").write_text(json.dumps({"base": base, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
