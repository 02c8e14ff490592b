"""What a training would do with the regions as they are drawn, and what it would cost, before it begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import NoTiles
from pathotune.training.draws import balanced_part
from pathotune.training.schedule import TrainingConfig
from pathotune.training.sweep import draws_of

if TYPE_CHECKING:
    from pathotune.methods.base import MethodConfig
    from pathotune.regions import LabelledTiles, RegionReport, Regions
    from pathotune.tiles.tileset import Reading
    from pathotune.training.examples import TuneSource

MOST_OF_A_CLASS = (
    "Only {most} tiles of a class are used, as max_tiles_per_class says; none of this region is among them."
)
OVERLAPS = "Its tiles overlap tiles of the other side of the split and are left out."


@dataclass(frozen=True)
class SlideFacts:
    """What of a slide the laying of tiles needs, without opening it again.

    Parameters
    ----------
    size_px0 : width and height in level-0 pixels.
    mpp : (x, y) µm per level-0 pixel.
    patient : whose it is; "" where nobody said.
    """

    size_px0: tuple[float, float]
    mpp: tuple[float, float]
    patient: str = ""


@dataclass(frozen=True)
class RegionUse:
    """What becomes of one region.

    Parameters
    ----------
    slide, region : index of the slide, and of the region in its regions.
    class_name, name, kind : as drawn.
    tiles : tiles laid on it.
    training, validation : of these, on each side.
    reason : why it gives no tiles, or what was lost; empty where nothing was.
    """

    slide: int
    region: int
    class_name: str | None
    name: str
    kind: str
    tiles: int
    training: int
    validation: int
    reason: str = ""


@dataclass(frozen=True)
class Preflight:
    """The table before a training, ready for a dock.

    Parameters
    ----------
    regions : one row per region, in the order of slides and regions.
    training, validation : tiles of each class.
    notes : sentences about the split.
    problem : why a training cannot start, as a sentence; empty where it can.
    """

    regions: tuple[RegionUse, ...]
    training: dict[str, int] = field(default_factory=dict)
    validation: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    problem: str = ""

    @property
    def tiles(self) -> int:
        """Tiles that would be used."""
        return sum(self.training.values()) + sum(self.validation.values())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {**asdict(self), "regions": [asdict(row) for row in self.regions], "tiles": self.tiles}


def preflight(
    slides: Sequence[tuple[Regions, SlideFacts]],
    reading: Reading,
    training: TrainingConfig | None = None,
    class_names: Sequence[str] | None = None,
    map_classes: Mapping[str, str] | None = None,
) -> Preflight:
    """Lay and split tiles as a training would, and tell what each region gives. Nothing is decoded.

    Parameters
    ----------
    slides : regions with what is known of their slide.
    reading : how tiles are read.
    training : its options; the split and the limit per class are used.
    class_names : the classes; None takes those drawn.
    map_classes : other names for classes; an empty name leaves a class out.

    Returns
    -------
    the table. What a training would raise as NoTiles stands in `problem`.
    """
    from pathotune.regions import split_tiles

    training = training or TrainingConfig()
    mapped = [regions.map_classes(dict(map_classes)) if map_classes else regions for regions, _ in slides]
    facts = [fact for _, fact in slides]
    names = tuple(class_names or sorted({name for regions in mapped for name in regions.class_names()}))
    tiles, reports = _laid(mapped, facts, reading, names)
    if tiles is None or not len(tiles):
        return Preflight(_rows(reports, None, {}, training), problem=_nothing(reports))
    used = balanced_part(tiles.label, np.arange(len(tiles)), training.max_tiles_per_class, training.seed)
    part = tiles.take(used)
    try:
        split = split_tiles(part, by=training.split_by, fraction=training.val_fraction, seed=training.seed)
    except NoTiles as error:
        return Preflight(_rows(reports, part, {}, training), problem=str(error))
    sides = {"training": split.train, "validation": split.validation}
    counts = {side: part.take(rows).tiles_per_class for side, rows in sides.items()}
    return Preflight(_rows(reports, part, sides, training), counts["training"], counts["validation"], split.notes)


def facts_of(source: TuneSource, reading: Reading) -> tuple[Regions, SlideFacts]:
    """Regions and facts of a source, read from its files (headers only).

    Raises
    ------
    PathotuneError
        The slide or its regions cannot be read, or the slide's pixel size is not known.
    """
    from pathotune.regions import Regions, read_regions
    from pathotune.slides import open_slide

    with open_slide(source.slide_path, mpp=source.slide_mpp, icc=reading.icc) as slide:
        mpp = slide.require_mpp()
        regions = source.regions
        if regions is None:
            path = source.regions_path
            regions = Regions() if path is None else read_regions(path, slide, origin=source.origin)
        size = (float(slide.width_px0), float(slide.height_px0))
    return regions, SlideFacts(size, (mpp.x, mpp.y), source.patient or "")


def _laid(
    slides: Sequence[Regions], facts: Sequence[SlideFacts], reading: Reading, names: tuple[str, ...]
) -> tuple[LabelledTiles | None, list[tuple[int, RegionReport]]]:
    from pathotune.regions import label_tiles, merge_tiles

    parts, reports = [], []
    for index, (regions, fact) in enumerate(zip(slides, facts, strict=True)):
        tile = (reading.tile_um / fact.mpp[0], reading.tile_um / fact.mpp[1])
        part, told = label_tiles(regions, fact.size_px0, tile, names)
        parts.append(part)
        reports += [(index, report) for report in told]
    return (merge_tiles(parts, [fact.patient for fact in facts]) if parts else None), reports


def _rows(
    reports: Sequence[tuple[int, RegionReport]],
    tiles: LabelledTiles | None,
    sides: Mapping[str, NDArray[np.int64]],
    training: TrainingConfig,
) -> tuple[RegionUse, ...]:
    counts: dict[str, dict[tuple[int, int], int]] = {}
    for side in (*sides, "used"):
        found: dict[tuple[int, int], int] = {}
        if tiles is not None:
            rows = sides[side] if side in sides else np.arange(len(tiles))
            for slide, region in zip(tiles.slide[rows].tolist(), tiles.region[rows].tolist(), strict=True):
                found[slide, region] = found.get((slide, region), 0) + 1
        counts[side] = found
    result = []
    for slide, report in reports:
        key = slide, report.region
        learned, judged = (counts.get(side, {}).get(key, 0) for side in ("training", "validation"))
        reason = report.reason
        if report.tiles and not learned and not judged and sides:
            reason = OVERLAPS if counts["used"].get(key) else MOST_OF_A_CLASS.format(most=training.max_tiles_per_class)
        result.append(
            RegionUse(
                slide, report.region, report.class_name, report.name, report.kind, report.tiles, learned, judged, reason
            )
        )
    return tuple(result)


def _nothing(reports: Sequence[tuple[int, RegionReport]]) -> str:
    from pathotune.regions import why_no_tiles

    if not reports:
        return "Nothing is drawn yet: draw regions of at least two classes, two regions of each."
    return f"No region gives a tile. {why_no_tiles([report for _, report in reports])}".strip()


# -- what it would cost -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Costs:
    """What one tile costs on this machine, from `probe.measure`; all in seconds of wall-clock time.

    Parameters
    ----------
    read : decoding one tile.
    lower : the frozen part below the first prompt; 0 where it is not kept.
    learn : one tile's part of a training step, without `lower` where that is kept.
    judge : one tile's answer, without `lower` where that is kept.
    kept_mb : memory of one kept value.
    fixed : what every training costs once: precision probe, sentences, saving.
    """

    read: float
    lower: float
    learn: float
    judge: float
    kept_mb: float = 0.0
    fixed: float = 2.0

    def to_dict(self) -> dict[str, float]:
        """JSON-ready form."""
        return asdict(self)


@dataclass(frozen=True)
class Estimate:
    """What a training is expected to cost.

    Parameters
    ----------
    tiles : used for training and validation.
    seconds : at least (early stopping at its earliest) and at most (all epochs).
    megabytes : of memory beside what the program and the backbone take.
    """

    tiles: int
    seconds: tuple[float, float]
    megabytes: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


def estimate(
    table: Preflight,
    costs: Costs,
    config: MethodConfig,
    training: TrainingConfig,
    image_px: int,
    goes_on: bool = False,
    tiles_kept: int = 0,
) -> Estimate:
    """Expected cost of a training.

    Parameters
    ----------
    table : what would be used.
    costs : of one tile.
    config, training : of the method, and how it would be trained.
    image_px : side of a tile's image.
    goes_on : whether it starts from a saved tuning.
    tiles_kept : tiles that are decoded already.
    """
    training = training.settled(config.is_interactive, goes_on)
    learned, judged = sum(table.training.values()), sum(table.validation.values())
    draws = training.draws_per_epoch(learned) if learned else 0
    looks = int(getattr(config, "views", training.looks)) if training.augment else 1
    keeps = costs.lower > 0

    def seconds(epochs: int) -> float:
        # Of so many random looks at tiles, how many are new: the expected number of distinct ones.
        distinct = learned * looks * (1 - (1 - 1 / max(1, learned * looks)) ** (epochs * draws)) if keeps else 0.0
        if config.is_solved:
            distinct = float(learned * (looks - 1))  # every look of every tile takes part, and passes once
        passes = (learned + judged + distinct) * costs.lower
        looked = (learned + judged * (epochs + 1)) * costs.judge
        read = max(0, table.tiles - tiles_kept) * costs.read
        return costs.fixed + read + passes + looked + epochs * draws * costs.learn

    if config.is_solved:
        training = replace(training, epochs=0, sweep="off")  # the fits on what came out hardly count
    sweep = draws_of(training) * costs.learn
    kept = min((learned * looks + judged) * costs.kept_mb, float(training.cache_mb)) if keeps else 0.0
    images = table.tiles * image_px * image_px * 3 / 2**20
    span = (seconds(min(training.epochs, training.patience + 1)) + sweep, seconds(training.epochs) + sweep)
    return Estimate(table.tiles, span, round(kept + 2 * images, 1))
