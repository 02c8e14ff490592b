"""What suggested places are worth: balanced accuracy over the whole truth, round by round, beside random places.

    python benchmarks/suggestions.py [--seeds 5] [--first-seed 101] [--rounds 2] [--places 12]
    python benchmarks/suggestions.py --data DIR --scenes camelyon16 her2st

Each run starts from a few drawn regions per class and a tuning on them. Then, in every round, so many tiles are asked
about (their class comes from the truth, and one whose truth is not clear is passed over, as a person would), they join
the regions as corrections, and the last tuning is gone on from. Both ways share slide, first regions, first tuning,
seed, number of places and everything else but which places. Tuning is the dock's: its default method (interactive mode
where it has one), `continue_from` the last. Only the frozen part of the slide's tiles is computed once and kept.

With the dock's default method suggested places were ahead of random ones on `generated`; with prompts trained as well
(`--method pathotune`) they were not over the same five seeds. The figures stand in docs/annotate-and-tune.md.

`generated` has four classes and another slide for every seed; seeds from 101 on were not looked at while the rule of
choice was made. DIR holds camelyon16 (`wsi/camelyon16_tumor001_mosaic.tiff` with mask and valid: tumour against normal)
and her2st (C2's spots are asked about and C3's judged: cancer against immune; Andersson et al. 2021, CC BY 4.0).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from her2st import C3_MPP, make_slide

from pathotune.backbones import load_backbone
from pathotune.backbones.surface import Backbone
from pathotune.device import Precision, pick_device
from pathotune.events import result_of
from pathotune.inference.cells import uncertainty_of
from pathotune.inference.suggest import choose, covered
from pathotune.inference.tiletable import PredictedTiles
from pathotune.methods import build_model, load_config
from pathotune.methods.checkpoint import Tuning
from pathotune.regions import LabelledTiles, Region, Regions, read_regions
from pathotune.regions.region import correction
from pathotune.slides import open_slide
from pathotune.slides.synthetic import CLASSES, SyntheticSlide
from pathotune.tiles import tile_grid, tissue_mask
from pathotune.training.augment import Variants
from pathotune.training.examples import Examples, Laid, TuneSource
from pathotune.training.loop import tune
from pathotune.training.metrics import balanced_accuracy
from pathotune.training.schedule import TrainingConfig
from pathotune.training.tilepass import TilePass
from pathotune.training.validation import softmax

GENERATED = ("Tumor", "Benign glands", "Stroma", "Immune cells")
MPP = 0.5
UNCLEAR = "unclear"
DRAWN_TILES = 1.5  # side of a drawn region, in tiles
Box = tuple[float, float, float, float]


@dataclass
class Scene:
    """What is asked about and what is judged.

    names : the classes. source : the slide, without regions. drawn : the first regions.
    asked : tiles that may be asked about, judged : tiles that say how good a tuning is; label len(names) is unclear.
    """

    names: tuple[str, ...]
    source: TuneSource
    drawn: list[Region]
    asked: Examples
    judged: Examples

    @property
    def centres_px0(self) -> np.ndarray:
        return np.asarray(self.asked.boxes_px0[:, :2] + self.asked.boxes_px0[:, 2:] / 2)

    @property
    def tile_px0(self) -> np.ndarray:
        return np.asarray(self.asked.boxes_px0[0, 2:])


def tiles_of(source: TuneSource, boxes: Sequence[Box], labels: np.ndarray, names: Sequence[str], card: Any) -> Examples:
    """Exactly these tiles of a slide, decoded, overlapping or not; a label of -1 is unclear."""
    words = (*names, UNCLEAR)
    x, y, width, height = np.asarray(boxes, dtype=np.float64).T
    number = np.arange(len(boxes))
    tiles = LabelledTiles(x, y, np.where(labels < 0, len(names), labels), number, 0 * number, words, width, height)
    named = TuneSource(source.slide_path, regions=Regions([correction(boxes[0], UNCLEAR)]), slide_mpp=source.slide_mpp)
    with Laid([named], TrainingConfig().reading_of(card), None, words, None) as laid:
        return drained(laid.read(tiles, "region"))


def drained(stream: Any) -> Any:
    """What a generator of events returns."""
    while True:
        try:
            next(stream)
        except StopIteration as end:
            return end.value


def boxes_of(tiles: Any) -> list[Box]:
    """The tiles of a set as boxes."""
    width, height = tiles.tile_px0
    return [(float(x), float(y), width, height) for x, y in zip(tiles.x_px0, tiles.y_px0, strict=True)]


def drawn_regions(
    boxes: Sequence[Box],
    clear: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    count: int,
    seed: int,
    size: float = DRAWN_TILES,
) -> list[Region]:
    """A square on some tiles of each class, none touching another.

    Parameters
    ----------
    clear : (n,) tiles around which there is nothing but their class.
    size : side of a square, in tiles.
    """
    random = np.random.default_rng(seed)
    rows = [np.flatnonzero(clear & (labels == label)) for label in range(len(names))]
    best: list[Region] = []
    for _ in range(50):
        found: list[Region] = []
        for label, name in enumerate(names):
            found += _apart([boxes[row] for row in random.permutation(rows[label])], name, count, size, found)
        if len(found) == count * len(names):
            return found
        best = max(best, found, key=lambda some: min(sum(one.class_name == name for one in some) for name in names))
    return best


def _apart(boxes: Sequence[Box], name: str, count: int, size: float, others: list[Region]) -> list[Region]:
    """The first squares on these tiles that touch none of the others and none before."""
    found: list[Region] = []
    edge = (size - 1) / 2
    for x, y, width, height in boxes:
        square = shapely.box(x - edge * width, y - edge * height, x + (1 + edge) * width, y + (1 + edge) * height)
        if len(found) < count and not any(square.intersects(one.geometry) for one in [*others, *found]):
            found.append(Region(square, name))
    return found


# -- the scenes -------------------------------------------------------------------------------------------------------


def generated(folder: Path, seed: int, wanted: argparse.Namespace, card: Any) -> Scene:
    """A slide of four classes of which every place is known."""
    side = round(card.reading().tile_um / MPP)
    slide = SyntheticSlide(wanted.side * side, wanted.side * side, MPP, seed, margin=0.04, pen=False, classes=GENERATED)
    path = slide.write(folder / f"generated-{seed}.tiff")
    with open_slide(path) as opened:
        tiles = tile_grid(opened, card.reading(), tissue=tissue_mask(opened))
    shares, around = (tissue_shares(slide, tiles.centres_px0(), size * side) for size in (1.0, DRAWN_TILES))
    tissue = shares.sum(axis=1)
    # As a person says it: what most of the tissue in the tile is, whatever glass there is beside it.
    is_one = (shares.max(axis=1) > 0.5 * tissue) & (tissue >= 0.25)
    labels, boxes = np.where(is_one, shares.argmax(axis=1), -1), boxes_of(tiles)
    clear = around.max(axis=1) == 1
    source = TuneSource(path)
    asked = tiles_of(source, boxes, labels, GENERATED, card)
    return Scene(GENERATED, source, drawn_regions(boxes, clear, labels, GENERATED, wanted.drawn, seed), asked, asked)


def tissue_shares(slide: SyntheticSlide, centres_px0: np.ndarray, side_px0: float, points: int = 9) -> np.ndarray:
    """(n, 4) part of a square around each centre that each of the four tissues covers."""
    reach = ((np.arange(points) + 0.5) / points - 0.5) * side_px0
    x, y = centres_px0.T
    found = slide.classes_at(x[:, None, None] + reach[None, None, :], y[:, None, None] + reach[None, :, None])
    every = [tissue.name for tissue in CLASSES]
    return np.stack([(found == every.index(name)).mean(axis=(1, 2)) for name in GENERATED], axis=1)


def camelyon16(folder: Path, seed: int, wanted: argparse.Namespace, card: Any) -> Scene:
    """Tumour and normal lymph node, from the mask; tiles a quarter apart, as little of the picture is there."""
    from PIL import Image

    names = ("Normal", "Tumor")
    path = wanted.data / "wsi/camelyon16_tumor001_mosaic.tiff"
    mask, valid = (
        np.asarray(Image.open(path.with_name(f"camelyon16_tumor001_mosaic_{name}.png")).convert("L")) > 127
        for name in ("mask", "valid")
    )
    source = TuneSource(path)
    with open_slide(path) as opened:
        reading = card.reading()
        tiles = tile_grid(opened, reading, stride_px=reading.tile_px // 4, tissue=tissue_mask(opened))

    def share(of: np.ndarray, box: Box) -> float:
        x, y, width, height = (int(part) for part in box)
        return float(of[y : y + height, x : x + width].mean())

    boxes = [box for box in boxes_of(tiles) if share(valid, box) > 0.95]
    tumour = np.asarray([share(mask, box) for box in boxes])
    labels, clear = (tumour > 0.5).astype(int), (tumour < 0.05) | (tumour > 0.8)
    asked = tiles_of(source, boxes, labels, names, card)
    return Scene(names, source, drawn_regions(boxes, clear, labels, names, wanted.drawn, seed, 1.0), asked, asked)


def her2st(folder: Path, seed: int, wanted: argparse.Namespace, card: Any) -> Scene:
    """Cancer and immune spots: those of section C2 are asked about, all of section C3 are judged."""
    names = ("cancer", "immune")
    notes = wanted.data / "annotations"
    c2 = TuneSource(wanted.data / "wsi/her2st_C2_breast_9274x9911.ome.tif")
    c3 = TuneSource(
        make_slide(wanted.data / "st/her2st/images/C3.jpg", wanted.out / "her2st_C3.tiff"), slide_mpp=C3_MPP
    )
    found = []
    for source, section in ((c2, "C2"), (c3, "C3")):
        with open_slide(source.slide_path, mpp=source.slide_mpp) as opened:
            regions = read_regions(notes / f"her2st_{section}_spots.geojson", opened)
            width, height = card.reading().tile_px0(opened)
        spots = [region for region in regions if region.class_name]
        middles = [region.geometry.centroid for region in spots]
        boxes = [(spot.x - width / 2, spot.y - height / 2, width, height) for spot in middles]
        labels = np.asarray([names.index(spot.class_name) if spot.class_name in names else -1 for spot in spots])
        found.append((tiles_of(source, boxes, labels, names, card), spots))
    (asked, spots), (judged, _) = found
    random = np.random.default_rng(seed)
    drawn = [
        spots[row]
        for label in range(len(names))
        for row in random.permutation(np.flatnonzero(asked.labels == label))[: wanted.drawn + 1].tolist()
    ]
    return Scene(names, c2, drawn, asked, judged)


Make = Callable[[Path, int, argparse.Namespace, Any], Scene]
# How each is made, and how many places are asked about in a round; the mosaic has room for few.
SCENES: dict[str, tuple[Make, int]] = {
    "generated": (generated, 12),
    "camelyon16": (camelyon16, 4),
    "her2st": (her2st, 8),
}


# -- the ways of choosing ---------------------------------------------------------------------------------------------


def taken_apart(tiles: PredictedTiles, order: np.ndarray, touched: np.ndarray, count: int, cells: Any) -> list[int]:
    """The first tiles of an order that are free and overlap none taken before."""
    places = np.stack([tiles.column, tiles.row], axis=1) / cells
    chosen: list[int] = []
    for row in order.tolist():
        if len(chosen) == count:
            break
        if not touched[row] and (not chosen or np.abs(places[chosen] - places[row]).max(axis=1).min() >= 1 - 1e-6):
            chosen.append(row)
    return chosen


def at_random(tiles: PredictedTiles, known: Any, touched: Any, count: int, cells: Any, seed: int) -> list[int]:
    """Places drawn from all that are not labelled."""
    return taken_apart(tiles, np.random.default_rng(seed).permutation(len(tiles)), touched, count, cells)


def most_undecided(tiles: PredictedTiles, known: Any, touched: Any, count: int, cells: Any, seed: int) -> list[int]:
    """The smallest margins, whatever they look like."""
    two = np.sort(tiles.probabilities, axis=1)
    return taken_apart(tiles, np.argsort(two[:, -1] - two[:, -2], kind="stable"), touched, count, cells)


WAYS = {"suggested": choose, "random": at_random, "undecided": most_undecided}


# -- the loop ---------------------------------------------------------------------------------------------------------


class Loop:
    """Tunes, predicts and judges on one scene.

    Parameters
    ----------
    scene : the scene.
    backbone : loaded.
    wanted : the command's options.
    folder : for tunings.
    seed : of training and choice.
    places : asked about in each round.
    """

    def __init__(
        self, scene: Scene, backbone: Backbone, wanted: argparse.Namespace, folder: Path, seed: int, places: int
    ) -> None:
        self.scene, self.backbone, self.wanted, self.folder, self.seed = scene, backbone, wanted, folder, seed
        self.places = places
        known = {"speed": "interactive"} if wanted.method != "linear_probe" else {}
        known |= dict(word.split("=", 1) for word in wanted.set)
        self.config = load_config(wanted.method, known)
        self.training = TrainingConfig(seed=seed, device=wanted.device)
        self.seconds: list[float] = []
        self.told: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}

    def tune(self, regions: list[Region], last: str = "") -> dict[str, Any]:
        """Tune on regions, going on from the last tuning where there is one."""
        began = time.monotonic()
        source = TuneSource(
            self.scene.source.slide_path, regions=Regions(regions), slide_mpp=self.scene.source.slide_mpp
        )
        out = self.folder / f"{len(list(self.folder.glob('*.safetensors')))}.pathotune.safetensors"
        names = self.scene.names
        result = result_of(
            tune(
                [source], self.wanted.method, self.config, self.backbone, self.training, None, out,
                class_names=names, continue_from=last if last and not self.wanted.afresh else None,
            )
        )  # fmt: skip
        self.seconds.append(time.monotonic() - began)
        return result

    def answers(self, tuned: dict[str, Any], examples: Examples) -> tuple[np.ndarray, np.ndarray]:
        """Calibrated probabilities (n, K) and features (n, D) of tiles."""
        tuning = Tuning.load(tuned["out"])
        model = build_model(tuning, self.backbone)
        tiles = TilePass(
            model, self.backbone, examples, tuned["device"], Variants(1, 0, 0.0), None, self.training.cache_mb * 2**20
        )
        try:
            tiles.choose(Precision(tuned["precision"]))
            logits, features = tiles.answers(np.arange(len(examples.labels)))
        finally:
            tiles.close()
        return softmax(logits.float().cpu().numpy(), tuning.calibration["temperature"]), features.float().cpu().numpy()

    def accuracy(self, tuned: dict[str, Any]) -> float:
        """Balanced accuracy over every judged tile whose class is clear."""
        clear = self.scene.judged.labels < len(self.scene.names)
        probabilities, _ = self.known_answers(tuned, self.scene.judged)
        found = balanced_accuracy(
            self.scene.judged.labels[clear], probabilities[clear].argmax(axis=1), len(self.scene.names)
        )
        return float(found or 0.0)

    def known_answers(self, tuned: dict[str, Any], examples: Examples) -> tuple[np.ndarray, np.ndarray]:
        """`answers`, computed once where the tiles that are judged are those that are asked about."""
        key = (str(tuned["out"]), id(examples))
        if key not in self.told:
            self.told[key] = self.answers(tuned, examples)
        return self.told[key]

    def ask(
        self, way: str, tuned: dict[str, Any], regions: list[Region], skipped: list[tuple[float, float]], turn: int
    ) -> list[Region]:
        """The corrections of one round; places without a clear truth join the skipped ones."""
        scene = self.scene
        probabilities, features = self.known_answers(tuned, scene.asked)
        centres, tile = scene.centres_px0, scene.tile_px0
        tiles = PredictedTiles(
            centres[:, 1] / tile[1],
            centres[:, 0] / tile[0],
            centres,
            probabilities.astype(np.float32),
            uncertainty_of(probabilities.T),
            None,
            features.astype(np.float16),
        )
        known, touched = covered(centres, tile, regions, skipped)
        rows = WAYS[way](tiles, known, touched, self.places, np.ones(2), 1000 * self.seed + turn)
        found = []
        for row in rows:
            label = int(scene.asked.labels[row])
            if label < len(scene.names):
                x, y, width, height = scene.asked.boxes_px0[row].tolist()
                found.append(correction((x, y, width, height), scene.names[label]))
            else:
                skipped.append((float(centres[row, 0]), float(centres[row, 1])))
        return found

    def point(self, tuned: dict[str, Any]) -> tuple[int, float, int]:
        """Labelled tiles, balanced accuracy and the epoch that was kept."""
        return sum(tuned["tiles_per_class"].values()), self.accuracy(tuned), tuned["best_epoch"]

    def curves(self, ways: Sequence[str]) -> dict[str, list[tuple[int, float, int]]]:
        """How things stand after each round, for each way from the same start."""
        first = self.tune(self.scene.drawn)
        start = self.point(first)
        found = {}
        for way in ways:
            regions, skipped, last, curve = list(self.scene.drawn), [], first, [start]
            for turn in range(self.wanted.rounds):
                regions += self.ask(way, last, regions, skipped, turn)
                last = self.tune(regions, str(last["out"]))
                curve.append(self.point(last))
            found[way] = curve
        return found


def show(name: str, rows: list[dict[str, Any]], ways: Sequence[str]) -> None:
    """The curves of one scene as a table: mean and standard deviation over the seeds."""
    print(f"\n{name}: balanced accuracy over the whole truth, {len(rows)} seeds, mean (standard deviation)")
    print("| round | labelled tiles | " + " | ".join(ways) + " | suggested - random: mean (seeds ahead) |")
    print("| --- " * (len(ways) + 3) + "|")
    for turn in range(len(rows[0][ways[0]])):
        values = {way: [row[way][turn][1] for row in rows] for way in ways}
        tiles = statistics.mean(row[ways[0]][turn][0] for row in rows)
        cells = [
            f"{statistics.mean(found):.3f} ({statistics.stdev(found) if len(found) > 1 else 0:.3f})"
            for found in values.values()
        ]
        last = ""
        if turn and {"suggested", "random"} <= set(ways):
            ahead = [one - other for one, other in zip(values["suggested"], values["random"], strict=True)]
            last = f"{statistics.mean(ahead):+.3f} ({sum(value > 0 for value in ahead)} of {len(ahead)})"
        print(f"| {turn} | {tiles:.0f} | " + " | ".join(cells) + f" | {last} |", flush=True)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", nargs="+", choices=list(SCENES), help="default: generated; with --data all three")
    parser.add_argument("--data", type=Path, help="folder of the real slides")
    parser.add_argument("--out", type=Path, default=Path("out/suggestions"), help="for the figures and C3 as a pyramid")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=101)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--places", type=int, default=0, help="asked about in each round; 0: 12, 4 and 8")
    parser.add_argument("--drawn", type=int, default=3, help="regions per class to start with")
    parser.add_argument("--side", type=int, default=24, help="tiles along a side of a generated slide")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=["suggested", "random"])
    parser.add_argument("--afresh", action="store_true", help="tune from nothing in every round")
    parser.add_argument("--backbone", default="pathotune-tiny")
    parser.add_argument("--method", default="linear_probe", help="default: the dock's")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="options of the method")
    parser.add_argument("--device", default="auto")
    wanted = parser.parse_args()
    scenes = wanted.scenes or (list(SCENES) if wanted.data else ["generated"])
    if wanted.data is None and set(scenes) - {"generated"}:
        parser.error("camelyon16 and her2st need --data")
    wanted.out.mkdir(parents=True, exist_ok=True)
    backbone = load_backbone(wanted.backbone).to(pick_device(wanted.device))
    for name in scenes:
        rows, (make, places) = [], SCENES[name]
        for seed in range(wanted.first_seed, wanted.first_seed + wanted.seeds):
            with tempfile.TemporaryDirectory() as folder:
                began = time.monotonic()
                scene = make(Path(folder), seed, wanted, backbone.card)
                loop = Loop(scene, backbone, wanted, Path(folder), seed, wanted.places or places)
                rows.append({"seed": seed, **loop.curves(wanted.ways)})
                rows[-1] |= {"seconds": time.monotonic() - began, "tune_seconds": statistics.median(loop.seconds)}
                print(json.dumps({"scene": name, **rows[-1]}), flush=True)
        show(name, rows, wanted.ways)
        kept = {"options": {key: str(value) for key, value in vars(wanted).items()}, "rows": rows}
        (wanted.out / f"{name}.json").write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()
