"""A cohort of generated slides with a known rule, learned from slide labels alone.

A slide is positive if it has at least three tumour nests. The area of all nests together is drawn without looking at
their number, so how much tumour there is says nothing; and slides have 25 to 64 tiles, also drawn apart from
everything, so neither does the number of tiles without a nest. What differs are the nests: many small ones or few large
ones, each with a rim of immune cells. Training slides are of three stains; test slides are of other seeds, other
patterns of tissue and a fourth stain.

    python benchmarks/cohort.py --out DIR            (resumable; --slides 40 --test 20 for a quick look)

It prints, for every way of making tile features and every aggregator, the slide AUC on the test slides and the tile AUC
of attention on the nests; `DIR/results ….json` has the same. `--seeds-from 400000` makes test slides of other seeds, to
choose settings by.
"""

from __future__ import annotations

import argparse
import json
from functools import lru_cache
from pathlib import Path

import numpy as np

from pathotune.methods.options import parse_settings
from pathotune.slides.synthetic import CLASSES, STAINS, SyntheticSlide, place_nests, textures

MPP, TILE_PX = 0.5, 224
SIDE_TILES = (5, 8)
TISSUES = ("Stroma", "Smooth muscle", "Benign glands")
TRAIN_STAINS, TEST_STAINS = ("standard", "red", "purple"), ("pale",)
FEW, MANY = (1, 2), (3, 4, 5, 6, 7, 8)
AREA_TILES = (1.0, 1.6)
RIM_UM, GAP_UM, PATCH_UM = 36.0, 24.0, 150.0
PATTERNS = 24
# Draws of an epoch: tiles of the weak tuning, slides of the aggregator.
TRAINING = {"device": "cpu", "tiles_per_epoch": 256, "looks": 2}
POSITIVE = "three or more nests"
# Where tile features come from: the plain backbone, on tiles as they are or of one stain, and prompts tuned from slide
# labels, once or again with the tiles that were looked at most.
KINDS = {
    "raw": {"prompts": "none"},
    "plain": {"prompts": "none"},
    "weak": {"prompts": "weak"},
    "weak2": {"prompts": "weak", "rounds": 2},
}
AGGREGATORS = ["abmil", "clam_sb", "mean", "soft_vote", "topk", "transmil"]


def slide_of(number: int, is_test: bool, shift: int = 0):
    """A generated slide, its number of nests and their area in tiles; a shift gives test slides of other seeds."""
    seed = (70_000 + shift if is_test else 10_000) + number
    rng = np.random.default_rng(seed)
    columns, rows = rng.integers(SIDE_TILES[0], SIDE_TILES[1] + 1, 2).tolist()
    count = int(rng.choice(MANY if number % 2 else FEW))
    area = float(rng.uniform(*AREA_TILES))
    stains = TEST_STAINS if is_test else TRAIN_STAINS
    stain = STAINS[stains[number // 2 % len(stains)]].varied(seed)
    width, height = columns * TILE_PX, rows * TILE_PX
    space = {"gap_um": GAP_UM, "rim_um": RIM_UM}
    nests = place_nests(count, area * (TILE_PX * MPP) ** 2, width, height, MPP, seed, **space)
    look = {"patch_um": PATCH_UM, "margin": 0.0, "pen": False, "classes": TISSUES, "wallpaper_um": 224.0}
    return _Slide(width, height, MPP, seed, stain, nests=nests, **look), count, area


class _Slide(SyntheticSlide):
    """A slide whose tissues are drawn from one of a few patterns, which many slides share, hung and dyed otherwise."""

    def _paint(self, tissue: int) -> np.ndarray:
        dyes = _pattern(CLASSES[tissue].texture, self._wallpaper_px, self.mpp, pattern_of(self.seed))
        return self.stain.colours(dyes.nuclear, dyes.matrix, dyes.marker)


def pattern_of(seed: int) -> int:
    """Which drawing of the tissues a slide shares; each has slides of both classes and all stains, else it would tell
    the class."""
    return seed // 10_000 * 100 + seed % 10_000 // 6 % PATTERNS


@lru_cache(maxsize=4 * PATTERNS * len(CLASSES))
def _pattern(texture: str, side: int, mpp: float, seed: int):
    return textures.paint(texture, side, mpp, seed)


def make(out: Path, train: int, test: int, shift: int) -> Path:
    """Write the slides that are not there yet, and their table."""
    folder = out / "slides"
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["slide,patient,label,split,nests,area_tiles"]
    for number in range(train + test):
        is_test = number >= train
        own = number - train if is_test else number
        slide, count, area = slide_of(own, is_test, shift)
        path = folder / f"{'test' if is_test else 'train'}-{own:03d}.tif"
        if not path.exists():
            slide.write(path)
        # A quarter of the patterns of tissue chooses the epoch: as those of the test slides, they are not learned from.
        split = "test" if is_test else "val" if pattern_of(slide.seed) % 4 == 3 else "train"
        label = POSITIVE if count >= 3 else "fewer nests"
        rows.append(f"slides/{path.name},{path.stem},{label},{split},{count},{area:.2f}")
    table = out / "cohort.csv"
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return table


def on_nests(number: int, shift: int, corners_px0: np.ndarray) -> np.ndarray:
    """The share of each tile of a test slide that nests and their rims cover."""
    slide, _, _ = slide_of(number, True, shift)
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


def attention_auc(tuning, features: Path, truth: Path, shift: int) -> tuple[float, float | None]:
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
            np.save(kept, on_nests(int(path.stem.split("-")[1]), shift, found.coords_px0))
        is_nest = np.load(kept) >= 0.25
        maps = answer(tuning, found).attention
        looked.append(roc_auc_score(is_nest, maps[ATTENTION]))
        if f"{ATTENTION} for {POSITIVE}" in maps:
            spoken.append(roc_auc_score(is_nest, maps[f"{ATTENTION} for {POSITIVE}"]))
    return float(np.mean(looked)), float(np.mean(spoken)) if spoken else None


def judge(
    asked: argparse.Namespace, table: Path, name: str, config: dict, training: dict, features: Path | None
) -> tuple[dict, Path]:
    """One tuning, from its file where it is there: its row and the folder of its features."""
    from pathotune.methods.checkpoint import Tuning

    out, judged_on = asked.out, f" {asked.seeds_from}" if asked.seeds_from else ""
    file, kept = out / f"{name}.pathotune.safetensors", out / f"{name}{judged_on}.json"
    told = {"cohort": str(table)} | ({} if features is None else {"features": str(features)})
    if not kept.exists():
        print(name, flush=True)
        tuned = run("tune", told | {"config": config, "training": training, "out": str(file)})
        judged = run("evaluate", told | {"device": "cpu", "tuning": str(file)})
        tuning = Tuning.load(file)
        inner, stain = tuning.tile_tuning, tuning.reading.stain
        plain = tuning.backbone["name"] + ("" if stain == "none" else f"-{stain}")
        folder = features or out / f"{name}.session" / f"features-{plain if inner is None else inner.fingerprint[:8]}"
        looked, spoken = attention_auc(tuning, folder, out / "truth", asked.seeds_from)
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


def shown(name: str, row: dict) -> str:
    """A row in one line."""
    low, high = row["slide_auc_ci95"]
    return (
        f"{name:18s} slide AUC {row['slide_auc']:.3f} ({low:.3f} to {high:.3f}), balanced accuracy "
        f"{row['balanced_accuracy']:.3f}, attention on nests {row['attention_auc']:.3f}, contribution "
        f"{row['contribution_auc'] or float('nan'):.3f}, slides that chose the epoch {row['validation_auc']:.3f}"
    )


def main() -> None:
    """Make, learn, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--slides", type=int, default=288, help="training slides, those that choose the epoch included")
    parser.add_argument("--test", type=int, default=60, help="test slides")
    parser.add_argument(
        "--seeds-from", type=int, default=0, help="test slides of other seeds; give them their own --out"
    )
    parser.add_argument("--aggregators", nargs="+", default=AGGREGATORS)
    parser.add_argument("--features", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--weak-tiles", type=int, default=8, help="tiles of a slide that carry its label")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="other options of the aggregators")
    parser.add_argument("--name", default="", help="put behind the names of what is tuned with other options")
    parser.add_argument("--only-make", action="store_true", help="write the slides and stop")
    asked = parser.parse_args()
    table = make(asked.out, asked.slides, asked.test, asked.seeds_from)
    rows = []
    for kind in () if asked.only_make else asked.features:
        config, folder = KINDS[kind] | {"weak_tiles": asked.weak_tiles} | parse_settings(asked.set), None
        training = TRAINING | {"stain": "none" if kind == "raw" else "macenko"}
        for aggregator in asked.aggregators:
            name = f"{kind} {aggregator}" + (f" {asked.name}" if asked.name else "")
            row, own = judge(asked, table, name, config | {"aggregator": aggregator}, training, folder)
            rows.append(row)
            if folder is None:  # the others take the features and the tile tuning of the first
                folder = own
                if config["prompts"] == "weak":
                    weak = asked.out / f"{name}.session" / f"weak-{config.get('rounds', 1)}.pathotune.safetensors"
                    config["prompts"] = str(weak)
            print(shown(name, row), flush=True)
    if rows:
        results = f"results {' '.join([*asked.features, asked.name]).strip()}.json"
        (asked.out / results).write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
