"""`pathotune info`: what a slide is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pathotune.cli.terminal import (
    JsonOption,
    QuietOption,
    SlideMppOption,
    VerboseOption,
    print_json,
    say,
    set_loudness,
)
from pathotune.errors import OutputRefused, PathotuneError, UsageError

if TYPE_CHECKING:
    from pathotune.slides.slide import Slide

THUMBNAIL_PX = 1024


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("info", epilog="Example: pathotune info slide.svs --thumbnail slide.png")(info)


def info(
    slides: Annotated[list[Path], typer.Argument(metavar="SLIDE…", help="Slide files, or folders that are slides.")],
    thumbnail: Annotated[
        Path | None,
        typer.Option("--thumbnail", help="Write a small picture of the slide here (PNG; of several: a folder)."),
    ] = None,
    slide_mpp: SlideMppOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Show what a slide is: size, levels, pixel size and where it comes from, tissue, fingerprint."""
    set_loudness(verbose, quiet)
    several = len(slides) > 1
    if several and thumbnail and thumbnail.suffix:
        raise UsageError(f"{thumbnail} is one picture, but {len(slides)} slides were named; give a folder.")
    documents: list[dict[str, Any]] = []
    failed = 0
    for path in slides:
        try:
            document = _describe(path, slide_mpp, _thumbnail_path(thumbnail, path, several))
        except PathotuneError as error:
            if not several or isinstance(error, UsageError):
                raise
            failed += 1
            say(f"pathotune: {error}")
            documents.append({"path": str(path), "error": str(error)})
            continue
        documents.append(document)
        if not as_json and not quiet:
            _show(document)
    if as_json:
        print_json(documents if several else documents[0])
    if failed:
        raise typer.Exit(1 if failed == len(slides) else 3)


def _thumbnail_path(wanted: Path | None, slide: Path, several: bool) -> Path | None:
    return wanted / f"{slide.name}.png" if wanted and several else wanted


def _describe(path: Path, slide_mpp: float | None, thumbnail: Path | None) -> dict[str, Any]:
    from pathotune.slides import open_slide

    with open_slide(path, mpp=slide_mpp) as slide:
        document = slide.to_dict()
        document["tissue_fraction"], remarks = _tissue(slide)
        document["warnings"] += remarks
        if thumbnail:
            _write_thumbnail(slide, thumbnail)
    return document


def _tissue(slide: Slide) -> tuple[float, list[str]]:
    from pathotune.tiles.tissue import tissue_mask

    mask = tissue_mask(slide)
    empty = ["Almost no tissue was found on this slide."] if mask.is_almost_empty else []
    return round(float(mask.fraction), 5), empty


def _write_thumbnail(slide: Slide, path: Path) -> None:
    from PIL import Image

    pixels = slide.thumbnail(THUMBNAIL_PX)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, format="PNG")
    except OSError as error:
        raise OutputRefused(f"The picture {path} cannot be written ({error}); name another place.") from error


def _show(facts: dict[str, Any]) -> None:
    """Facts for people, on stderr."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(stderr=True)
    table = Table(title=escape(Path(facts["path"]).name), show_header=False, title_justify="left")
    for name, value in _rows(facts):
        table.add_row(name, escape(value))
    console.print(table)
    for warning in facts["warnings"]:
        console.print(f"• {warning}", style="yellow", highlight=False, markup=False)


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    size = f"{facts['width_px0']} × {facts['height_px0']} px"
    mpp = "not known (state it with --slide-mpp)"
    if facts["mpp_x"]:
        width, height = facts["width_px0"] * facts["mpp_x"] / 1000, facts["height_px0"] * facts["mpp_y"] / 1000
        size += f" = {width:.2f} × {height:.2f} mm"
        mpp = f"{facts['mpp_x']:.4g} × {facts['mpp_y']:.4g} µm ({facts['mpp_source']})"
    levels = [
        f"{level['width']} × {level['height']} (1/{level['downsample']:g}), tiles {level['tile_width']} × "
        f"{level['tile_height']} {level['compression']}"
        for level in facts["levels"]
    ]
    power = f"{facts['objective_power']:g}x" if facts["objective_power"] else "not stated"
    bounds = "x {}, y {}, {} × {} px".format(*facts["bounds_px0"])
    return [
        ("reader", f"{facts['reader']} ({facts['vendor']})"),
        ("size", size),
        ("pixel size", mpp),
        ("objective", power),
        ("levels", "\n".join(levels)),
        ("scanned part", bounds),
        ("other pictures", ", ".join(facts["associated_images"]) or "none"),
        ("colour profile", facts["icc_profile"] or "none"),
        ("tissue", f"{facts['tissue_fraction']:.1%} of the slide"),
        ("fingerprint", facts["fingerprint"]),
    ]
