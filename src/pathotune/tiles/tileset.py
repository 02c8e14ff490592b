"""What a tile is (the reading) and where a slide's tiles lie (the tile set)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pathotune.errors import TuningUnreadable, UsageError

if TYPE_CHECKING:
    from pathotune.slides.slide import Slide

LEVEL_RULE = "coarsest level not coarser than the tile's pixels"
"""How `TileReader` picks the pyramid level: the coarsest one whose pixels are at most 1 % larger than the pixels the
model gets, so that pixels are only ever averaged, never invented; where even level 0 is coarser, level 0."""

FILTERS = ("bilinear", "box", "hamming", "bicubic", "lanczos")
STAINS = ("none", "macenko")
DECODINGS = ("full", "reduced")


@dataclass(frozen=True)
class Reading:
    """How tiles are read: fixed when a tuning is made and followed whenever it is used.

    Parameters
    ----------
    mpp : micrometres per pixel at which the tile is `tile_px` wide.
    tile_px : side of a tile in pixels of `mpp`; it covers ``tile_px * mpp`` µm of tissue.
    image_px : side of the image that reaches the model; another number than `tile_px` scales the tile.
    filter : antialiasing filter of the resampling ("bilinear", "box", "hamming", "bicubic", "lanczos").
    icc : whether colours are converted to sRGB with the slide's profile (the slide is opened with ``icc=True``).
    stain : "none", or "macenko" to bring every slide's stain to one reference.
    decode : "reduced" decodes at a half, a quarter or an eighth of a level's size where the tile's pixels are so much
        larger than the level's (JPEG's own scaling, means of 2×2 pixels elsewhere), which is several times faster;
        "full" always decodes whole pixels and resamples them.

    Raises
    ------
    UsageError : a number is not positive and finite, or a name is not known.
    """

    mpp: float
    tile_px: int
    image_px: int
    filter: str = "bilinear"
    icc: bool = False
    stain: str = "none"
    decode: str = "full"

    def __post_init__(self) -> None:
        for name in ("mpp", "tile_px", "image_px"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"A tile's {name} must be a positive number, and {value!r} is not.")
        for name, known in (("filter", FILTERS), ("stain", STAINS), ("decode", DECODINGS)):
            if getattr(self, name) not in known:
                raise UsageError(
                    f"There is no {name} {getattr(self, name)!r} for reading tiles; use {', '.join(known)}."
                )

    @property
    def tile_um(self) -> float:
        """Side of the tissue square a tile covers, in µm."""
        return self.tile_px * self.mpp

    @property
    def image_mpp(self) -> float:
        """µm per pixel of the image that reaches the model."""
        return self.tile_um / self.image_px

    @property
    def level_rule(self) -> str:
        """How the pyramid level is picked, in words; see `LEVEL_RULE`."""
        return LEVEL_RULE

    def tile_px0(self, slide: Slide) -> tuple[float, float]:
        """Width and height of a tile in the slide's level-0 pixels.

        Raises
        ------
        MissingPixelSize : the slide's pixel size is not known.
        """
        mpp = slide.require_mpp()
        return self.tile_um / mpp.x, self.tile_um / mpp.y

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, the tuning file's `reading`."""
        document = {
            "mpp": float(self.mpp),
            "tile_px": int(self.tile_px),
            "image_px": int(self.image_px),
            "filter": self.filter,
            "icc": bool(self.icc),
            "stain": self.stain,
            "level_rule": LEVEL_RULE,
        }
        # Absent where it is "full": what was written before there was a choice stays the same document.
        return document | ({} if self.decode == "full" else {"decode": self.decode})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Reading:
        """Make it again from `to_dict`.

        Raises
        ------
        TuningUnreadable : a key is missing, or the level rule is one this version does not know.
        """
        rule = data.get("level_rule", LEVEL_RULE)
        if rule != LEVEL_RULE:
            raise TuningUnreadable(
                f"The tuning reads tiles by the level rule {rule!r}, which this version of pathotune does not know. "
                "Update pathotune."
            )
        missing = [key for key in ("mpp", "tile_px", "image_px") if key not in data]
        if missing:
            raise TuningUnreadable(f"The tuning does not say how tiles are read: {', '.join(missing)} missing.")
        return cls(
            mpp=float(data["mpp"]),
            tile_px=int(data["tile_px"]),
            image_px=int(data["image_px"]),
            filter=str(data.get("filter", "bilinear")),
            icc=bool(data.get("icc", False)),
            stain=str(data.get("stain", "none")),
            decode=str(data.get("decode", "full")),
        )


@dataclass
class TileSet:
    """Tiles of one slide on a regular grid, in level-0 pixels.

    Tile (row r, column c) has its top-left corner at ``origin_px0 + (c * stride_px0[0], r * stride_px0[1])`` exactly:
    positions are multiplied, never added up, so that they do not drift over a large slide.

    Parameters
    ----------
    x_px0, y_px0 : (n,) float64, top-left corners.
    row, column : (n,) int32, cell of each tile in the grid.
    rows, columns : size of the whole grid (of the slide, not of the selection).
    tile_px0, stride_px0 : (width, height) of a tile, and from one tile to the next.
    origin_px0 : (x, y), top-left corner of the tile of cell (0, 0).
    slide_fingerprint : identity of the slide.
    reading : how the tiles are read.
    """

    x_px0: NDArray[np.float64]
    y_px0: NDArray[np.float64]
    row: NDArray[np.int32]
    column: NDArray[np.int32]
    rows: int
    columns: int
    tile_px0: tuple[float, float]
    stride_px0: tuple[float, float]
    origin_px0: tuple[float, float]
    slide_fingerprint: str
    reading: Reading

    def __len__(self) -> int:
        return len(self.x_px0)

    @property
    def boxes(self) -> NDArray[np.float64]:
        """(n, 4) float64: x, y, width, height of every tile."""
        boxes = np.empty((len(self), 4), dtype=np.float64)
        boxes[:, 0], boxes[:, 1] = self.x_px0, self.y_px0
        boxes[:, 2], boxes[:, 3] = self.tile_px0
        return boxes

    def centres_px0(self) -> NDArray[np.float64]:
        """(n, 2) float64: x, y of every tile's centre."""
        return np.stack([self.x_px0 + self.tile_px0[0] / 2, self.y_px0 + self.tile_px0[1] / 2], axis=1)

    def take(self, indices: ArrayLike) -> TileSet:
        """The tiles of these indices (or where this boolean mask is true), in this order, on the same grid."""
        picked = np.asarray(indices)
        if picked.dtype != bool:
            picked = picked.astype(np.intp)
        return TileSet(
            x_px0=self.x_px0[picked],
            y_px0=self.y_px0[picked],
            row=self.row[picked],
            column=self.column[picked],
            rows=self.rows,
            columns=self.columns,
            tile_px0=self.tile_px0,
            stride_px0=self.stride_px0,
            origin_px0=self.origin_px0,
            slide_fingerprint=self.slide_fingerprint,
            reading=self.reading,
        )

    @classmethod
    def from_cells(
        cls,
        row: ArrayLike,
        column: ArrayLike,
        *,
        rows: int,
        columns: int,
        tile_px0: tuple[float, float],
        stride_px0: tuple[float, float],
        slide_fingerprint: str,
        reading: Reading,
        origin_px0: tuple[float, float] = (0.0, 0.0),
    ) -> TileSet:
        """The tiles of these grid cells."""
        row = np.asarray(row, dtype=np.int32)
        column = np.asarray(column, dtype=np.int32)
        return cls(
            x_px0=origin_px0[0] + column.astype(np.float64) * stride_px0[0],
            y_px0=origin_px0[1] + row.astype(np.float64) * stride_px0[1],
            row=row,
            column=column,
            rows=rows,
            columns=columns,
            tile_px0=tile_px0,
            stride_px0=stride_px0,
            origin_px0=origin_px0,
            slide_fingerprint=slide_fingerprint,
            reading=reading,
        )
