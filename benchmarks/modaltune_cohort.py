"""ModalTune on a generated cohort whose subtype and hazard are carried half by the image and half by one pathway.

Every patient has two hidden numbers: u, which the share of one kind of tile shows, and v, which shifts the genes of
one pathway. The subtype is the sign of u + v, the logarithm of the hazard is u - v: neither can be had from
one side alone. Compared on the same splits: ModalTune with its three task prompts, image only, genes only, late
fusion (gated attention and a gene net, concatenated, learned with cross-entropy and Cox's likelihood together), and the
linear models that ModalTune's vectors get on the mean tile beside the genes, without any net; then
what becomes of ModalTune without one of its parts, with expression withheld from the test patients, on two sites, and
on one never seen.

    python benchmarks/modaltune_cohort.py --out DIR --seeds 5      (resumable: every finished cell is kept)

The small slide encoder is used, whose weights are random and were never trained. `DIR/cells/` holds one JSON per cell,
`DIR/table.md` the means and standard deviations over the seeds.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

# One whose features are as wide as what is drawn here; its weights are never asked for.
BACKBONE = "vit-tiny-in21k-ft-in1k"
WIDTH, TILE_PX, TILES, GENES, PATHWAYS = 192, 224, 12, 240, 16
TELLING = 5  # the pathway that carries v
SITES = {"breast": 0, "lung": 1, "kidney": 2}
STAGES = ("Stage I", "Stage IIA", "Stage IIIB", "Stage IV")
SIGNAL, NOISE = 2.5, 1.0
TRAINING = {"epochs": 6, "patience": 6, "lr": 1e-3, "warmup_epochs": 2, "weight_decay": 0.05}
METHOD = {"patients_per_step": 16, "gene_width": 32, "gene_tokens": 8, "mixer_depth": 1, "output_dim": 64}
METHOD |= {"gene_dropout": 0.0, "interactions": 2, "read_out": "concat"}
# Ours, for few patients: targets without their mean, and a side path that begins with genes heard beside the image.
METHOD |= {"centre_targets": True, "extractor_start": 0.03, "gene_start": 2.5}
PATIENTS, OTHERS = 400, 200

# What ModalTune is without one of its parts.
ABLATIONS = {
    "side path begun as published": {"extractor_start": 1.0, "gene_start": 1.0},
    "gamma fixed at 0": {"train_gamma": False},
    "texts shuffled between patients": {},
    "one-hot targets": {"target": "one_hot"},
    "diagnosis prompt alone": {"prompts": "diagnosis"},
    "survival prompt alone": {"prompts": "survival"},
}
RIVALS = ("image only", "genes only", "late fusion", "linear models alone")
ROWS = ("ModalTune", *RIVALS, "two sites", *ABLATIONS)


def pathway_sets(random: np.random.Generator) -> dict[str, list[str]]:
    """Sets of 8 to 20 genes that overlap a little."""
    names = [f"GENE{number}" for number in range(GENES)]
    return {
        f"PATHWAY_{number}": sorted(random.choice(names, int(random.integers(8, 21)), replace=False).tolist())
        for number in range(PATHWAYS)
    }


def make(folder: Path, patients: int, seed: int, sites: tuple[str, ...] = ("breast",), tiles: int = TILES) -> Path:
    """Write a cohort: features of one or two slides each, expression, pathways, clinical table, splits 40/15/45.

    Returns
    -------
    The folder, with cohort.csv, expression.csv, pathways.gmt, clinical.csv and features/.
    """
    from pathotune.features import FeatureSet

    if (folder / "cohort.csv").is_file():
        return folder
    fixed = np.random.default_rng(7)  # what kinds of tiles look like, and which genes work together, is nature's
    sets, kinds = pathway_sets(fixed), fixed.normal(size=(4, WIDTH)) * 0.35
    looks = fixed.normal(size=(len(SITES), WIDTH)) * 0.2
    levels = fixed.uniform(4, 10, GENES)
    random = np.random.default_rng([seed, patients])
    cohort, clinical, expression = [], [], []
    for number in range(patients):
        name, site = f"P{number:04d}", sites[number % len(sites)]
        u, v = random.normal(size=2)
        event, months = follow_up(u, v, random)
        split = "train" if number < patients * 0.4 else "val" if number < patients * 0.55 else "test"
        label = f"{site} ductal" if u + v > 0 else f"{site} lobular"
        for slide in range(int(random.integers(1, 3))):
            called = f"{name}-{slide + 1}"
            cohort.append([f"{called}.tif", name, label, f"{months:.2f}", event, split])
            features, places = slide_features(u, kinds, looks[SITES[site]], tiles, random)
            FeatureSet(
                features=features,
                coords_px0=places,
                backbone=BACKBONE,
                mpp=0.5,
                tile_px=TILE_PX,
                image_px=TILE_PX,
                tile_px0=(2.0 * TILE_PX, 2.0 * TILE_PX),
                slide=f"{called}.tif",
                slide_fingerprint=f"{seed}-{called}",
            ).save(folder / "features" / f"{called}.h5")
        stage = STAGES[int(np.clip(round(1.5 + 0.7 * (u - v) + random.normal()), 0, 3))]
        clinical.append([name, site, label, stage, f"{random.uniform(35, 85):.0f}"])
        expression.append([name, *(f"{value:.4f}" for value in genes(v, sets, levels, SITES[site], random))])
    write(folder / "cohort.csv", ["slide", "patient", "label", "time", "event", "split"], cohort)
    write(folder / "clinical.csv", ["case_id", "site", "diagnosis", "stage", "age"], clinical)
    write(folder / "expression.csv", ["sample", *(f"GENE{number}" for number in range(GENES))], expression)
    lines = [f"{name}\tgenerated\t" + "\t".join(members) for name, members in sets.items()]
    (folder / "pathways.gmt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def follow_up(u: float, v: float, random: np.random.Generator) -> tuple[int, float]:
    """Whether the event was seen, and the months until it or until the last sight."""
    time_to_event = random.exponential(30.0 * np.exp(-(u - v)))
    last_sight = random.uniform(10, 80)
    return int(time_to_event <= last_sight), float(min(time_to_event, last_sight)) + 0.1


def slide_features(
    u: float, kinds: np.ndarray, look: np.ndarray, tiles: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Tiles of four kinds on a grid; the share of the first kind rises with u, the shares of the others are chance."""
    share = 0.02 + 0.9 / (1 + np.exp(-1.5 * u))
    others = random.dirichlet((2.0, 2.0, 2.0)) * (1 - share)
    kind = random.choice(4, tiles, p=[share, *others])
    stain = random.normal(size=WIDTH) * 0.15
    features = kinds[kind] + look + stain + random.normal(size=(tiles, WIDTH)) * NOISE
    columns = int(np.ceil(np.sqrt(tiles)))
    places = np.stack([np.arange(tiles) % columns, np.arange(tiles) // columns], axis=1) * 2.0 * TILE_PX
    return features.astype(np.float32), places


def genes(
    v: float, sets: dict[str, list[str]], levels: np.ndarray, site: int, random: np.random.Generator
) -> np.ndarray:
    """Logarithms of expression: every pathway has an activity of its own, that of one is v."""
    activity = random.normal(size=PATHWAYS)
    activity[TELLING] = SIGNAL * v
    values = levels + np.random.default_rng(site).normal(size=GENES) + random.normal(size=GENES)
    for strength, members in zip(activity, sets.values(), strict=True):
        for gene in members:
            values[int(gene[4:])] += 0.6 * strength
    return values


def write(path: Path, columns: list[str], rows: list[list[object]]) -> None:
    """A CSV table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def inputs_of(folder: Path, *, expression: bool = True):
    """The cohort and its tables, as the command line gives them."""
    from pathotune.datasets.cohort import CohortInputs, read_cohort

    return CohortInputs(
        read_cohort(folder / "cohort.csv"),
        features=folder / "features",
        expression=folder / "expression.csv" if expression else None,
        pathways=folder / "pathways.gmt" if expression else None,
        clinical=folder / "clinical.csv",
    )


def modaltune(folder: Path, name: str, seed: int, work: Path, others: tuple[Path, ...] = ()) -> dict[str, object]:
    """One tuning: scores of its test patients with and without expression, and of the cohorts of `others`."""
    from pathotune.evaluation.patients import evaluate
    from pathotune.events import result_of
    from pathotune.execution.patient_record import save_patient_tuning
    from pathotune.execution.patient_tuning import learn, prepare, settled
    from pathotune.methods import load_config
    from pathotune.methods.checkpoint import Tuning
    from pathotune.methods.options import with_settings
    from pathotune.training.schedule import TrainingConfig
    from pathotune.training.stopping import Stopping

    started = time.process_time()
    config = load_config("modaltune", {**METHOD, **ABLATIONS.get(name, {})})
    training = settled(with_settings(TrainingConfig(), {**TRAINING, "seed": seed, "device": "cpu"}))
    stopping, inputs = Stopping(), inputs_of(folder)
    run = ended(prepare(inputs, config, BACKBONE, training, None, work, stopping))
    if name == "texts shuffled between patients":
        order = np.arange(len(run.table))
        order[run.train] = np.random.default_rng(seed).permutation(run.train)
        run = replace(run, targets=replace(run.targets, texts=run.targets.texts[order], known=run.targets.known[order]))
    outcome = ended(learn(run, stopping))
    tuning = Tuning.load(save_patient_tuning(outcome, "modaltune", work, 0.0)["out"])
    said = result_of(evaluate(tuning, inputs, device="cpu"))
    kept = ("balanced_accuracy", "c_index", "prompts", "without_expression", "sites", "linear_models")
    return {
        **{key: said[key] for key in kept if key in said},
        "others": [
            {
                key: value
                for key, value in result_of(evaluate(tuning, inputs_of(other), device="cpu")).items()
                if key in kept
            }
            for other in others
        ],
        "epoch": outcome.fit.epoch,
        "parameters": outcome.parameters,
        "cpu_seconds": round(time.process_time() - started, 1),
    }


def ended(stream):
    """The value of a generator of events."""
    while True:
        try:
            next(stream)
        except StopIteration as end:
            return end.value


def rival(folder: Path, name: str, seed: int) -> dict[str, object]:
    """Gated attention over the tiles, a pathway net over the genes, or both concatenated; classes and hazard."""
    import torch
    from torch.nn import functional

    from pathotune.datasets.expression import GeneScaler, read_expression
    from pathotune.datasets.pathways import pathway_matrix, read_pathways
    from pathotune.losses.survival import cox_loss
    from pathotune.training.linear_models import c_index
    from pathotune.training.metrics import balanced_accuracy

    started = time.process_time()
    torch.manual_seed(seed)
    inputs = inputs_of(folder)
    cohort = inputs.cohort
    rows = list(cohort.by_patient().values())
    features, mask = bags_of(inputs, rows)
    expression = read_expression(inputs.expression, samples=cohort.patients)
    side = np.asarray([cohort.split[own[0]] for own in rows])
    place = [expression.row_of()[cohort.patients[own[0]]] for own in rows]
    train, val, test = (np.flatnonzero(side == one) for one in ("train", "val", "test"))
    scaler = GeneScaler.fit(
        expression,
        [place[row] for row in train],
        sorted({g for s in read_pathways(inputs.pathways).values() for g in s}),
    )
    genes_of = torch.from_numpy(np.nan_to_num(scaler.apply(expression.take(place))))
    member = pathway_matrix(read_pathways(inputs.pathways), scaler.genes).member
    first = [own[0] for own in rows]
    if name == "linear models alone":
        return linear(features, mask, genes_of, cohort, first, train, test)
    labels = torch.from_numpy(cohort.label_indices()[first])
    survived, event = torch.from_numpy(cohort.time[first]), torch.from_numpy(cohort.event[first])
    model = rival_model(name, member, features[torch.from_numpy(train)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    random, best = np.random.default_rng(seed), (-1.0, None)
    for _ in range(40):
        model.train()
        order = random.permutation(train)
        for start in range(0, len(train), 16):
            few = order[start : start + 16]
            said, risk = model(features[few], mask[few], genes_of[few])
            loss = functional.cross_entropy(said, labels[few]) + cox_loss(risk, survived[few], event[few])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scores = judged_by(model, features, mask, genes_of, labels, survived, event, val, balanced_accuracy, c_index)
        if sum(scores) > best[0]:
            found = judged_by(
                model, features, mask, genes_of, labels, survived, event, test, balanced_accuracy, c_index
            )
            best = (sum(scores), found)
    return {
        "balanced_accuracy": best[1][0],
        "c_index": best[1][1],
        "parameters": sum(value.numel() for value in model.parameters()),
        "cpu_seconds": round(time.process_time() - started, 1),
    }


def linear(features, mask, genes_of, cohort, first, train, test) -> dict[str, object]:
    """Mean tile beside the genes, each number standardised; then the same linear models as on ModalTune's vectors."""
    from pathotune.training.linear_models import ClassModel, CoxModel, c_index
    from pathotune.training.metrics import balanced_accuracy

    started = time.process_time()
    mean = (features * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    vectors = np.concatenate([mean.numpy(), genes_of.numpy()], axis=1)
    vectors = (vectors - vectors[train].mean(axis=0)) / vectors[train].std(axis=0)
    labels, survived, event = cohort.label_indices()[first], cohort.time[first], cohort.event[first]
    said = ClassModel.fit(vectors[train], labels[train], 2).probabilities(vectors[test]).argmax(axis=1)
    risk = CoxModel.fit(vectors[train], survived[train], event[train]).risk(vectors[test])
    return {
        "balanced_accuracy": balanced_accuracy(labels[test], said, 2),
        "c_index": c_index(survived[test], event[test], risk),
        "parameters": 0,
        "cpu_seconds": round(time.process_time() - started, 1),
    }


def judged_by(model, features, mask, genes_of, labels, survived, event, rows, balanced_accuracy, c_index):
    """Balanced accuracy and concordance index of some patients."""
    import torch

    model.eval()
    with torch.no_grad():
        said, risk = model(features[rows], mask[rows], genes_of[rows])
    right = balanced_accuracy(labels[rows].numpy(), said.argmax(dim=1).numpy(), said.shape[1])
    return right, c_index(survived[rows].numpy(), event[rows].numpy(), risk.numpy())


def bags_of(inputs, rows):
    """Tiles of all patients, filled up: (n, tiles, d) and (n, tiles)."""
    import torch

    from pathotune.features import FeatureSet, find_features

    found = [
        np.concatenate(
            [FeatureSet.load(find_features(inputs.features, inputs.cohort.slides[row])).features for row in own]
        )
        for own in rows
    ]
    longest = max(len(one) for one in found)
    features, mask = torch.zeros(len(found), longest, WIDTH), torch.zeros(len(found), longest, dtype=torch.bool)
    for number, one in enumerate(found):
        features[number, : len(one)], mask[number, : len(one)] = torch.from_numpy(one), True
    return features, mask


def rival_model(name: str, member: np.ndarray, seen):
    """A model (tiles, mask, genes) -> (logits, log-hazard) that looks at one side or at both."""
    import torch
    from torch import nn

    from pathotune.backbones.gene.pathways import PathwayEncoder

    class Rival(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", seen.mean(dim=(0, 1)))
            self.register_buffer("spread", seen.std(dim=(0, 1)))
            self.bring, self.gate, self.look = nn.Linear(WIDTH, 64), nn.Linear(64, 32), nn.Linear(64, 32)
            self.share, self.drop = nn.Linear(32, 1), nn.Dropout(0.25)
            self.genes = PathwayEncoder(member, 64, 8, 32, 1)
            parts = 128 if name == "late fusion" else 64
            self.classes, self.hazard = nn.Linear(parts, 2), nn.Linear(parts, 1)

        def forward(self, tiles, mask, genes_of):
            parts = []
            if name != "genes only":
                brought = self.drop(torch.relu(self.bring((tiles - self.mean) / self.spread)))
                shares = self.share(torch.sigmoid(self.gate(brought)) * torch.tanh(self.look(brought))).squeeze(-1)
                parts.append((shares.masked_fill(~mask, -1e9).softmax(dim=1)[..., None] * brought).sum(dim=1))
            if name != "image only":
                parts.append(self.genes(genes_of).mean(dim=1))
            joined = torch.cat(parts, dim=1)
            return self.classes(joined), self.hazard(joined).squeeze(1)

    return Rival()


def cell(out: Path, name: str, seed: int, make_cell) -> dict[str, object]:
    """What one cell came to: read where it is there, else computed and kept."""
    path = out / "cells" / f"{name.replace(' ', '-')}-{seed}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    found = make_cell()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(found, indent=1), encoding="utf-8")
    os.replace(temporary, path)
    print(name, seed, {key: found[key] for key in ("balanced_accuracy", "c_index", "cpu_seconds")}, flush=True)
    return found


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean (Student's t)."""
    from scipy import stats

    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def table(found: dict[str, list[dict[str, object]]]) -> str:
    """Means and standard deviations over the seeds as Markdown."""
    lines = ["| what | seeds | balanced accuracy | c-index |", "| --- | --- | --- | --- |"]

    def row(name: str, scores: list[dict[str, object]]) -> None:
        cells = []
        for key in ("balanced_accuracy", "c_index"):
            values = np.asarray([one[key] for one in scores if one.get(key) is not None], dtype=float)
            spread = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.3f}{spread}" if len(values) else "–")
        lines.append(f"| {name} | {len(scores)} | {' | '.join(cells)} |")

    for name, scores in found.items():
        row(name, scores)
        if name == "ModalTune":
            for prompt in ("general", "diagnosis", "survival"):
                row(f"ModalTune, prompt {prompt}", [one["prompts"][prompt] for one in scores])
            row("ModalTune, expression withheld from the test patients", [one["without_expression"] for one in scores])
        if name == "two sites":
            for site in ("breast", "lung"):
                row(f"two sites, {site}", [one["sites"][site] for one in scores])
            row("kidney, never seen, no step of the network", [one["others"][0] for one in scores])
    ours = found.get("ModalTune", [])
    for other in [name for name in RIVALS if len(ours) > 1 and len(found.get(name, [])) == len(ours)]:
        for key in ("balanced_accuracy", "c_index"):
            apart = np.asarray([one[key] - rival[key] for one, rival in zip(ours, found[other], strict=True)])
            low, high = interval(apart)
            said = f"{apart.mean():+.3f} (95 % interval {low:+.3f} to {high:+.3f})"
            lines += ["", f"ModalTune minus {other}, {key}: {said}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Make the cohorts, fill the cells that are not there yet, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--ablation-seeds", type=int, default=5, help="of the ablations and of the two sites")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="fill only these rows, by name and with commas; the table needs all")
    asked = parser.parse_args()
    import torch

    torch.set_num_threads(asked.threads)
    out, found = asked.out, {}
    names = [name for name in ROWS if not asked.only or name in asked.only.split(",")]
    for seed in range(asked.seeds):
        for name in names:
            if seed < asked.ablation_seeds or name in ("ModalTune", *RIVALS):
                found.setdefault(name, []).append(cell(out, name, seed, lambda n=name, s=seed: filled(out, n, s)))
        found = {name: found[name] for name in names if name in found}
        if not asked.only:
            (out / "table.md").write_text(table(found), encoding="utf-8")
    print(table(found))


def filled(out: Path, name: str, seed: int) -> dict[str, object]:
    """Compute one cell of the table."""
    work = out / "tunings" / f"{name.replace(' ', '-')}-{seed}.pathotune.safetensors"
    if name == "two sites":
        folder = make(out / f"sites-{seed}", PATIENTS, seed, ("breast", "lung"))
        return modaltune(folder, name, seed, work, (make(out / f"kidney-{seed}", OTHERS, 1000 + seed, ("kidney",)),))
    folder = make(out / f"cohort-{seed}", PATIENTS, seed)
    return rival(folder, name, seed) if name in RIVALS else modaltune(folder, name, seed, work)


if __name__ == "__main__":
    main()
