"""What transcriptomics tuning does to a backbone's features on tasks that have nothing to do with expression.

    python benchmarks/poster_table.py --data DIR [--out DIR] [--seeds 5] [--patients 120]

The layout of the poster "Enhancing Pathology Foundation Models with Transcriptomics": the base's balanced accuracy,
the difference of each tuning per task, and the mean difference. Tunings are made in features mode, direct and
contrastive, on real spots (HER2ST sections C2 and C3, Andersson et al. 2021, CC BY 4.0) and on a generated bulk cohort
(one profile a patient, a bag of tiles each), and once with images and expression paired at random. Tasks, whose labels
do not come from expression: tumour or normal on tiles of the bottom half of a CAMELYON16 region (learned on the top
half), and seven classes of generated tissue in a stain that was not learned from. The probe is a logistic regression on
standardised features. Only seeds of the tuning differ; features are computed once and kept under --out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pathotune.datasets.expression import Expression
from pathotune.features.featureset import FeatureHeader, FeatureSet
from pathotune.methods import load_config
from pathotune.slides.synthetic import STAINS, textures
from pathotune.training.fit import fit
from pathotune.training.paired import Bag, Paired, divided, gather, pooled
from pathotune.training.paired_trainee import PairedTrainee
from pathotune.training.partners import partner_of
from pathotune.training.schedule import TrainingConfig
from pathotune.training.transcriptomics import EPOCHS, PATIENCE, Source, genes_of

sys.path.insert(0, str(Path(__file__).parent))
from expression_her2st import cohort_of, drained, shuffled
from tile_tables import camelyon16

CLASSES = ("tumor", "benign_glands", "stroma", "smooth_muscle", "immune_cells", "necrosis", "adipose")
PICTURES, SIDE, MPP = 40, 224, 0.5
BULK_GENES, TILES_PER_PATIENT = 60, 48


def kept(path: Path, work: Any) -> dict[str, np.ndarray]:
    """Arrays that were computed before, or are computed now and kept."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **work())
    return dict(np.load(path))


def in_batches(source: Source, images: np.ndarray) -> np.ndarray:
    """(n, D) of the frozen backbone."""
    return np.concatenate([pooled(source.load(), images[start : start + 32]) for start in range(0, len(images), 32)])


def of_camelyon(data: Path, source: Source) -> dict[str, np.ndarray]:
    """Features, labels and halves of the CAMELYON16 tiles."""
    from pathotune.slides import open_slide
    from pathotune.tiles.reader import TileReader

    rows = list(camelyon16(data.resolve()))
    reading = replace(source.card.reading(), tile_px=112)  # the table's tiles are half as wide as the backbone's
    with open_slide(rows[0]["path"], mpp=rows[0]["mpp"]) as slide, TileReader(slide, reading) as reader:
        images = reader.read_at([row["x_px0"] for row in rows], [row["y_px0"] for row in rows])
    labels = np.asarray([row["label"] == "tumour" for row in rows], dtype=int)
    return {
        "features": in_batches(source, images),
        "labels": labels,
        "test": np.asarray([row["split"] == "test" for row in rows]),
    }


def of_generated(source: Source) -> dict[str, np.ndarray]:
    """Features and classes of generated tissue; the last quarter is in another stain."""
    images, labels, test = [], [], []
    for number, name in enumerate(CLASSES):
        for index in range(PICTURES):
            is_test = index >= PICTURES * 3 // 4
            stain = STAINS["purple" if is_test else "standard"].varied(index)
            dyes = textures.paint(name, SIDE, MPP, 10_000 + index)
            images.append(stain.colours(dyes.nuclear, dyes.matrix, dyes.marker))
            labels.append(number)
            test.append(is_test)
    return {
        "features": in_batches(source, np.stack(images)),
        "labels": np.asarray(labels),
        "test": np.asarray(test),
    }


def bulk_cohort(tiles: dict[str, np.ndarray], patients: int, source: Source, out: Path) -> Paired:
    """Patients as bags of generated tiles; expression follows how much there is of each class.

    Half of the genes follow the mixture of tissues, the others nothing.
    """
    random = np.random.default_rng(5)
    pool = [np.flatnonzero((tiles["labels"] == number) & ~tiles["test"]) for number in range(len(CLASSES))]
    loads = random.normal(size=(BULK_GENES // 2, len(CLASSES)))
    names, bags, rows = [], [], []
    for patient in range(patients):
        share = random.dirichlet(np.full(len(CLASSES), 0.6))
        drawn = random.choice(len(CLASSES), TILES_PER_PATIENT, p=share)
        chosen = [random.choice(pool[number]) for number in drawn]
        signal = np.exp(3 + 1.5 * loads @ share + 0.3 * random.normal(size=len(loads)))
        noise = np.exp(3 + random.normal(size=BULK_GENES - len(loads)))
        rows.append(np.log1p(np.concatenate([signal, noise])))
        name = f"P{patient:03d}"
        path = out / "bulk" / f"{name}.h5"
        features = tiles["features"][chosen].astype(np.float32)
        if not path.is_file():
            coords = np.stack([np.arange(len(chosen)) * 224.0, np.zeros(len(chosen))], axis=1)
            size = (float(SIDE), float(SIDE))
            FeatureSet(features, coords, source.card.name, MPP, SIDE, SIDE, size, name, name).save(path)
        names.append(name)
        bags.append(Bag(((path, len(chosen)),)))
    genes = tuple(f"GENE{index}" for index in range(BULK_GENES))
    about = FeatureHeader(1, tiles["features"].shape[1], source.card.name, MPP, SIDE, SIDE, (224.0, 224.0), "", "")
    who = tuple(names)
    expression = Expression(np.asarray(rows, dtype=np.float32), who, genes, source="generated")
    split = tuple("val" if index % 4 == 0 else "train" for index in range(patients))
    groups = ("all",) * patients
    return Paired(
        "patient", who, groups, who, split, np.arange(patients), about, bags=tuple(bags), expression=expression
    )


def adapter_of(inputs: Any, paired: Paired, source: Source, settings: dict[str, Any], seed: int) -> Any:
    """The adapter of one tuning."""
    config: Any = load_config("transcriptomics", settings)
    genes = genes_of(replace(inputs, pathways=None), config, paired)
    partner = partner_of(inputs, config, paired, genes.scores)
    training = replace(
        TrainingConfig(seed=seed), epochs=EPOCHS, patience=PATIENCE, lr=TrainingConfig().lr * config.rate
    )
    trainee = PairedTrainee(config, paired, genes.scores, partner, source, training)
    drained(fit(trainee, training))
    return trainee.model.adapter.eval()


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


def main() -> None:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("out/poster_table"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--patients", type=int, default=120)
    parser.add_argument("--backbone", default="pathotune-tiny")
    options = parser.parse_args()
    torch.set_num_threads(1)
    source = Source.of(options.backbone, "cpu")
    tasks = {
        "CAMELYON16, bottom half": kept(options.out / "camelyon16.npz", lambda: of_camelyon(options.data, source)),
        "generated tissue, another stain": kept(options.out / "generated.npz", lambda: of_generated(source)),
    }
    inputs = cohort_of(options.data, options.out)
    reading = TrainingConfig().reading_of(source.card)
    spots = drained(gather(inputs, source.card, reading, source.load, options.out / "spots"))
    bulk = bulk_cohort(tasks["generated tissue, another stain"], options.patients, source, options.out)
    base = {name: probe(task["features"], task) for name, task in tasks.items()}
    found: dict[str, dict[str, list[float]]] = {}
    for seed in range(options.seeds):
        whole, _ = divided(spots, TrainingConfig().val_fraction, seed)
        for where, paired in (("spots", whole), ("bulk", bulk), ("spots, pairs shuffled", shuffled(whole, seed))):
            for objective in ("direct", "contrastive"):
                adapter = adapter_of(inputs, paired, source, {"objective": objective, "aggregator": "abmil"}, seed)
                for name, task in tasks.items():
                    with torch.no_grad():
                        enhanced = adapter(torch.from_numpy(task["features"])).numpy()
                    row = found.setdefault(f"{objective}, {where}", {})
                    row.setdefault(name, []).append(probe(enhanced, task) - base[name])
        print(f"seed {seed} done", flush=True)
    print(
        f"\n{options.backbone}, features mode; balanced accuracy in percent, differences in points: mean (sd) of ",
        end="",
    )
    print(f"{options.seeds} seeds\n\n| | {' | '.join(tasks)} | mean difference |\n|{' --- |' * (len(tasks) + 2)}")
    print(f"| base | {' | '.join(f'{value:.1f}' for value in base.values())} | |")
    for name, row in found.items():
        cells = [f"{statistics.mean(values):+.1f} ({statistics.pstdev(values):.1f})" for values in row.values()]
        mean = statistics.mean(value for values in row.values() for value in values)
        print(f"| {name} | {' | '.join(cells)} | {mean:+.1f} |")
    (options.out / "poster_table.json").write_text(json.dumps({"base": base, "differences": found}, indent=1))


if __name__ == "__main__":
    main()
