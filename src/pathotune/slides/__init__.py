"""Whole-slide images: open one, whatever wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pathotune.errors import FileMissing, SlideUnreadable
from pathotune.registry import Entry, Table
from pathotune.slides import mpp as pixel_size
from pathotune.slides.mpp import Mpp
from pathotune.slides.slide import Slide
from pathotune.slides.source import Declined, Level

if TYPE_CHECKING:
    from pathotune.slides.source import Source

__all__ = ["READERS", "Level", "Mpp", "Slide", "open_slide"]

# Asked in this order. Each target opens a path, or raises `Declined` with the reason.
READERS = Table(
    "slide reader",
    (
        Entry("tiffslide", "pathotune.slides.tiff:TiffSource", "TIFF slides: SVS, NDPI, Philips, OME-TIFF, generic"),
        Entry("openslide", "pathotune.slides.openslide:OpenSlideSource", "DICOM, MRXS, VMS, SCN, BIF and others"),
        Entry("omezarr", "pathotune.slides.omezarr:OmeZarrSource", "OME-Zarr 0.4 and 0.5 folders"),
        Entry("image", "pathotune.slides.image:ImageSource", "PNG, JPEG and BMP pictures"),
    ),
)


def open_slide(
    path: str | Path,
    *,
    mpp: float | tuple[float, float] | None = None,
    reader: str | None = None,
    icc: bool = False,
) -> Slide:
    """Open a slide; reads headers only.

    Parameters
    ----------
    path : a slide file, or a folder that is one (DICOM series, OME-Zarr).
    mpp : its pixel size in µm (or for x and y), stated by a person; remembered for this slide.
    reader : a name in `READERS`; else each is asked in turn.
    icc : convert colours to sRGB by the embedded profile, where there is one.

    Raises
    ------
    FileMissing : if there is nothing at `path`.
    SlideUnreadable : if no reader takes it, with the reason of each.
    UsageError : for an implausible `mpp`.
    UnknownName : for an unknown `reader`.
    """
    stated = pixel_size.stated(mpp) if mpp is not None else None
    path = Path(path).expanduser()
    if path.name in ("", ".."):
        path = path.resolve()
    names = [READERS[reader].name] if reader else list(READERS)
    if not path.exists():
        raise FileMissing(path, "slide")
    source = _first_that_opens(path, names)
    try:
        identity = source.fingerprint()
        size, warnings = _pixel_size(source, identity, stated)
        return Slide(source, size, identity, icc=icc, warnings=tuple(warnings))
    except BaseException:
        source.close()
        raise


def _first_that_opens(path: Path, names: list[str]) -> Source:
    tried = []
    advice = ""
    for name in names:
        try:
            source: Source = READERS.load(name)(path)
            return source
        except Declined as declined:
            tried.append((name, declined.reason))
            advice = advice or declined.advice
            if declined.final:
                break
        except PermissionError:
            tried.append((name, "the file may not be read"))
            advice = "Ask for the permission to read it, or copy it to a place of your own."
            break
        except Exception as error:  # whatever a library meets in a damaged file is a reason to decline
            tried.append((name, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"))
    raise SlideUnreadable(path, tried, advice)


def _pixel_size(source: Source, identity: str, stated: Mpp | None) -> tuple[Mpp | None, list[str]]:
    found, warnings = pixel_size.decide(source.facts.mpp_hints)
    if stated:
        if not pixel_size.remember(identity, stated):
            warnings.append("The stated pixel size could not be remembered: the cache folder cannot be written.")
        return stated, warnings
    earlier = pixel_size.remembered(identity)
    if earlier and found and abs(earlier.x / found.x - 1) > 0.02:
        warnings.append(
            f"{earlier.x:g} µm per pixel was stated for this slide earlier; its {found.source} says {found.x:g} µm, "
            "which is used. State the pixel size again to override it."
        )
    return found or earlier, warnings
