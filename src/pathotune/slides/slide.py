"""A whole-slide image: what it is, and its pixels at any level."""

from __future__ import annotations

import copy
import threading
import weakref
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from pathotune.errors import MissingPixelSize, SlideUnreadable, UnknownName, UsageError
from pathotune.slides import mpp as pixel_size
from pathotune.slides.color import ToSrgb, profile_name
from pathotune.slides.mpp import Mpp
from pathotune.slides.pyramid import Pyramid
from pathotune.slides.source import Level, Pixels, Source

if TYPE_CHECKING:
    import dask.array as da

REDUCTIONS = (1, 2, 4, 8)
"""How many times smaller pixels can be decoded than they are stored."""


class _Lease:
    """An open source and how many slides use it: the last one to close it gives the file back."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._users = 0
        self._lock = threading.Lock()

    def take(self) -> None:
        with self._lock:
            self._users += 1

    def give_back(self) -> None:
        with self._lock:
            self._users -= 1
            is_last = self._users == 0
        if is_last:
            self.source.close()


class Slide:
    """An open slide. Made by `pathotune.open_slide`; use it as a context manager or call `close`.

    All coordinates called `*_px0` are level-0 pixels, x then y, from the file's own corner. `fingerprint` is the
    slide's identity (32 hexadecimal digits) from sampled bytes, whatever its name and place. Reading is safe from
    several threads at once.
    """

    def __init__(
        self,
        source: Source,
        mpp: Mpp | None,
        fingerprint: str,
        *,
        icc: bool = False,
        warnings: tuple[str, ...] = (),
    ) -> None:
        facts = source.facts
        self.path: Path = source.path
        self.name: str = source.path.name
        self.alias: str = ""  # what results call it where its own name must not appear
        self.reader: str = source.reader
        self.vendor: str = facts.vendor
        self.levels: tuple[Level, ...] = facts.levels
        self.mpp: Mpp | None = mpp
        self.fingerprint: str = fingerprint
        self.objective_power: float | None = facts.objective_power
        self.width_px0: int = facts.levels[0].width
        self.height_px0: int = facts.levels[0].height
        self.bounds_px0: tuple[int, int, int, int] = facts.bounds_px0 or (0, 0, self.width_px0, self.height_px0)
        self.associated_images: tuple[str, ...] = facts.associated_images
        self.warnings: tuple[str, ...] = (*facts.warnings, *warnings)
        color = None
        if icc and facts.icc:
            try:
                color = ToSrgb(facts.icc)
            except ValueError as error:
                self.warnings += (f"The colour profile cannot be used ({error}); colours are as stored.",)
        self.converts_color: bool = color is not None
        self._planes = Pyramid(source, color)
        self._hold(_Lease(source))

    def _hold(self, lease: _Lease) -> None:
        lease.take()
        self._lease = lease
        # A slide that is never closed gives its file back when it is collected, and at the latest at exit.
        self._release = weakref.finalize(self, lease.give_back)

    @property
    def _source(self) -> Source:
        if not self._release.alive:
            raise SlideUnreadable(self.path, [(self.reader, "the slide was closed")], "Open it again.")
        return self._lease.source

    @cached_property
    def icc_profile(self) -> str | None:
        """The name of the embedded colour profile."""
        return profile_name(self._lease.source.facts.icc)

    def read(
        self, x: int, y: int, width: int, height: int, level: int = 0, reduce: int = 1, keep: bool = True
    ) -> Pixels:
        """Pixels of a box.

        Parameters
        ----------
        x, y, width, height : the box in pixels of that level (or in those `reduce` times larger); outside the slide it
            is white.
        level : index into `levels`.
        reduce : 1, or 2, 4 or 8 for pixels that are so many times larger than the level's, decoded at that size.
        keep : whether what is decoded for it stays in memory for the next read.

        Returns
        -------
        array (height, width, 3) uint8, the caller's own.

        Raises
        ------
        SlideUnreadable : if the file is damaged there, or the slide was closed.
        """
        if not 0 <= level < len(self.levels):
            raise UsageError(f"{self.name} has the levels 0 to {len(self.levels) - 1}; there is no level {level}.")
        if width < 0 or height < 0:
            raise UsageError(f"A box of {width} × {height} pixels cannot be read.")
        if reduce not in REDUCTIONS:
            raise UsageError(f"Pixels are read at 1/{', 1/'.join(map(str, REDUCTIONS))} of their size, not 1/{reduce}.")
        return self._region(self._planes.plane_of_level[level], int(x), int(y), int(width), int(height), reduce, keep)

    def block_size(self, level: int) -> tuple[int, int]:
        """Width and height of the blocks a level is decoded in, in its pixels."""
        plane = self._planes.planes[self._planes.plane_of_level[level]]
        return plane.block_width, plane.block_height

    def _region(
        self, plane: int, x: int, y: int, width: int, height: int, reduce: int = 1, keep: bool = True
    ) -> Pixels:
        source = self._source
        try:
            return self._planes.region(plane, x, y, width, height, reduce, keep)
        except SlideUnreadable:
            raise
        except Exception as error:  # any of the decoders, each with its own errors
            reason = f"the pixels at x {x}, y {y} cannot be decoded: {' '.join(str(error).split())}"
            raise SlideUnreadable(self.path, [(source.reader, reason)], "Copy the file again.") from error

    @cached_property
    def pyramid(self) -> list[da.Array]:
        """Lazy arrays (height, width, 3) uint8, largest first.

        The file's levels, then lazily halved ones until the longer side is at most 1024 pixels; gaps wider than 6
        between the file's levels are filled the same way. Chunks are one or a few of the file's tiles.
        """
        return self._planes.arrays(f"slide-{self.fingerprint}", self._region)

    @property
    def pyramid_downsamples(self) -> list[float]:
        """Level-0 pixels per pixel, for each array of `pyramid`."""
        return [plane.downsample for plane in self._planes.planes]

    def thumbnail(self, max_px: int = 1024) -> Pixels:
        """The whole slide with its longer side at most `max_px`, from its own pixels (never the label or macro)."""
        from PIL import Image

        if max_px < 1:
            raise UsageError(f"A thumbnail of {max_px} pixels cannot be made; use at least 1.")
        planes = self._planes.planes
        large_enough = [i for i, plane in enumerate(planes) if max(plane.width, plane.height) >= max_px]
        index = large_enough[-1] if large_enough else 0
        plane = planes[index]
        pixels = self._region(index, 0, 0, plane.width, plane.height)
        scale = min(1.0, max_px / max(plane.width, plane.height))
        size = max(1, round(plane.width * scale)), max(1, round(plane.height * scale))
        if size == (plane.width, plane.height):
            return pixels
        return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))

    def associated_image(self, name: str) -> Pixels:
        """A label, macro or thumbnail picture; may show a patient's name, so it is read only when asked for.

        Raises
        ------
        UnknownName : if the file has none of that name.
        """
        if name not in self.associated_images:
            raise UnknownName("associated image", name, self.associated_images)
        return self._source.associated_image(name)

    def require_mpp(self) -> Mpp:
        """The pixel size; raises `MissingPixelSize` where it is not known."""
        if self.mpp is None:
            doubted = " ".join(text.rstrip(".") for text in self.warnings if "not believed" in text)
            raise MissingPixelSize(self.path, doubted)
        return self.mpp

    def with_mpp(self, mpp: float | tuple[float, float] | Mpp) -> Slide:
        """The same open slide with another pixel size, remembered for it; close both."""
        size = mpp if isinstance(mpp, Mpp) else pixel_size.stated(mpp)
        pixel_size.remember(self.fingerprint, size)
        other = copy.copy(self)
        other.mpp = size
        other._hold(self._lease)
        return other

    def to_dict(self) -> dict[str, Any]:
        """The slide as JSON-ready facts: what `pathotune info` prints."""
        names = ("width", "height", "downsample", "tile_width", "tile_height", "compression")
        return {
            "path": str(self.path),
            "reader": self.reader,
            "vendor": self.vendor,
            "width_px0": self.width_px0,
            "height_px0": self.height_px0,
            "levels": [{name: getattr(level, name) for name in names} for level in self.levels],
            "mpp_x": self.mpp.x if self.mpp else None,
            "mpp_y": self.mpp.y if self.mpp else None,
            "mpp_source": self.mpp.source if self.mpp else None,
            "objective_power": self.objective_power,
            "bounds_px0": list(self.bounds_px0),
            "associated_images": list(self.associated_images),
            "icc_profile": self.icc_profile,
            "fingerprint": self.fingerprint,
            "warnings": list(self.warnings),
        }

    def close(self) -> None:
        """Give the file back; calling it again does nothing."""
        if self._release.alive:
            self._planes.drop()
            self._release()

    def __enter__(self) -> Slide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Slide({self.name!r}, {self.width_px0} × {self.height_px0}, {len(self.levels)} levels, {self.reader})"
