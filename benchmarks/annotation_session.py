"""A person's session in a real window: draw, tune, look, correct what is suggested, tune again, with mouse and keys.

    xvfb-run -a -s "-screen 0 1400x900x24" python benchmarks/annotation_session.py --seeds 5
    xvfb-run -a -s "-screen 0 1400x900x24" python benchmarks/annotation_session.py --seeds 5 --random
    xvfb-run -a -s "-screen 0 1400x900x24" python benchmarks/annotation_session.py --data DIR --pictures DIR
    xvfb-run -a -s "-screen 0 1400x900x24" python benchmarks/annotation_session.py --data DIR --scene her2st

A generated slide of four classes, another for every seed: three small rounds per class are drawn with the lasso (with
`--large` most of a patch each), Tune is pressed, and what follows is waited for. Then come rounds in which the
suggested places are decided with the panel's buttons (by the known truth; a place that is of no class for the most part
is skipped) and "Tune again" is pressed. Per round it prints the labelled tiles, the seconds from the press to the
predicted view, and the balanced accuracy over all predicted tiles of the slide. `--random` decides as many places drawn
by chance. `--data` does the same on real tissue in place of the generated slides: on the camelyon16 mosaic, tumour
against normal by its mask, or on section C2 of her2st, cancer against immune by its spots (a place is the nearest
spot's within `SPOT_REACH_UM`), where the balanced accuracy is that of the tuning on the spots of section C3.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hand import Hand, run

WINDOW_PX = (1400, 900)
CLASSES = ("Tumor", "Benign glands", "Stroma", "Immune cells")
MPP = 0.5
TILE_POINTS = 7
LONGEST_S = 1800.0
SPOT_REACH_UM = 120.0
ROUND_UM = 180.0
Box = tuple[float, float, float, float]
Outline = list[tuple[float, float]]


@dataclass
class Scene:
    """A slide of which the truth is known.

    class_at : level-0 pixels x, y (arrays) to the index into `names`, -1 where it is none of them.
    outlines : per class, the outlines to draw.
    judge : a tuning file to its balanced accuracy elsewhere; None takes all predicted tiles of the slide.
    """

    path: Path
    names: tuple[str, ...]
    class_at: Callable[[Any, Any], Any]
    outlines: dict[str, list[Outline]]
    judge: Callable[[Path], float] | None = None

    def labels(self, boxes: Sequence[Box]) -> np.ndarray:
        """Class of each box that holds more than half of it, -1 where none does."""
        offsets = (np.arange(TILE_POINTS) + 0.5) / TILE_POINTS
        places = np.asarray(boxes, dtype=float)
        x = places[:, 0, None, None] + offsets[None, None, :] * places[:, 2, None, None]
        y = places[:, 1, None, None] + offsets[None, :, None] * places[:, 3, None, None]
        found = self.class_at(*np.broadcast_arrays(x, y)).reshape(len(places), -1)
        labels = np.full(len(places), -1)
        for index in range(len(self.names)):
            labels[(found == index).mean(axis=1) > 0.5] = index
        return labels


def generated(folder: Path, seed: int, size: tuple[int, int], per_class: int, large: bool = False) -> Scene:
    """A generated slide of four classes; the outlines are small rounds, or `large` ones of most of a patch."""
    from pathotune.slides.synthetic import CLASSES as TISSUES
    from pathotune.slides.synthetic import SyntheticSlide

    slide = SyntheticSlide(*size, MPP, seed, margin=0.04, pen=False, classes=CLASSES)
    index_of = np.full(256, -1)
    for tissue, known in enumerate(TISSUES):
        if known.name in CLASSES:
            index_of[tissue] = CLASSES.index(known.name)
    path = slide.write(folder / f"generated-{seed}.tiff")

    def class_at(x: Any, y: Any) -> np.ndarray:
        return np.asarray(index_of[slide.classes_at(x, y)])

    if not large:
        return Scene(path, CLASSES, class_at, small_rounds(class_at, size, per_class, seed))
    outlines: dict[str, list[Outline]] = {name: [] for name in CLASSES}
    for feature in slide.regions("drawn", per_class=per_class)["features"]:
        name = feature["properties"]["classification"]["name"]
        if name in outlines:
            outlines[name].append([(x, y) for x, y in feature["geometry"]["coordinates"][0][:-1:2]])
    return Scene(path, CLASSES, class_at, outlines)


def small_rounds(
    class_at: Callable[[Any, Any], Any], size: tuple[int, int], count: int, seed: int
) -> dict[str, list[Outline]]:
    """Rounds anywhere in what is one class and nothing else, apart from each other."""
    random, angles = np.random.default_rng(seed), np.linspace(0, 2 * np.pi, 20, endpoint=False)
    inside = ROUND_UM / 2 / MPP * np.asarray([(r * np.cos(a), r * np.sin(a)) for r in (0, 0.5, 1) for a in angles])
    found: list[tuple[float, float, int]] = []
    for x, y in random.uniform(0, size, (20_000, 2)).tolist():
        seen = np.unique(class_at(x + inside[:, 0], y + inside[:, 1]))
        index = int(seen[0])
        apart = all(np.hypot(x - u, y - v) > 1.5 * ROUND_UM / MPP for u, v, _ in found)
        if len(seen) == 1 and index >= 0 and apart and sum(one == index for _, _, one in found) < count:
            found.append((x, y, index))
    rounds = ROUND_UM / 2 / MPP * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return {
        name: [[(x + u, y + v) for u, v in rounds.tolist()] for x, y, one in found if one == index]
        for index, name in enumerate(CLASSES)
    }


def camelyon16(data: Path, per_class: int) -> Scene:
    """The mosaic of a lymph node with a metastasis; what has no pixels is no class."""
    from PIL import Image

    path = data / "wsi" / "camelyon16_tumor001_mosaic.tiff"
    mask, valid = (
        np.asarray(Image.open(path.with_name(f"{path.stem}_{name}.png")).convert("L")) > 127
        for name in ("mask", "valid")
    )
    truth = np.where(valid, mask.astype(int), -1)
    names = ("Normal", "Tumor")

    def class_at(x: Any, y: Any) -> Any:
        rows, columns = (
            np.clip(np.asarray(at).astype(int), 0, size - 1) for at, size in zip((y, x), truth.shape, strict=True)
        )
        return truth[rows, columns]

    outlines = {name: rounds_in(truth == index, per_class) for index, name in enumerate(names)}
    return Scene(path, names, class_at, outlines)


def her2st(data: Path, per_class: int, folder: Path) -> Scene:
    """Section C2 of a breast cancer, judged on section C3 (Andersson et al. 2021, CC BY 4.0)."""
    from her2st import C3_MPP, CLASSES, make_slide
    from scipy.spatial import KDTree

    from pathotune.regions import read_regions
    from pathotune.slides import open_slide

    path = data / "wsi" / "her2st_C2_breast_9274x9911.ome.tif"
    with open_slide(path) as slide:
        spots = list(read_regions(data / "annotations" / "her2st_C2_spots.geojson", slide))
        reach, size = SPOT_REACH_UM / slide.require_mpp().mean, (slide.height_px0, slide.width_px0)
    nearest = KDTree([(spot.geometry.centroid.x, spot.geometry.centroid.y) for spot in spots])
    label = np.asarray([CLASSES.index(spot.class_name) if spot.class_name in CLASSES else -1 for spot in spots] + [-1])

    def class_at(x: Any, y: Any) -> Any:
        return label[nearest.query(np.stack([x, y], axis=-1), distance_upper_bound=reach)[1]]

    rows, columns = np.mgrid[0 : size[0] : 8, 0 : size[1] : 8]
    truth = class_at(columns, rows).repeat(8, axis=0).repeat(8, axis=1)
    outlines = {name: rounds_in(truth == index, per_class) for index, name in enumerate(CLASSES)}
    other = make_slide(data / "st/her2st/images/C3.jpg", folder / "her2st_C3.tiff")
    spots_of_other = data / "annotations" / "her2st_C3_spots.geojson"

    def judge(tuning: Path) -> float:
        # In a process of its own: torch is not to be loaded where a window draws.
        command = [sys.executable, "-m", "pathotune", "evaluate", "--tuning", str(tuning), "--json"]
        command += ["--slide", str(other), "--regions", str(spots_of_other), "--slide-mpp", str(C3_MPP)]
        answer = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True).stdout
        return float(json.loads(answer)["balanced_accuracy"])

    return Scene(path, CLASSES, class_at, outlines, judge)


def rounds_in(area: np.ndarray, count: int, largest_px: float = 330.0) -> list[Outline]:
    """Rounds that lie deep inside an area, none in another."""
    from scipy import ndimage

    step, found = 8, []
    free = np.pad(area[::step, ::step], 1)
    for _ in range(count):
        depth = ndimage.distance_transform_edt(free)
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        radius = min(0.9 * float(depth[row, column]) * step, largest_px)
        angles = np.linspace(0, 2 * np.pi, 20, endpoint=False)
        x, y = (column - 0.5) * step, (row - 0.5) * step
        found.append([(x + radius * float(np.cos(a)), y + radius * float(np.sin(a))) for a in angles])
        reach = int(1.3 * radius / step)
        free[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1] = False
    return found


class Session:
    """One person at one slide."""

    def __init__(self, scene: Scene, seed: int, pictures: Path | None) -> None:
        from napari_pathotune.window import open_window

        self.scene, self.random, self.pictures = scene, np.random.default_rng(seed), pictures
        self.viewer, self.dock = open_window([scene.path], show=False)
        self.viewer.window._qt_window.resize(*WINDOW_PX)
        self.viewer.window._qt_window.show()
        self.dock.tabs.setCurrentWidget(self.dock.tune)
        run(1.0)
        self.hand = Hand(self.viewer)
        self.ends: list[tuple[float, str, str]] = []
        self.dock.session.stage_changed.connect(self._on_stage)

    def _on_stage(self, job: Any) -> None:
        if not job.is_active:
            self.ends.append((time.perf_counter(), job.command, job.stage))
            if job.stage == "failed":
                print(f"  {job.command} failed: {job.text}", flush=True)

    def draw(self) -> None:
        """Every outline of every class with the lasso, the class chosen by its number key."""
        panel = self.dock.tune.regions
        document = self.dock.tune.board.active.document
        for name in self.scene.names:
            if name not in document.palette:
                panel.new_class(name)  # what the dialog behind "Add class…" calls
        self.hand.press(panel.tools.buttons["lasso"])
        for name, outlines in self.scene.outlines.items():
            self.hand.key(str(document.palette.names.index(name) + 1))
            for outline in outlines:
                x, y = np.asarray(outline).T
                self.hand.look((x.min(), y.min(), np.ptp(x), np.ptp(y)))
                self.hand.drag([*outline, outline[0]], steps=2)
        drawn = sum(len(outlines) for outlines in self.scene.outlines.values())
        if len(document) != drawn:
            raise RuntimeError(f"{drawn} outlines were drawn and {len(document)} regions are there")

    def tune(self, control: Any, view: Box) -> float:
        """Press a button that tunes, wait for all that follows, and give the seconds until the view is predicted."""
        self.hand.look(view, 1.0)
        run(60.0, lambda: not self.dock.tune.counter.is_busy)
        self.ends.clear()
        began = time.perf_counter()
        self.hand.press(control)
        if not run(LONGEST_S, lambda: len(self.ends) >= 3 or any(stage != "done" for _, _, stage in self.ends)):
            raise SystemExit("the tuning, the view and the slide were not done in time")
        commands = [(command, stage) for _, command, stage in self.ends]
        if commands != [("tune", "done"), ("predict", "done"), ("predict", "done")]:
            raise SystemExit(f"after Tune came {commands}")
        run(60.0, lambda: not self.dock.runner._filler.is_busy)
        return self.ends[1][0] - began

    def correct(self, count: int, by_chance: bool) -> int:
        """Decide so many places, suggested or drawn by chance; returns how many had an answer."""
        panel = self.dock.tune.suggest
        panel.number.setValue(count)
        if by_chance:
            self._show_random(count)
        else:
            self.hand.press(panel.ask)
            run(120.0, lambda: bool(panel.places) and not panel.is_searching)
        answers = self.scene.labels([place.box_px0 for place in panel.places])
        self._picture("suggested")
        for label in answers.tolist():
            name = self.scene.names[label] if label >= 0 else ""
            self.hand.press(panel.classes.buttons[name] if name else panel.pass_over)
        return int((answers >= 0).sum())

    def _show_random(self, count: int) -> None:
        """Have the panel ask about tiles drawn by chance among all that nothing is drawn on."""
        from napari_pathotune.corrections import Round
        from pathotune.inference.predictions import PredictionStore
        from pathotune.inference.suggest import Place, covered
        from pathotune.inference.tiletable import predicted_tiles

        panel, drawing = self.dock.tune.suggest, self.dock.tune.board.active
        store = PredictionStore.open(Path(self.dock.session.result.store))
        tiles, (width, height) = predicted_tiles(store), store.grid.tile_px0
        regions = self.dock.tune.board.regions_of(drawing.slide_layer)
        _, touched = covered(tiles.centres_px0, np.asarray((width, height)), regions, ())
        places = []
        for row in self.random.permutation(np.flatnonzero(~touched))[:count].tolist():
            x, y = tiles.centres_px0[row].tolist()
            said = dict(zip(store.class_names, tiles.probabilities[row].tolist(), strict=True))
            box = (x - width / 2, y - height / 2, width, height)
            places.append(Place(x, y, box, said, int(tiles.row[row]), int(tiles.column[row])))
        panel._end_round()
        panel.begin(Round(drawing, places))

    def labelled(self) -> int:
        """Tiles that the last tuning learned from or was judged by."""
        training = self.dock.session.tuning.training
        sides = (training["tiles_per_class"], training["validation_tiles_per_class"])
        return sum(sum(side.values()) for side in sides)

    def balanced_accuracy(self) -> float:
        """Mean recall over the classes, of all predicted tiles whose truth is clear."""
        from pathotune.inference.predictions import PredictionStore

        if self.scene.judge is not None:
            return self.scene.judge(Path(self.dock.session.tuning.path))
        store = PredictionStore.open(Path(self.dock.session.result.store))
        rows, columns = np.nonzero(store.labels[:] > 0)
        found = [store.class_names[label - 1] for label in store.labels[:][rows, columns].tolist()]
        boxes = [store.grid.box_px0(row, column, 1, 1) for row, column in zip(rows, columns, strict=True)]
        labels = self.scene.labels(boxes)
        hits = np.asarray([name == self.scene.names[label] for name, label in zip(found, labels, strict=True)])
        present = [index for index in range(len(self.scene.names)) if (labels == index).any()]
        return float(np.mean([hits[labels == index].mean() for index in present]))

    def _picture(self, name: str) -> None:
        if self.pictures is not None:
            run(0.5)
            self.viewer.screenshot(str(self.pictures / f"session-{name}.png"), canvas_only=False)

    def report(self, number: int, seconds: float, answered: int) -> tuple[int, float, float]:
        """Print how a round ended."""
        labelled, accuracy = self.labelled(), self.balanced_accuracy()
        after = f", {answered} places answered" if number else ""
        print(
            f"  round {number}: {labelled} labelled tiles{after}, {seconds:.1f} s from Tune to the view, "
            f"balanced accuracy {accuracy:.3f}",
            flush=True,
        )
        self._picture(f"round-{number}")
        return labelled, seconds, accuracy

    def close(self) -> None:
        """Close the window as a person does."""
        self.viewer.close()
        run(1.0)


def session(scene: Scene, seed: int, wanted: argparse.Namespace) -> list[tuple[int, float, float]]:
    """All rounds on one slide."""
    person = Session(scene, seed, wanted.pictures)
    try:
        person.draw()
        slide = person.dock.session.slide
        width, height = slide.width_px0, slide.height_px0
        view = (0.2 * width, 0.2 * height, 0.6 * width, 0.6 * height)
        rounds = [person.report(0, person.tune(person.dock.tune.go, view), 0)]
        for number in range(1, wanted.rounds + 1):
            answered = person.correct(wanted.places, wanted.random)
            seconds = person.tune(person.dock.tune.suggest.tune_again, view)
            rounds.append(person.report(number, seconds, answered))
        return rounds
    finally:
        person.close()


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=201)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--places", type=int, default=12, help="suggested in each round")
    parser.add_argument("--per-class", type=int, default=3, help="regions drawn at first")
    parser.add_argument("--size", type=int, nargs=2, default=(5376, 4032), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument(
        "--large", action="store_true", help="first regions of most of a patch in place of small rounds"
    )
    parser.add_argument("--random", action="store_true", help="places drawn by chance in place of suggested ones")
    parser.add_argument("--data", type=Path, help="folder with wsi/, annotations/ and st/: real tissue")
    parser.add_argument("--scene", choices=("camelyon16", "her2st"), default="camelyon16", help="which of --data")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the window")
    wanted = parser.parse_args()
    if wanted.pictures is not None:
        wanted.pictures.mkdir(parents=True, exist_ok=True)
    found = []
    for seed in range(wanted.first_seed, wanted.first_seed + wanted.seeds):
        with tempfile.TemporaryDirectory() as name:
            # Nothing of the person's own: her results would show up as layers.
            os.environ |= {f"PATHOTUNE_{part}": f"{name}/{part.lower()}" for part in ("RESULTS", "CACHE")}
            os.environ["NAPARI_CONFIG"] = f"{name}/napari.yaml"
            way = "random places" if wanted.random else "suggested places"
            print(f"seed {seed}, {way}:", flush=True)
            if wanted.data is not None and wanted.scene == "her2st":
                scene = her2st(wanted.data, wanted.per_class, Path(name))
            elif wanted.data is not None:
                scene = camelyon16(wanted.data, wanted.per_class)
            else:
                scene = generated(Path(name), seed, tuple(wanted.size), wanted.per_class, wanted.large)
            found.append(session(scene, seed, wanted))
    for number, rows in enumerate(zip(*found, strict=True)):
        tiles, seconds, accuracy = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"median of round {number}: {tiles:.0f} tiles, {seconds:.1f} s, balanced accuracy {accuracy:.3f}")


if __name__ == "__main__":
    sys.exit(main())
