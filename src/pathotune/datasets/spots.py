"""Spots of spatial transcriptomics: where they lie on the slide, what was measured, and which tile is theirs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathotune.datasets.cohort import Cohort
from pathotune.datasets.delimited import Row, read_rows
from pathotune.datasets.expression import Expression, read_expression
from pathotune.datasets.genes import named
from pathotune.datasets.tiles import SPLITS
from pathotune.datasets.visium import visium_matrix
from pathotune.errors import FileMissing, NoTiles, TableUnreadable

# Distance between the centres of neighbouring spots in µm, as the makers state it.
PLATFORMS: Mapping[str, float] = {"visium": 100.0, "st": 200.0}
TITLES = {"visium": "Visium", "st": "ST"}
DOUBTED, REFUSED = 0.10, 0.25  # how far the pitch may be off before it is said, and before it is refused
CENTRES = (("x_px0", "y_px0"), ("pixel_x", "pixel_y"), ("pxl_col_in_fullres", "pxl_row_in_fullres"))
NAMES = ("sample", "spot", "barcode", "id")
POSITIONS = ("tissue_positions.csv", "tissue_positions_list.csv")
OLD_POSITIONS = ("barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres")


@dataclass
class Spots:
    """Spots of one section.

    Parameters
    ----------
    names : of the spots, as the expression table names them.
    x_px0, y_px0 : (n,) float64 centres in level-0 pixels of the slide.
    platform : "visium", "st", or "" where it is not known.
    diameter_px0 : of a spot in level-0 pixels, NaN where not known.
    expression : what was measured, one row a spot in the order of `names`, or None.
    slide : the slide as the table names it, "" where it does not.
    source : the file or folder they came from.
    warnings : sentences with counts about what was left out.
    """

    names: tuple[str, ...]
    x_px0: NDArray[np.float64]
    y_px0: NDArray[np.float64]
    platform: str = ""
    diameter_px0: float = math.nan
    expression: Expression | None = None
    slide: str = ""
    source: str = ""
    warnings: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: Iterable[int]) -> Spots:
        """The spots at `rows`."""
        index = [int(row) for row in rows]
        return replace(
            self,
            names=tuple(self.names[row] for row in index),
            x_px0=self.x_px0[index],
            y_px0=self.y_px0[index],
            expression=None if self.expression is None else self.expression.take(index),
        )

    @property
    def pitch_px0(self) -> float:
        """Median distance of a spot to its nearest neighbour in level-0 pixels; NaN below two spots."""
        if len(self) < 2:
            return math.nan
        from scipy.spatial import cKDTree

        places = np.stack([self.x_px0, self.y_px0], axis=1)
        distances, _ = cKDTree(places).query(places, k=2)
        return float(np.median(distances[:, 1]))

    def corners_px0(self, tile_px0: tuple[float, float]) -> NDArray[np.float64]:
        """(n, 2) top-left corners of tiles of that size centred on the spots."""
        width, height = tile_px0
        return np.stack([self.x_px0 - width / 2, self.y_px0 - height / 2], axis=1)

    def with_expression(self, expression: Expression) -> Spots:
        """The spots that were measured, each with its row; what has no partner is counted in `warnings`.

        Raises
        ------
        TableUnreadable : not one spot is in the table.
        """
        rows = expression.row_of()
        kept = [index for index, name in enumerate(self.names) if name in rows]
        if not kept:
            raise TableUnreadable(
                f"None of the {len(self)} spots of {Path(self.source).name} (for example {named(self.names, 2)}) is in "
                f"{Path(expression.source).name} (for example {named(expression.samples, 2)}); name both alike."
            )
        said = list(self.warnings)
        if len(kept) < len(self):
            doubt = " Is that the table of another section?" if len(kept) < len(self) / 2 else ""
            said.append(
                f"{len(self) - len(kept)} of {len(self)} spots of {Path(self.source).name} have no expression in "
                f"{Path(expression.source).name}.{doubt}"
            )
        unplaced = len(expression) - len(kept)
        if unplaced:
            said.append(f"{unplaced} rows of {Path(expression.source).name} belong to no spot of this section.")
        chosen = self.take(kept)
        measured = expression.take(rows[name] for name in chosen.names)
        return replace(chosen, expression=measured, warnings=tuple(said))


def check_pitch(spots: Spots, mpp: tuple[float, float]) -> tuple[str, ...]:
    """Whether the distance between spots in µm is what their platform has.

    Parameters
    ----------
    mpp : pixel size of the slide in µm, for x and y.

    Returns
    -------
    Sentences for a person; empty where all is well or the platform is not known.

    Raises
    ------
    TableUnreadable : it is more than a quarter off: the spots are in other pixels than the slide's, or its pixel size
        is wrong.
    """
    scaled = replace(spots, x_px0=spots.x_px0 * mpp[0], y_px0=spots.y_px0 * mpp[1])
    pitch = scaled.pitch_px0
    if math.isnan(pitch) or len(spots) < 10:
        return ()
    wanted = PLATFORMS.get(spots.platform, math.nan)
    if math.isnan(wanted):
        off = min((pitch / value - 1 for value in PLATFORMS.values()), key=abs)
        unusual = (
            f"The spots lie {pitch:.0f} µm apart, which is none of the usual pitches (Visium 100 µm, ST 200 µm); "
            "check the slide's pixel size and that the spots are in its level-0 pixels."
        )
        return (unusual,) if abs(off) > DOUBTED else ()
    off, title, likely = pitch / wanted - 1, TITLES[spots.platform], mpp[0] * wanted / pitch
    if abs(off) > REFUSED:
        raise TableUnreadable(
            f"The spots of {Path(spots.source).name} lie {pitch:.0f} µm apart at {mpp[0]:.3g} µm per pixel, but those "
            f"of {title} lie {wanted:.0f} µm apart. Either the slide's pixel size is wrong (it would be {likely:.3g}), "
            "or the spots are in pixels of a smaller picture than this slide."
        )
    doubted = (
        f"The spots lie {pitch:.0f} µm apart instead of {wanted:.0f} µm ({title}): the slide's pixel size may be "
        f"{likely:.3g} rather than {mpp[0]:.3g} µm."
    )
    return (doubted,) if abs(off) > DOUBTED else ()


class Match(NamedTuple):
    """Which tile belongs to which spot.

    spots, tiles : (n,) indexes of the pairs.
    spots_without, tiles_without : how many have no partner.
    """

    spots: NDArray[np.int64]
    tiles: NDArray[np.int64]
    spots_without: int
    tiles_without: int

    @property
    def notes(self) -> tuple[str, ...]:
        """What does not line up, with counts."""
        return (f"{self.spots_without} spots have no tile and were left out.",) if self.spots_without else ()


def match_tiles(spots: Spots, corners_px0: ArrayLike, tile_px0: tuple[float, float]) -> Match:
    """Give every spot the tile whose centre is nearest, where the spot's centre lies in that tile.

    Parameters
    ----------
    corners_px0 : (n, 2) top-left corners of the tiles in level-0 pixels.
    tile_px0 : width and height of a tile.

    Raises
    ------
    NoTiles : no spot lies in any tile.
    """
    from scipy.spatial import cKDTree

    size = np.asarray(tile_px0, dtype=np.float64)
    centres = np.asarray(corners_px0, dtype=np.float64).reshape(-1, 2) + size / 2
    places = np.stack([spots.x_px0, spots.y_px0], axis=1)
    if not len(centres):
        raise NoTiles("There are no tiles to match spots with.")
    _, nearest = cKDTree(centres / size).query(places / size)
    inside = (np.abs(places - centres[nearest]) <= size / 2 + 1e-6).all(axis=1)
    if not inside.any():
        raise NoTiles(
            f"None of the {len(spots)} spots lies in a tile: spots span x {np.min(spots.x_px0):.0f}–"
            f"{np.max(spots.x_px0):.0f}, tiles {centres[:, 0].min():.0f}–{centres[:, 0].max():.0f} level-0 pixels. "
            "Are the spots in pixels of another picture than this slide?"
        )
    index = np.flatnonzero(inside)
    tiles = nearest[index]
    return Match(index, tiles.astype(np.int64), int((~inside).sum()), len(centres) - len(np.unique(tiles)))


# -- reading ----------------------------------------------------------------------------------------------------------


def read_spots(path: str | Path, *, slide: str = "") -> Spots:
    """Read the spots of a section, with what was measured where it lies beside them.

    Parameters
    ----------
    path : a 10x Visium folder (its `outs`), or a table (.csv, .tsv) with the centres as x_px0,y_px0, pixel_x,pixel_y or
        pxl_col_in_fullres,pxl_row_in_fullres, and the spot's name as sample, spot or barcode (without one, the array
        position "XxY" of the columns x and y, as in HER2ST). Rows with selected or in_tissue 0 are left out, and said.
    slide : take only the rows whose column slide says this, where the table has one.

    Raises
    ------
    FileMissing, TableUnreadable
    """
    path = Path(path)
    if path.is_dir():
        return read_visium(path)
    if path.is_file() and path.name == POSITIONS[1] and not _has_header(path):
        return replace(_from_rows(path, _old_positions(path), ""), platform="visium")
    table = read_rows(path, "spots table")
    if not any(set(pair) <= set(table.columns) for pair in CENTRES):
        raise TableUnreadable(
            f"{path.name} has no centres of spots (its columns: {', '.join(table.columns[:12])}); it needs x_px0 and "
            "y_px0 (level-0 pixels), or pixel_x and pixel_y."
        )
    return _from_rows(path, table.rows, slide)


def spot_column(path: str | Path, column: str) -> dict[tuple[str, str], str]:
    """(slide, spot) → what a column of a spots table says of it; empty for a Visium folder or without that column.

    The slide is "" where the table names none.
    """
    path = Path(path)
    if path.is_dir() or path.name == POSITIONS[1]:
        return {}
    table = read_rows(path, "spots table")
    if column.casefold() not in table.columns:
        return {}
    found = {}
    for row in table.rows:
        found[(row.cells.get("slide", ""), _name(row.cells))] = row.cells.get(column.casefold(), "")
    return found


def slides_of(path: str | Path) -> tuple[str, ...]:
    """The slides a spots table names, in its order; () for a Visium folder or a table without the column."""
    path = Path(path)
    if path.is_dir():
        return ()
    table = read_rows(path, "spots table")
    if "slide" not in table.columns:
        return ()
    return tuple(dict.fromkeys(row.cells.get("slide", "") for row in table.rows if row.cells.get("slide")))


def cohort_of_spots(path: str | Path) -> Cohort | None:
    """The sections of a table with one row a spot, as a cohort; None for a table of any other kind.

    Parameters
    ----------
    path : columns slide, the centres (x_px0, y_px0 …) and the spots' names; patient, split, mpp and expression may
        stand in every row of a slide and count from its first.

    Raises
    ------
    FileMissing, TableUnreadable
    """
    table = read_rows(path, "cohort table")
    if "slide" not in table.columns or not any(set(pair) <= set(table.columns) for pair in CENTRES):
        return None
    first: dict[str, dict[str, str]] = {}
    for row in table.rows:
        if row.cells.get("slide"):
            first.setdefault(row.cells["slide"], row.cells)
    if not first:
        raise TableUnreadable(f"{Path(path).name} names no slide in its column 'slide'.")
    slides = tuple(first)
    said = list(first.values())
    mpps = [cells.get("mpp") or "nan" for cells in said]
    try:
        mpp = np.asarray([float(text) for text in mpps], dtype=np.float64)
    except ValueError:
        raise TableUnreadable(f"{Path(path).name} needs numbers in 'mpp' (one holds {mpps!r}).") from None
    clinical = {"spots": (Path(path).name,) * len(slides)}
    if "expression" in table.columns:
        clinical["expression"] = tuple(cells.get("expression", "") for cells in said)
    return Cohort(
        slides=slides,
        patients=tuple(cells.get("patient") or slide for slide, cells in first.items()),
        labels=(None,) * len(slides),
        time=np.full(len(slides), np.nan),
        event=np.full(len(slides), -1, dtype=np.int64),
        split=tuple(SPLITS.get(cells.get("split", "").casefold(), "") for cells in said),
        fold=np.full(len(slides), -1, dtype=np.int64),
        mpp=mpp,
        clinical=clinical,
        path=Path(path),
    )


def _has_header(path: Path) -> bool:
    with path.open(encoding="utf-8-sig") as file:
        return "barcode" in file.readline()


def _old_positions(path: Path) -> list[Row]:
    """Space Ranger before 2.0 wrote the positions without a line of names."""
    import csv

    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = [line for line in csv.reader(file) if line]
    return [Row(dict(zip(OLD_POSITIONS, line, strict=False)), number) for number, line in enumerate(lines, 1)]


def _from_rows(path: Path, rows: Sequence[Row], slide: str) -> Spots:
    if slide and rows and "slide" in rows[0].cells:
        rows = [row for row in rows if row.cells.get("slide") == slide]
    said = []
    off = [row for row in rows if _says_no(row.cells.get("selected")) or _says_no(row.cells.get("in_tissue"))]
    if off:
        said.append(f"{len(off)} of {len(rows)} spots of {path.name} are marked as not on tissue and were left out.")
        rows = [
            row for row in rows if not _says_no(row.cells.get("selected")) and not _says_no(row.cells.get("in_tissue"))
        ]
    if not rows:
        raise TableUnreadable(f"{path.name} has no spots{f' of the slide {slide}' if slide else ''} on tissue.")
    x, y = next((pair for pair in CENTRES if set(pair) <= set(rows[0].cells)), CENTRES[0])
    names = [_name(row.cells) for row in rows]
    missing = [f"row {row.number}" for row, name in zip(rows, names, strict=True) if not name]
    if missing:
        raise TableUnreadable(f"{path.name}: {named(missing)} have no name; add a column spot (or sample, barcode).")
    doubled = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if doubled:
        raise TableUnreadable(f"{path.name} names {named(doubled)} more than once; a spot needs a name of its own.")
    is_array = "sample" not in rows[0].cells and "barcode" not in rows[0].cells and {"x", "y"} <= set(rows[0].cells)
    platform = rows[0].cells.get("platform", "").casefold() or ("st" if is_array else "")
    centres = (_coordinates(path, rows, x), _coordinates(path, rows, y))
    return Spots(tuple(names), *centres, platform, slide=slide, source=str(path), warnings=tuple(said))


def _says_no(text: str | None) -> bool:
    return text is not None and text.strip().casefold() in {"0", "0.0", "false", "no"}


def _name(cells: Mapping[str, str]) -> str:
    for column in NAMES:
        if cells.get(column):
            return cells[column]
    if cells.get("x") and cells.get("y"):
        return f"{cells['x'].removesuffix('.0')}x{cells['y'].removesuffix('.0')}"
    return ""


def _coordinates(path: Path, rows: Sequence[Row], column: str) -> NDArray[np.float64]:
    values = np.full(len(rows), np.nan)
    for index, row in enumerate(rows):
        try:
            values[index] = float(row.cells.get(column) or "nan")
        except ValueError:
            continue
    bad = [f"row {row.number}" for row, value in zip(rows, values, strict=True) if not math.isfinite(value)]
    if bad:
        raise TableUnreadable(f"{path.name}: {named(bad)} need a number in {column!r}.")
    return values


def read_visium(folder: str | Path) -> Spots:
    """Read a 10x Visium folder: the matrix, the positions and the scale factors.

    Parameters
    ----------
    folder : holds filtered_feature_bc_matrix.h5 (or the folder of the same name with matrix.mtx, barcodes and
        features), and spatial/ with tissue_positions.csv (or tissue_positions_list.csv) and scalefactors_json.json.

    Raises
    ------
    FileMissing : there is no such folder.
    TableUnreadable : one of the files is missing or is not what it should be; it is named.
    """
    import json

    folder = Path(folder)
    if not folder.is_dir():
        raise FileMissing(folder, "Visium folder")
    inside = folder / "outs" if (folder / "outs").is_dir() else folder
    spatial = inside / "spatial"
    positions = next((spatial / name for name in POSITIONS if (spatial / name).is_file()), None)
    if positions is None:
        binned = "binned_outputs" if (inside / "binned_outputs").is_dir() else "tissue_positions.parquet"
        hint = " It looks like Visium HD, which is not read." if (inside / binned).exists() else ""
        raise TableUnreadable(f"{folder} has no spatial/{POSITIONS[0]} and is no Visium folder.{hint}")
    rows = read_rows(positions, "positions").rows if _has_header(positions) else _old_positions(positions)
    spots = replace(_from_rows(positions, rows, ""), platform="visium", source=str(folder))
    factors = spatial / "scalefactors_json.json"
    if factors.is_file():
        try:
            diameter = float(json.loads(factors.read_text(encoding="utf-8"))["spot_diameter_fullres"])
        except (ValueError, KeyError, TypeError) as error:
            raise TableUnreadable(
                f"{factors.name} of {folder.name} cannot be read ({error!r}); copy it again."
            ) from None
        spots = replace(spots, diameter_px0=diameter)
    else:
        spots = replace(spots, warnings=(*spots.warnings, f"{folder.name} has no spatial/scalefactors_json.json."))
    measured = visium_matrix(inside)
    return spots if measured is None else spots.with_expression(measured)


def section_expression(spots: Spots, table: Expression | str | Path | None) -> Spots:
    """The spots with their expression: their own (Visium), or the rows of a table, named as the spots or SECTION_SPOT.

    Parameters
    ----------
    table : an expression table or its path; None where the spots have their own.

    Raises
    ------
    TableUnreadable : there is neither, or no name in common.
    """
    if table is None:
        if spots.expression is None:
            raise TableUnreadable(f"{Path(spots.source).name} has no expression of its own; name a table of it.")
        return spots
    expression = table if isinstance(table, Expression) else read_expression(table, samples=spots.names)
    known = expression.row_of()
    if not any(name in known for name in spots.names):
        stem = Path(spots.slide or spots.source).name.partition(".")[0]
        for prefix in (f"{stem}_", f"{stem}-", f"{stem}:"):
            if any(prefix + name in known for name in spots.names):
                return replace(spots, names=tuple(prefix + name for name in spots.names)).with_expression(expression)
    return spots.with_expression(expression)
