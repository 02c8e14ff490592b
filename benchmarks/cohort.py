"""A cohort of generated slides with a known rule, learned from slide labels alone.

A slide is positive if it has at least three tumour nests. The area of all nests together is drawn without looking at
their number, so a positive slide has many small nests where a negative one has few large ones, and how much tumour
there is says nothing. What grows with the number is the border of the nests, on which there is a rim of immune cells.
Training slides are of three stains, test slides of other seeds and of a fourth.

    python benchmarks/cohort.py --out DIR            (resumable; --slides 40 --test 20 for a quick look)

Larger patches of the other tissues make slides differ more in what else is on them, which is what a model of few slides
takes for the rule.

It prints, for every way of making tile features and every aggregator, the slide AUC on the test slides and the tile AUC
of attention on the nests; `DIR/results ….json` has the same.
"""

from __future__ import annotations

import argparse
import json
from functools import lru_cache
from pathlib import Path

import numpy as np

from pathotune.slides.synthetic import CLASSES, STAINS, SyntheticSlide, place_nests, textures

SIDE_PX, MPP, TILE_PX = 1120, 0.5, 224
TISSUES = ("Stroma", "Smooth muscle", "Benign glands")
TRAIN_STAINS, TEST_STAINS = ("standard", "red", "purple"), ("pale",)
FEW, MANY = (1, 2), (3, 4, 5, 6, 7, 8)
AREA_TILES = (0.5, 0.8)
RIM_UM, GAP_UM = 36.0, 24.0
PATTERNS = 4
# Draws of an epoch: tiles of the weak tuning, slides of the aggregator.
TRAINING = {"device": "cpu", "tiles_per_epoch": 256, "looks": 2}
ATTENDING = ("abmil", "clam_sb")
POSITIVE = "three or more nests"
AGGREGATORS = ["abmil", "clam_sb", "mean", "soft_vote", "topk", "transmil"]


def slide_of(number: int, is_test: bool, patch_um: float = 150.0):
    """A generated slide, its number of nests and their area in tiles; patches of other tissue are of this size."""
    seed = (70_000 if is_test else 10_000) + number
    rng = np.random.default_rng(seed)
    count = int(rng.choice(MANY if number % 2 else FEW))
    area = float(rng.uniform(*AREA_TILES))
    stains = TEST_STAINS if is_test else TRAIN_STAINS
    stain = STAINS[stains[number // 2 % len(stains)]].varied(seed)
    space = {"gap_um": GAP_UM, "rim_um": RIM_UM}
    nests = place_nests(count, area * (TILE_PX * MPP) ** 2, SIDE_PX, SIDE_PX, MPP, seed, **space)
    look = {"patch_um": patch_um, "margin": 0.0, "pen": False, "classes": TISSUES, "wallpaper_um": 224.0}
    return _Slide(SIDE_PX, SIDE_PX, MPP, seed, stain, nests=nests, **look), count, area


class _Slide(SyntheticSlide):
    """A slide whose tissues are drawn from one of a few patterns, which many slides share, hung and dyed otherwise."""

    def _paint(self, tissue: int) -> np.ndarray:
        pattern = self.seed // 10_000 * 100 + self.seed % PATTERNS
        dyes = _pattern(CLASSES[tissue].texture, self._wallpaper_px, self.mpp, pattern)
        return self.stain.colours(dyes.nuclear, dyes.matrix, dyes.marker)


@lru_cache(maxsize=4 * PATTERNS * len(CLASSES))
def _pattern(texture: str, side: int, mpp: float, seed: int):
    return textures.paint(texture, side, mpp, seed)


def make(out: Path, train: int, test: int, patch_um: float) -> Path:
    """Write the slides that are not there yet, and their table."""
    folder = out / "slides"
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["slide,patient,label,split,nests,area_tiles"]
    for number in range(train + test):
        is_test = number >= train
        own = number - train if is_test else number
        slide, count, area = slide_of(own, is_test, patch_um)
        path = folder / f"{'test' if is_test else 'train'}-{own:03d}.tif"
        if not path.exists():
            slide.write(path)
        # A quarter of the training slides chooses the epoch.
        split = "test" if is_test else "val" if own // 2 % 4 == 3 else "train"
        label = POSITIVE if count >= 3 else "fewer nests"
        rows.append(f"slides/{path.name},{path.stem},{label},{split},{count},{area:.2f}")
    table = out / "cohort.csv"
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return table


def on_nests(number: int, is_test: bool, corners_px0: np.ndarray) -> np.ndarray:
    """The share of each tile that nests and their rims cover."""
    slide, _, _ = slide_of(number, is_test)
    steps = (np.arange(8) + 0.5) * TILE_PX / 8
    x = corners_px0[:, 0, None, None] + steps[None, None, :]
    y = corners_px0[:, 1, None, None] + steps[None, :, None]
    return np.isin(slide.classes_at(x, y), (1, 5)).mean(axis=(1, 2))


def run(command: str, told: dict) -> dict:
    """A job to its end; says what it says."""
    from pathotune.events import EpochEnd, Finished, Note
    from pathotune.execution.job import Job, run_job

    result: dict = {}
    for event in run_job(Job(command, told)):
        if isinstance(event, Note):
            print(f"  {event.text}", flush=True)
        elif isinstance(event, EpochEnd):
            print(f"  epoch {event.epoch}: {event.metrics}", flush=True)
        elif isinstance(event, Finished):
            result = event.result
    return result


def attention_auc(tuning, features: Path, truth: Path) -> tuple[float, float | None]:
    """Mean over the test slides of the AUC with which tiles that nests cover to a quarter are found.

    By attention, and by what tiles bring to the class of many nests (None where the aggregator has no such thing).
    """
    from sklearn.metrics import roc_auc_score

    from pathotune.features import FeatureSet
    from pathotune.inference.slide_score import ATTENTION, answer

    looked, spoken = [], []
    for path in sorted(features.rglob("test-*.h5")):
        found = FeatureSet.load(path)
        kept = truth / f"{path.stem}.npy"
        if not kept.exists():
            truth.mkdir(parents=True, exist_ok=True)
            np.save(kept, on_nests(int(path.stem.split("-")[1]), True, found.coords_px0))
        is_nest = np.load(kept) >= 0.25
        maps = answer(tuning, found).attention
        looked.append(roc_auc_score(is_nest, maps[ATTENTION]))
        if f"{ATTENTION} for {POSITIVE}" in maps:
            spoken.append(roc_auc_score(is_nest, maps[f"{ATTENTION} for {POSITIVE}"]))
    return float(np.mean(looked)), float(np.mean(spoken)) if spoken else None


def judge(out: Path, table: Path, name: str, config: dict, training: dict, features: Path | None) -> tuple[dict, Path]:
    """One tuning, from its file where it is there: its row and the folder of its features."""
    from pathotune.methods.checkpoint import Tuning

    file, kept = out / f"{name}.pathotune.safetensors", out / f"{name}.json"
    told = {"cohort": str(table), "device": "cpu"} | ({} if features is None else {"features": str(features)})
    if not kept.exists():
        print(name, flush=True)
        tuned = run(
            "tune",
            {key: value for key, value in told.items() if key != "device"}
            | {"config": config, "training": training, "out": str(file)},
        )
        judged = run("evaluate", told | {"tuning": str(file)})
        tuning = Tuning.load(file)
        inner = tuning.tile_tuning
        own = f"features-{tuning.backbone['name'] if inner is None else inner.fingerprint[:8]}"
        folder = features or out / f"{name}.session" / own
        looked, spoken = attention_auc(tuning, folder, out / "truth")
        row = {
            "features": name.split(" ")[0],
            "aggregator": config["aggregator"],
            "slide_auc": judged["auc"],
            "slide_auc_ci95": judged["ci95"]["auc"],
            "balanced_accuracy": judged["balanced_accuracy"],
            "validation_auc": tuned["val"]["auc"],
            "attention_auc": looked,
            "contribution_auc": spoken,
            "parameters": tuned["trainable_parameters"],
            "folder": str(folder),
        }
        kept.write_text(json.dumps(row, indent=1), encoding="utf-8")
    row = json.loads(kept.read_text(encoding="utf-8"))
    return row, Path(row["folder"])


def main() -> None:
    """Make, learn, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--slides", type=int, default=120, help="training slides, those that choose the epoch included")
    parser.add_argument("--test", type=int, default=60, help="test slides")
    parser.add_argument("--patch-um", type=float, default=150.0, help="size of the patches of other tissue")
    parser.add_argument(
        "--aggregators", nargs="+", default=["abmil", "clam_sb", "mean", "soft_vote", "topk", "transmil"]
    )
    parser.add_argument("--features", nargs="+", default=["plain", "weak"], help="plain, weak (prompts), weak2 (again)")
    parser.add_argument("--weak-tiles", type=int, default=8, help="tiles of a slide that carry its label")
    parser.add_argument(
        "--as-they-are", dest="centre", action="store_false", help="leave the mean of a slide's tiles in its features"
    )
    parser.add_argument("--only-make", action="store_true", help="write the slides and stop")
    asked = parser.parse_args()
    table = make(asked.out, asked.slides, asked.test, asked.patch_um)
    rows = []
    for kind in () if asked.only_make else asked.features:
        prompts = {"plain": {"prompts": "none"}, "weak": {"prompts": "weak"}, "weak2": {"prompts": "weak", "rounds": 2}}
        config, folder = prompts[kind] | {"weak_tiles": asked.weak_tiles}, None
        for aggregator in asked.aggregators:
            name = f"{kind} {aggregator}" + ("" if asked.centre else " as they are")
            mine = config | {"aggregator": aggregator, "centre": asked.centre, "mass": aggregator in ATTENDING}
            # Stain is normalised where tiles are read for the prompts; what takes a finished file follows that.
            training = TRAINING | ({"stain": "macenko"} if config["prompts"] == "weak" else {})
            row, own = judge(asked.out, table, name, mine, training, folder)
            rows.append(row)
            if folder is None:  # the others take the features and the tile tuning of the first
                folder = own
                rounds = config.get("rounds", 1)
                weak = asked.out / f"{name}.session" / f"weak-{rounds}.pathotune.safetensors"
                config |= {"prompts": "none" if kind == "plain" else str(weak)}
            low, high = row["slide_auc_ci95"]
            print(
                f"{name:18s} slide AUC {row['slide_auc']:.3f} ({low:.3f} to {high:.3f}), balanced accuracy "
                f"{row['balanced_accuracy']:.3f}, attention on nests {row['attention_auc']:.3f}, contribution "
                f"{row['contribution_auc'] or float('nan'):.3f}",
                flush=True,
            )
    if rows:
        (asked.out / f"results {' '.join(asked.features)}.json").write_text(
            json.dumps(rows, indent=1), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
