"""The slides of a run on one page: a thumbnail of each with its predicted classes, and what became of the others."""

from __future__ import annotations

import contextlib
import hashlib
import html
import os
import string
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathotune.errors import OutputRefused
from pathotune.inference.export import blended_picture
from pathotune.inference.skeleton import rgb

if TYPE_CHECKING:
    from pathotune.inference.predictions import PredictionStore
    from pathotune.slides.slide import Slide

THUMBNAIL_PX = 320
FOLDER = "slides-pictures"
PAGE = string.Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>$title</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem; color: #1b1b1b; background: #fff }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse } td, th { padding: .25rem .8rem .25rem 0; text-align: left; vertical-align: top }
.slides { display: grid; grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); gap: 1rem }
figure { margin: 0; border: 1px solid #ccc; padding: .5rem }
figure img { width: 100%; height: 200px; object-fit: contain }
figcaption { overflow-wrap: anywhere; font-size: .9rem } small { color: #555 }
.key i { display: inline-block; width: .9em; height: .9em; margin: 0 .3em 0 1em; border: 1px solid #444 }
</style></head><body>
<h1>$title</h1><p>$counts</p><p class="key">$key</p>
$missing
<h2>Predicted</h2><div class="slides">
$done
</div><p><small>Research use only.</small></p></body></html>
""")
SLIDE = "<figure>{picture}<figcaption><b>{name}</b><br>{areas}<br><small>{facts}</small></figcaption></figure>"
ROW = "<tr><td>{}</td><td>{}</td><td>{}</td></tr>"


def picture_path(out: Path, key: str) -> Path:
    """Where the thumbnail of a slide lies; its name says nothing of the slide's."""
    return out / FOLDER / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.jpg"


def write_picture(store: PredictionStore, slide: Slide, path: Path) -> None:
    """The slide from far away with its classes over it, as JPEG.

    Raises
    ------
    OutputRefused : it cannot be written.
    """
    picture = blended_picture(store, slide, THUMBNAIL_PX)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(exist_ok=True)
        picture.save(temporary, format="JPEG", quality=85)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OutputRefused(f"{path} cannot be written ({error.strerror or error}).") from error


def write_contact_sheet(
    rows: Mapping[str, Mapping[str, Any]], classes: Sequence[Mapping[str, Any]], title: str, path: Path
) -> Path:
    """Write the page; what failed and why comes first.

    Parameters
    ----------
    rows : store path below the results folder → document of `pathotune predict`, one of every slide.
    classes : name and color of each class.
    title : of the page.
    path : the page; pictures are looked for in the folder beside it.

    Raises
    ------
    OutputRefused : it cannot be written.
    """
    predicted = {key: row for key, row in rows.items() if row["status"] in ("done", "resumed")}
    others = [row for key, row in rows.items() if key not in predicted]
    named = dict.fromkeys(("done", "resumed", "empty", "failed", "needs_mpp", "cancelled", "waiting"), 0)
    for row in rows.values():
        named[row["status"]] = named.get(row["status"], 0) + 1
    counts = ", ".join(f"{count} {name}" for name, count in named.items() if count)
    key = "".join(f'<i style="background: rgb{rgb(entry)}"></i>{html.escape(str(entry["name"]))}' for entry in classes)
    missing = ""
    if others:
        lines = "".join(ROW.format(*map(html.escape, _reason(row))) for row in others)
        missing = f"<h2>Not predicted</h2><table><tr><th>slide</th><th>state</th><th>why</th></tr>{lines}</table>"
    page = PAGE.substitute(
        title=html.escape(title),
        counts=f"{len(rows)} slides: {counts}.",
        key=key,
        missing=missing,
        done="\n".join(_figure(path.parent, key, row) for key, row in predicted.items()),
    )
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise OutputRefused(f"{path} cannot be written ({error.strerror or error}). Choose another --out.") from error
    return path


def _reason(row: Mapping[str, Any]) -> tuple[str, str, str]:
    empty = "no tissue was found where you asked" if row["status"] == "empty" else ""
    return str(row["slide"]), str(row["status"]), str(row.get("error") or empty)


def _figure(out: Path, key: str, row: Mapping[str, Any]) -> str:
    file = picture_path(out, key)
    picture = ""
    if file.exists():
        picture = f'<img loading="lazy" src="{FOLDER}/{file.name}" alt="">'
    areas = ", ".join(f"{html.escape(name)} {area:.3g} mm²" for name, area in (row.get("classes") or {}).items())
    of = f" for {html.escape(str(row['score_of']))}" if row.get("score_of") else ""
    score = f", score {row['score']:.3g}{of}" if isinstance(row.get("score"), int | float) else ""
    return SLIDE.format(
        picture=picture,
        name=html.escape(Path(str(row["slide"])).name),
        areas=areas,
        facts=f"{row['tiles']} tiles{score}",
    )
