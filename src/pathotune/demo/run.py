"""The demo's way: sample slide, tuning, prediction of a second slide, comparison with colour alone, report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.events import Event, Finished, Note, Step, up_to_the_end

if TYPE_CHECKING:
    from pathotune.slides.synthetic import SyntheticSlide
    from pathotune.tiles.tileset import TileSet

# Points along a tile's side at which the truth is asked: the majority class must hold more than half of them.
TRUTH_POINTS = 8
NOT_A_CLASS = ("Background", "Ignore*")


@dataclass(frozen=True)
class DemoConfig:
    """What the demo does; the defaults take a few minutes on two cores.

    width_px0, height_px0 : size of both generated slides, at 0.5 µm per pixel.
    tune_seed, tune_stain, judge_seed, judge_stain : the slide that is drawn on, and the one that is judged.
    speed : how deep the prompts of the method go, "interactive" or "full_depth" (PathoTune only).
    stain : "macenko" brings both slides' dyes to one reference, for the tuning and for colour alone; "none" does not.
    epochs : at most, for the tuning; 0 leaves it to the training's own rule.
    """

    width_px0: int = 6144
    height_px0: int = 4608
    tune_seed: int = 1
    tune_stain: str = "standard"
    judge_seed: int = 2
    judge_stain: str = "purple"
    backbone: str = "pathotune-tiny"
    method: str = "pathotune"
    speed: str = "interactive"
    stain: str = "macenko"
    epochs: int = 0
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class Judged:
    """The judged slide's tiles with a clear truth.

    rows, columns : (n,) cells of the store's grid. labels : (n,) index into class_names.
    probabilities, colour : (n, classes) of the tuning and of colour statistics alone.
    """

    class_names: tuple[str, ...]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    colour: NDArray[np.float64]


def run_demo(out: str | Path, config: DemoConfig | None = None) -> Iterator[Event]:
    """Do the whole main job in a folder.

    Parameters
    ----------
    out : folder for slides, tuning, store, pictures and report; made where it is absent.

    Yields
    ------
    The events of every stage, and Finished with the numbers and paths of the report.
    """
    from pathotune.demo.report import write_report
    from pathotune.inference.predict import predict_slide
    from pathotune.methods.checkpoint import Tuning
    from pathotune.training.examples import TuneSource
    from pathotune.training.loop import tune
    from pathotune.training.schedule import TrainingConfig

    config = config or DemoConfig()
    out = Path(out)
    started = time.monotonic()
    drawn, truth_slide, paths = yield from _slides(out / "slides", config)
    training = TrainingConfig(
        epochs=config.epochs,
        seed=config.seed,
        device=config.device,
        stain=config.stain,  # type: ignore[arg-type]
        # One slide is drawn on, and the other was stained elsewhere: its like is to be seen in training.
        stain_jitter=0.2,
    )
    source = TuneSource(paths[0], drawn)
    tuning_path = out / "demo.pathotune.safetensors"
    options = {"speed": config.speed} if config.method == "pathotune" else None
    tuned = yield from up_to_the_end(
        tune([source], config.method, options, config.backbone, training, None, tuning_path)
    )
    tuning = Tuning.load(tuned["out"])
    predicted = yield from up_to_the_end(predict_slide(paths[1], tuning, out, device=config.device))
    yield Note("Judging the prediction on the second slide, beside colour statistics alone.")
    judged = _judge(truth_slide, paths[1], predicted["store"], tuning, source, training)
    result = _numbers(judged)
    result.update(tuned=tuned, predicted=predicted, seconds=time.monotonic() - started)
    yield Step("report", 0, 1, "pictures")
    result.update(write_report(out, config, paths[1], truth_slide, result))
    yield Finished(result)


def _slides(folder: Path, config: DemoConfig) -> Any:
    """Write both slides; returns the drawn regions of the first, the second as drawn from numbers, and both paths."""
    from pathotune.slides.synthetic import SyntheticSlide, write_sample

    size = {"width_px0": config.width_px0, "height_px0": config.height_px0}
    yield Step("drawing the sample slides", 0, 2, "slides")
    first, drawn = write_sample(folder, config.tune_seed, stain=config.tune_stain, name="tuned-on", **size)
    yield Step("drawing the sample slides", 1, 2, "slides")
    second, _ = write_sample(folder, config.judge_seed, stain=config.judge_stain, name="judged", **size)
    yield Step("drawing the sample slides", 2, 2, "slides")
    truth = SyntheticSlide(config.width_px0, config.height_px0, seed=config.judge_seed, stain=config.judge_stain)
    return drawn, truth, (first, second)


def true_classes(slide: SyntheticSlide, tiles: TileSet, class_names: tuple[str, ...]) -> NDArray[np.int64]:
    """Class of each tile that holds more than half of its area, as an index into class_names; -1 where none does.

    Parameters
    ----------
    slide : the generated slide, which knows the class of every place.
    tiles : tiles in its level-0 pixels.
    """
    from pathotune.slides.synthetic import CLASSES

    offsets = (np.arange(TRUTH_POINTS) + 0.5) / TRUTH_POINTS
    x = tiles.x_px0[:, None, None] + offsets[None, None, :] * tiles.tile_px0[0]
    y = tiles.y_px0[:, None, None] + offsets[None, :, None] * tiles.tile_px0[1]
    x, y = np.broadcast_arrays(x, y)
    found = slide.classes_at(x, y).reshape(len(tiles), -1)
    labels = np.full(len(tiles), -1, dtype=np.int64)
    for index, tissue in enumerate(CLASSES):
        if tissue.name in class_names and tissue.name not in NOT_A_CLASS:
            labels[(found == index).mean(axis=1) > 0.5] = class_names.index(tissue.name)
    return labels


def _judge(truth: SyntheticSlide, slide_path: Path, store_path: str, tuning: Any, source: Any, training: Any) -> Judged:
    from pathotune.evaluation.colour import colour_baseline
    from pathotune.inference.predictions import PredictionStore
    from pathotune.slides import open_slide
    from pathotune.tiles import TileReader, tile_grid
    from pathotune.training.examples import gather

    store = PredictionStore.open(store_path)
    names = tuple(tuning.class_names)
    with open_slide(slide_path) as slide:
        tiles = tile_grid(slide, tuning.reading, tissue=None)
        predicted = np.moveaxis(np.asarray(store.probabilities[:]), 0, -1)[tiles.row, tiles.column]
        labels = true_classes(truth, tiles, names)
        chosen = np.flatnonzero((labels >= 0) & (predicted.sum(axis=1) > 0.5))
        tiles = tiles.take(chosen)
        with TileReader(slide, tuning.reading) as reader:
            images = reader.read_at(tiles.x_px0, tiles.y_px0)
    examples = _drain(gather([source], tuning.reading, training, None, names, None))
    try:
        colour = colour_baseline(np.asarray(examples.images), examples.labels, images, len(names), training.seed)
    finally:
        examples.close()
    rows, columns = np.asarray(tiles.row, np.int64), np.asarray(tiles.column, np.int64)
    return Judged(names, rows, columns, labels[chosen], predicted[chosen].astype(np.float64), colour)


def _drain(stream: Any) -> Any:
    """The return value of a generator whose events nobody watches."""
    while True:
        try:
            next(stream)
        except StopIteration as end:
            return end.value


def _numbers(judged: Judged) -> dict[str, Any]:
    from pathotune.training.metrics import classification_report

    # Neighbouring tiles are no independent witnesses: intervals are drawn over blocks of 4 × 4 tiles.
    groups = (judged.rows // 4 * 100_000 + judged.columns // 4).tolist()
    ours = classification_report(judged.probabilities, judged.labels, judged.class_names, groups=groups)
    colour = classification_report(judged.colour, judged.labels, judged.class_names, groups=groups)
    return {
        "tiles_judged": len(judged.labels),
        "balanced_accuracy": ours["balanced_accuracy"],
        "balanced_accuracy_colour": colour["balanced_accuracy"],
        "evaluation": ours,
        "evaluation_colour": colour,
    }
