"""Writing a generated slide as a pyramidal tiled TIFF, strip by strip."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathotune.errors import OutputRefused, UsageError
from pathotune.slides.synthetic.slide import SyntheticSlide
from pathotune.slides.synthetic.stains import Stain

Pixels = NDArray[np.uint8]
IN_MEMORY_BYTES = 64 * 2**20


def write_pyramid(
    slide: SyntheticSlide,
    path: str | Path,
    *,
    tile: int = 256,
    downsamples: tuple[float, ...] | None = None,
    quality: int = 85,
    resolution: str = "generic",
    threads: int = 2,
) -> Path:
    """Write the slide as a tiled, JPEG-compressed TIFF with lower levels.

    Memory stays bounded by one row of tiles; lower levels wait in a temporary file.

    Parameters
    ----------
    path : file to write; an existing one is replaced.
    tile : side of the file's tiles, a multiple of 16.
    downsamples : of the lower levels, rising, any number above 1 (3.17 too); without it 4, 16, … down to about 1000 px.
    quality : of the JPEG tiles, 1..100; 0 stores tiles without loss.
    resolution : where the pixel size stands: "generic" (TIFF resolution), "aperio" (an SVS header), or "none".
    threads : how many tiles are drawn at a time.

    Raises
    ------
    UsageError : options that make no pyramid.
    OutputRefused : the place cannot be written to.
    """
    path = Path(path)
    ratios = _ratios(slide, downsamples)
    if tile % 16 or tile < 16:
        raise UsageError(f"The side of a TIFF tile is a multiple of 16, and {tile} is not.")
    if resolution not in ("generic", "aperio", "none"):
        raise UsageError(f"The pixel size stands as 'generic', 'aperio' or 'none', not {resolution!r}.")
    partial = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write(slide, partial, tile, ratios, quality, resolution, threads)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise OutputRefused(f"The generated slide cannot be written to {str(path)!r} ({error}).") from error
    return path


def _ratios(slide: SyntheticSlide, downsamples: tuple[float, ...] | None) -> list[float]:
    if downsamples is None:
        longer = max(slide.width_px0, slide.height_px0)
        ratios: list[float] = []
        while longer / 4 ** len(ratios) > 1024:
            ratios.append(float(4 ** (len(ratios) + 1)))
        return ratios
    ratios = [float(ratio) for ratio in downsamples if ratio != 1]
    if any(ratio <= 1 for ratio in ratios) or ratios != sorted(set(ratios)):
        raise UsageError(f"Downsamples are rising numbers above 1, and {tuple(downsamples)} are not.")
    return ratios


def _write(
    slide: SyntheticSlide, path: Path, tile: int, ratios: list[float], quality: int, resolution: str, threads: int
) -> None:
    import tifffile

    reducers: list[_Reducer] = []
    above, size = 1.0, (slide.width_px0, slide.height_px0)
    for ratio in ratios:
        source = size
        exact, size = _level(slide, ratio)
        reducers.append(_Reducer(source, size, exact / above))
        above = exact
    estimated = slide.width_px0 * slide.height_px0 * 3
    with tifffile.TiffWriter(path, bigtiff=estimated > 2**32) as tiff, ThreadPoolExecutor(threads) as pool:
        strips = _strips(slide, tile, pool, reducers)
        options = _page_options(tile, quality, threads)
        tiff.write(
            _tiles(strips, tile),
            shape=(slide.height_px0, slide.width_px0, 3),
            dtype=np.uint8,
            description=_description(slide, tile, quality, resolution),
            **_resolution(slide.mpp if resolution == "generic" else None),
            **options,
        )
        if resolution == "aperio":
            _write_thumbnail(tiff, slide, reducers)
        for reducer, ratio in zip(reducers, ratios, strict=True):
            rows = (reducer.result[top : top + tile] for top in range(0, reducer.height, tile))
            tiff.write(
                _tiles(rows, tile),
                shape=(reducer.height, reducer.width, 3),
                dtype=np.uint8,
                subfiletype=0 if resolution == "aperio" else 1,
                **_resolution(slide.mpp * ratio if resolution == "generic" else None),
                **options,
            )


def _level(slide: SyntheticSlide, ratio: float) -> tuple[float, tuple[int, int]]:
    """The exact scale of a level and its (width, height): a whole ratio as it is, another by the longer side."""
    longer = max(slide.width_px0, slide.height_px0)
    exact = ratio if ratio == int(ratio) else longer / max(1, round(longer / ratio))
    width, height = (max(1, int(side / exact + 1e-6)) for side in (slide.width_px0, slide.height_px0))
    return exact, (width, height)


def _page_options(tile: int, quality: int, threads: int) -> dict[str, Any]:
    options: dict[str, Any] = {"tile": (tile, tile), "metadata": None, "maxworkers": threads, "software": "pathotune"}
    if quality:
        options.update(photometric="rgb", compression="jpeg", compressionargs={"level": quality}, subsampling=(2, 2))
    else:
        options.update(photometric="rgb", compression="adobe_deflate")
    return options


def _resolution(mpp: float | None) -> dict[str, Any]:
    if mpp is None:
        return {"resolutionunit": "NONE"}
    # Written as a fraction of integers: this many pixels in a centimetre.
    per_centimetre = 10_000_000, round(mpp * 1000)
    if abs(per_centimetre[1] / 1000 - mpp) > 1e-9:
        per_centimetre = 1_000_000_000, round(mpp * 100_000)
    return {"resolution": (per_centimetre, per_centimetre), "resolutionunit": "CENTIMETER"}


def _description(slide: SyntheticSlide, tile: int, quality: int, resolution: str) -> str | None:
    if resolution != "aperio":
        return None
    width, height = slide.width_px0, slide.height_px0
    magnification = 10.0 / slide.mpp
    return (
        f"Aperio Image Library v12.0.0 \r\n{width}x{height} [0,0 {width}x{height}] ({tile}x{tile}) "
        f"JPEG/RGB Q={quality}|AppMag = {magnification:g}|MPP = {slide.mpp:.6g}"
    )


def _write_thumbnail(tiff: Any, slide: SyntheticSlide, reducers: list[_Reducer]) -> None:
    """An SVS has a small picture as its second page, in strips."""
    from PIL import Image

    if not reducers:
        return
    smallest = Image.fromarray(np.asarray(reducers[-1].result))
    smallest.thumbnail((1024, 1024))
    tiff.write(np.asarray(smallest), photometric="rgb", compression="jpeg", rowsperstrip=16, metadata=None)


def _strips(slide: SyntheticSlide, rows: int, pool: ThreadPoolExecutor, reducers: list[_Reducer]) -> Iterator[Pixels]:
    """Rows of the slide, top to bottom; each is shown to the lower levels on its way."""
    parts = range(0, slide.width_px0, 1024)
    for top in range(0, slide.height_px0, rows):
        height = min(rows, slide.height_px0 - top)

        def drawn(left: int, top: int = top, height: int = height) -> Pixels:
            return slide.render(left, top, min(1024, slide.width_px0 - left), height)

        strip = np.concatenate(list(pool.map(drawn, parts)), axis=1)
        reduced: Pixels | None = strip
        for reducer in reducers:
            if reduced is None or not len(reduced):
                break
            reduced = reducer.feed(reduced)
        yield strip


def _tiles(strips: Iterator[Pixels], tile: int) -> Iterator[Pixels]:
    """Full tiles of rows, left to right; the last ones are filled up with their edge pixels."""
    for strip in strips:
        for left in range(0, strip.shape[1], tile):
            part = strip[:, left : left + tile]
            below, beside = tile - part.shape[0], tile - part.shape[1]
            if below or beside:
                part = np.pad(part, ((0, below), (0, beside), (0, 0)), mode="edge")
            yield np.ascontiguousarray(part)


class _Reducer:
    """Makes a smaller level from the rows of the level above as they come.

    Parameters
    ----------
    source, size : (width, height) of the level above and of this one.
    ratio : pixels of the level above per pixel of this one.
    """

    def __init__(self, source: tuple[int, int], size: tuple[int, int], ratio: float) -> None:
        self.source_width, self.source_height = source
        self.width, self.height = size
        self._ratio = ratio
        self._kept: list[Pixels] = []
        self._kept_from, self._kept_rows, self._done = 0, 0, 0
        shape = (self.height, self.width, 3)
        if int(np.prod(shape)) > IN_MEMORY_BYTES:
            # The map keeps the nameless file open; both go when the level has been written.
            with tempfile.TemporaryFile() as file:
                self.result: Pixels = np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)
        else:
            self.result = np.zeros(shape, dtype=np.uint8)

    def feed(self, rows: Pixels) -> Pixels:
        """Take the next rows of the level above; returns the rows of this level that they complete."""
        self._kept.append(rows)
        self._kept_rows += len(rows)
        end = self._kept_from + self._kept_rows
        last = end >= self.source_height
        # The filter looks one ratio beyond a row on both sides.
        ready = self.height if last else int((end - self._ratio) / self._ratio)
        if ready <= self._done:
            return self.result[:0]
        return self._reduce(ready)

    def _reduce(self, ready: int) -> Pixels:
        from PIL import Image

        above = np.concatenate(self._kept) if len(self._kept) > 1 else self._kept[0]
        box = (
            0.0,
            self._done * self._ratio - self._kept_from,
            min(self.width * self._ratio, float(self.source_width)),
            min(ready * self._ratio - self._kept_from, float(len(above))),
        )
        small = Image.fromarray(above).resize((self.width, ready - self._done), Image.Resampling.HAMMING, box=box)
        made = np.asarray(small)
        self.result[self._done : ready] = made
        self._done = ready
        first_needed = max(int((ready - 1) * self._ratio) - 1, self._kept_from)
        self._kept = [above[first_needed - self._kept_from :].copy()]
        self._kept_from, self._kept_rows = first_needed, len(self._kept[0])
        return made


def write_sample(
    folder: str | Path,
    seed: int = 0,
    *,
    width_px0: int = 6144,
    height_px0: int = 4608,
    mpp: float = 0.5,
    stain: Stain | str | None = None,
    name: str | None = None,
    **options: Any,
) -> tuple[Path, Path]:
    """Write a sample slide with the regions a pathologist would draw on it.

    Parameters
    ----------
    folder : where `NAME.tiff`, `NAME.geojson` (a few outlines per class) and `NAME-truth.geojson` (everything) go.
    seed : which slide; without a stain of your own it also varies the stain.
    name : file name without suffix; without it ``sample-SEED``.
    options : of `write_pyramid`.

    Returns
    -------
    The slide's path and the path of the drawn regions.
    """
    folder = Path(folder)
    chosen = Stain().varied(seed, 0.6) if stain is None else stain
    slide = SyntheticSlide(width_px0, height_px0, mpp, seed, chosen)
    stem = name or f"sample-{seed}"
    path = slide.write(folder / f"{stem}.tiff", **options)
    written = []
    for suffix, which in (("", "drawn"), ("-truth", "all")):
        regions = folder / f"{stem}{suffix}.geojson"
        regions.write_text(json.dumps(slide.regions(which)), encoding="utf-8")
        written.append(regions)
    return path, written[0]
