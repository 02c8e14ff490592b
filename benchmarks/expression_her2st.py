"""Expression from images on real breast tissue: learned on sections C2 and C3, judged on C4 of the same patient.

    python benchmarks/expression_her2st.py --data DIR [--out DIR] [--seeds 5] [--encoder]

DIR holds the HER2ST sections (Andersson et al. 2021, CC BY 4.0) under `st/her2st` and the Hallmark gene sets under
`genesets`. One patient, three neighbouring sections: nothing here says how a tuning fares on another patient. Every row
sees the same spots, the same genes (those that vary most over C2 and C3, and ERBB2) and the same blocks of spots held
out for each seed; nothing is chosen by what it does on C4. Features and finished rows are kept under --out, so that a
run that was stopped goes on.

Two tables: counts divided by each spot's total (size factors), and counts as they are. In the second the depth of
sequencing is part of what is predicted; it follows how dense the tissue is, which colours alone show, and every
correlation looks higher.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pathotune.datasets.cohort import CohortInputs, read_cohort
from pathotune.datasets.pathways import PathwayMatrix
from pathotune.evaluation.colour import colour_statistics
from pathotune.methods import load_config
from pathotune.methods.transcriptomics.layers import LinearMap
from pathotune.training.fit import fit
from pathotune.training.gene_scores import gene_report
from pathotune.training.paired import Paired, divided, gather
from pathotune.training.paired_trainee import PairedTrainee
from pathotune.training.partners import partner_of
from pathotune.training.schedule import TrainingConfig
from pathotune.training.transcriptomics import EPOCHS, PATIENCE, Genes, Source, genes_of

SECTIONS = {"C2": 0.696, "C3": 0.669, "C4": 0.690}
GENES, TOP, LEAST_IN_PATHWAY, NEAREST, SHUFFLES = 1000, 50, 5, 50, 40
ROWS: dict[str, dict[str, Any]] = {
    "direct": {"objective": "direct"},
    "direct, from zero": {"objective": "direct", "start": "zero"},
    "contrastive": {"objective": "contrastive"},
    "joint": {"objective": "joint"},
    "direct, pairs shuffled": {"objective": "direct"},
    "contrastive, pairs shuffled": {"objective": "contrastive"},
}
RAW_ROWS: dict[str, dict[str, Any]] = {"direct": {"objective": "direct"}, "contrastive": {"objective": "contrastive"}}
ENCODER_ROWS: dict[str, dict[str, Any]] = {
    "direct, LoRA": {"objective": "direct", "mode": "encoder", "tuned": "lora"},
    "contrastive, LoRA": {"objective": "contrastive", "mode": "encoder", "tuned": "lora"},
    "direct, full": {"objective": "direct", "mode": "encoder", "tuned": "full", "encoder_rate": 0.03},
}


def drained(stream: Any) -> Any:
    """What a generator returns."""
    while True:
        try:
            next(stream)
        except StopIteration as end:
            return end.value


def cohort_of(data: Path, out: Path) -> CohortInputs:
    """The three sections as a cohort table; C4 is the test."""
    folder = (data / "st" / "her2st").resolve()
    lines = ["slide,split,mpp,spots,expression"]
    for name, mpp in SECTIONS.items():
        spots, counts = folder / "spots" / f"{name}_selection.tsv", folder / "counts" / f"{name}.tsv.gz"
        lines.append(f"{folder / 'images' / name}.jpg,{'test' if name == 'C4' else ''},{mpp},{spots},{counts}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "cohort.csv").write_text("\n".join(lines) + "\n")
    pathways = data / "genesets" / "h.all.v7.0.symbols.gmt"
    return CohortInputs(read_cohort(out / "cohort.csv"), pathways=pathways)


def colour_and_texture(images: np.ndarray) -> np.ndarray:
    """(n, 36): 34 numbers of colour, and two of texture: mean gradient and spread of the Laplacian."""
    grey = images.astype(np.float32).mean(axis=3)
    gradient = np.hypot(np.diff(grey, axis=1)[:, :, 1:], np.diff(grey, axis=2)[:, 1:, :]).mean(axis=(1, 2))
    laplacian = (
        4 * grey[:, 1:-1, 1:-1] - grey[:, :-2, 1:-1] - grey[:, 2:, 1:-1] - grey[:, 1:-1, :-2] - grey[:, 1:-1, 2:]
    )
    texture = np.stack([gradient, laplacian.std(axis=(1, 2))], axis=1)
    return np.concatenate([colour_statistics(images), texture], axis=1).astype(np.float32)


def with_erbb2(inputs: CohortInputs, paired: Paired, size_factors: bool) -> Genes:
    """The most variable genes of the training sections, in that order, and ERBB2."""
    settings = {"genes": GENES, "size_factors": size_factors}
    first = genes_of(inputs, load_config("transcriptomics", settings), paired)  # type: ignore[arg-type]
    names = first.scaler.genes if first.scaler else ()
    if "ERBB2" in names:
        return first
    settings["gene_names"] = ",".join([*names, "ERBB2"])
    return genes_of(inputs, load_config("transcriptomics", settings), paired)  # type: ignore[arg-type]


def scores_on(paired: Paired, genes: Genes, predicted: np.ndarray, rows: np.ndarray) -> dict[str, float]:
    """The numbers of the table on section C4."""
    groups = [paired.groups[row] for row in rows]
    report = gene_report(predicted, genes.scores[rows], genes.scaler.genes, groups)  # type: ignore[index, union-attr]
    large = genes.member.sum(axis=1) >= LEAST_IN_PATHWAY  # type: ignore[union-attr]
    names = tuple(name for name, keep in zip(genes.pathway_names, large, strict=True) if keep)
    matrix = PathwayMatrix(names, genes.member[large], 0, 0, ())  # type: ignore[index]
    hallmark = gene_report(matrix.scores(predicted), matrix.scores(genes.scores[rows]), names, groups)  # type: ignore[index]
    r = {name: entry["r"] for name, entry in report["genes"].items()}
    top = [r[name] for name in list(r)[:TOP] if r[name] is not None]
    return {
        "top50": float(np.mean(top)),
        "hallmark": hallmark["mean_r"],
        "pathways": len(names),
        "erbb2": r["ERBB2"],
        "mean_r": report["mean_r"],
        "significant": report["significant"],
    }


def ridge(paired: Paired, genes: Genes, numbers: np.ndarray) -> np.ndarray:
    """Predictions for C4 of a ridge regression on standardised numbers, its strength chosen by the held-out blocks."""
    train, held, test = (paired.rows(name) for name in ("train", "val", "test"))
    mean, spread = numbers[train].mean(axis=0), np.maximum(numbers[train].std(axis=0), 1e-6)
    scaled = torch.from_numpy(((numbers - mean) / spread).astype(np.float32))
    wanted = torch.from_numpy(genes.scores)  # type: ignore[arg-type]
    model = LinearMap(numbers.shape[1], wanted.shape[1])
    model.fit(scaled[train], wanted[train], scaled[held], wanted[held])
    with torch.no_grad():
        return model(scaled[test]).numpy()


def order_of(paired: Paired, seed: int) -> np.ndarray:
    """Which spot's expression each spot gets: another one's of the same section, its own in the test section."""
    order = np.arange(len(paired))
    random = np.random.default_rng(seed)
    for group in dict.fromkeys(paired.groups):
        own = [row for row in range(len(paired)) if paired.groups[row] == group and paired.split[row] != "test"]
        order[own] = random.permutation(own)
    return order


def shuffled(paired: Paired, seed: int) -> Paired:
    """The same with expression of the training sections given to other spots of the same section."""
    order = order_of(paired, seed).tolist()
    return replace(paired, expression=paired.expression.take(order))  # type: ignore[union-attr]


def tuned(inputs: CohortInputs, paired: Paired, source: Source, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """Train once, and judge on C4."""
    genes = with_erbb2(inputs, paired, settings["size_factors"])
    config: Any = load_config("transcriptomics", settings)
    partner = partner_of(inputs, config, paired, genes.scores)
    is_encoder = config.mode == "encoder"
    training = replace(
        TrainingConfig(seed=seed),
        epochs=15 if is_encoder else EPOCHS,
        patience=5 if is_encoder else PATIENCE,
        lr=TrainingConfig().lr * config.rate,
    )
    started = time.monotonic()
    trainee = PairedTrainee(config, paired, genes.scores, partner, source, training)
    done = drained(fit(trainee, training))
    trainee.finish()
    test = paired.rows("test")
    found: dict[str, Any] = scores_on(paired, genes, trainee.predicted()[test], test)  # type: ignore[index]
    found |= {"best_epoch": done.epoch, "seconds": time.monotonic() - started, "trained": trainee.count()}
    found |= trainee.retrieval(test)
    if partner is not None:
        found["nearest"] = scores_on(paired, genes, by_retrieval(trainee, paired, genes), test)
    return found


@torch.no_grad()
def by_retrieval(trainee: PairedTrainee, paired: Paired, genes: Genes) -> np.ndarray:
    """For each spot of C4 the mean expression of the training spots that are nearest to its image, as in BLEEP."""
    train, test = paired.rows("train"), paired.rows("test")
    model, other = trainee.model, trainee.partner
    images, _ = model.both_sides(trainee._vectors(test), other[test])  # type: ignore[index]
    _, keys = model.both_sides(trainee._vectors(train), other[train])  # type: ignore[index]
    one, two = (torch.nn.functional.normalize(part, dim=1) for part in (images, keys))
    nearest = (one @ two.T).topk(min(NEAREST, len(train)), dim=1).indices.cpu().numpy()
    return genes.scores[train][nearest].mean(axis=1)  # type: ignore[index]


def kept(path: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was found before, or is found now and kept."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        found = work()
        path.write_text(json.dumps(found, indent=1))
        print(path.stem, json.dumps({k: v for k, v in found.items() if not isinstance(v, dict)}), flush=True)
    result: dict[str, Any] = json.loads(path.read_text())
    return result


def shown(values: list[float]) -> str:
    """Median and range."""
    middle = f"{statistics.median(values):.3f}"
    return middle if max(values) - min(values) < 5e-4 else f"{middle} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("out/expression_her2st"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--backbone", default="pathotune-tiny")
    parser.add_argument("--encoder", action="store_true", help="also tune the backbone's own weights (slow)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    inputs = cohort_of(options.data, options.out)
    source = Source.of(options.backbone, "cpu")
    reading = TrainingConfig().reading_of(source.card)
    paired = drained(gather(inputs, source.card, reading, source.load, options.out / "spots", images=True))
    colours = colour_and_texture(paired.images)
    tables = {}
    for scale in ("size factors", "counts as they are"):
        wanted = ROWS | (ENCODER_ROWS if options.encoder else {}) if scale == "size factors" else RAW_ROWS
        runs = [
            runs_of(inputs, paired, colours, source, wanted, scale, seed, options.out) for seed in range(options.seeds)
        ]
        tables[scale] = {name: [run[name] for run in runs] for name in runs[0]}
        name = f"ridge on frozen features, pairs shuffled ({SHUFFLES} draws)"
        tables[scale][name] = shuffled_ridges(inputs, paired, scale == "size factors")
    report(tables, paired, options)


def runs_of(
    inputs: CohortInputs,
    paired: Paired,
    colours: np.ndarray,
    source: Source,
    wanted: dict[str, dict[str, Any]],
    scale: str,
    seed: int,
    out: Path,
) -> dict[str, dict[str, Any]]:
    """Every row of a table with one seed."""
    is_scaled = scale == "size factors"
    whole, _ = divided(replace(paired, images=None), TrainingConfig().val_fraction, seed)
    genes, test = with_erbb2(inputs, whole, is_scaled), whole.rows("test")
    found = {}
    for name, numbers in (("36 colour and texture numbers", colours), ("frozen features", whole.features)):
        found[f"ridge on {name}"] = scores_on(whole, genes, ridge(whole, genes, numbers), test)
    for name, settings in wanted.items():
        start = shuffled(whole, seed) if "shuffled" in name else whole
        start = replace(start, images=paired.images) if settings.get("mode") == "encoder" else start
        file = out / "rows" / f"{scale} {name} {seed}.json".replace(",", "").replace(" ", "-")

        def work(start: Paired = start, settings: dict[str, Any] = settings) -> dict[str, Any]:
            return tuned(inputs, start, source, {**settings, "size_factors": is_scaled}, seed)

        found[name] = kept(file, work)
        if "nearest" in found[name]:
            found[f"{name}, {NEAREST} nearest spots"] = found[name]["nearest"]
    return found


def shuffled_ridges(inputs: CohortInputs, paired: Paired, is_scaled: bool) -> list[dict[str, Any]]:
    """What a regression makes of pairs that do not belong together: how far chance alone reaches with one section."""
    whole, _ = divided(replace(paired, images=None), TrainingConfig().val_fraction, 0)
    genes, found = with_erbb2(inputs, whole, is_scaled), []
    for seed in range(SHUFFLES):
        mixed = replace(genes, scores=genes.scores[order_of(whole, seed)])  # type: ignore[index]
        found.append(scores_on(whole, mixed, ridge(whole, mixed, whole.features), whole.rows("test")))
    return found


def report(tables: dict[str, dict[str, list[dict[str, Any]]]], paired: Paired, options: Any) -> None:
    """The tables in Markdown, and everything as JSON."""
    counts = {name: paired.groups.count(name) for name in dict.fromkeys(paired.groups)}
    said = ", ".join(f"{count} spots of {name}" for name, count in counts.items())
    print(f"\n{options.backbone}; {said}; learned on C2 and C3, judged on C4: one patient; {options.seeds} seeds.")
    print("Correlation on C4, median over seeds (least to most where they differ).")
    for scale, found in tables.items():
        pathways = [run["pathways"] for run in next(iter(found.values()))]
        sets = f"{min(pathways)} to {max(pathways)}" if min(pathways) < max(pathways) else str(pathways[0])
        print(f"\n**{scale}**\n")
        print(f"| | mean r, {TOP} most variable genes | mean r, {sets} Hallmark scores | r, ERBB2 | recall@5 |")
        print("| --- | --- | --- | --- | --- |")
        for name, runs in found.items():
            recalls = [run["retrieval"]["recall@5"] for run in runs if run.get("retrieval")]
            cells = [shown([run[key] for run in runs]) for key in ("top50", "hallmark", "erbb2")]
            print(f"| {name} | {' | '.join(cells)} | {shown(recalls) if recalls else ''} |")
    (options.out / "expression_her2st.json").write_text(json.dumps(tables, indent=1))


if __name__ == "__main__":
    main()
