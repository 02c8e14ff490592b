"""The demo's report: pictures of slide, truth, prediction and attention, and one HTML page around them."""

from __future__ import annotations

import html
import string
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pathotune.demo.run import DemoConfig
    from pathotune.slides.synthetic import SyntheticSlide

Pixels = NDArray[np.uint8]

PICTURE_PX = 1000
OVERLAY_STRENGTH = 0.55
CAPTIONS = {
    "slide": "The judged slide",
    "truth": "What it was drawn from (the truth)",
    "prediction": "Prediction, one value per tile",
    "attention": "Attention of the class token in the last block",
}
FIGURE = '<figure><img src="{0}.png" alt="{1}"><figcaption>{1}</figcaption></figure>'
SWATCH = '<span class="swatch"><i style="background:rgb{0}"></i>{1}</span>'
ROW = "<tr><td>{}</td><td>{}</td><td>{}</td></tr>"


def write_report(
    out: Path, config: DemoConfig, slide_path: Path, truth: SyntheticSlide, result: dict[str, Any]
) -> dict[str, str]:
    """Write the pictures and `report.html` into `out`; returns their paths by name."""
    from pathotune.inference.predictions import PredictionStore, rgb
    from pathotune.slides import open_slide

    store = PredictionStore.open(result["predicted"]["store"])
    with open_slide(slide_path) as slide:
        thumbnail = slide.thumbnail(PICTURE_PX)
        size_um = slide.width_px0 * slide.require_mpp().x, slide.height_px0 * slide.require_mpp().y
    legend = [(entry["name"], rgb(entry)) for entry in store.classes]
    colors = np.asarray([color for _, color in legend], dtype=np.uint8)
    labels = np.asarray(store.labels[:])
    pictures = {
        "slide": thumbnail,
        "truth": blend(thumbnail, _truth_picture(truth, thumbnail.shape[:2], tuple(store.class_names), colors)),
        "prediction": blend(
            thumbnail, paint(labels, thumbnail.shape[:2], size_um, store.placement_um("classes"), colors)
        ),
        "attention": _attention_picture(store, thumbnail, size_um),
    }
    paths = {}
    for name, picture in pictures.items():
        paths[f"{name}_png"] = str(_save(out / f"{name}.png", picture, size_um[0] / thumbnail.shape[1]))
    page = _page(config, legend, result)
    report = out / "report.html"
    report.write_text(page, encoding="utf-8")
    return {**paths, "report": str(report)}


Placement = tuple[tuple[float, float], tuple[float, float]]


def paint(
    labels: NDArray[np.integer],
    shape: tuple[int, ...],
    size_um: tuple[float, float],
    placement: Placement,
    colors: Pixels,
) -> NDArray[np.float64]:
    """Colour and opacity (h, w, 4) of a label grid (0 = nothing, else class + 1) at the size of a thumbnail.

    Parameters
    ----------
    size_um : width and height of the slide.
    placement : ((scale y, x), (centre of the first cell y, x)) of the grid in µm.
    """
    rows = _cells_under(shape[0], size_um[1], placement[0][0], placement[1][0])
    columns = _cells_under(shape[1], size_um[0], placement[0][1], placement[1][1])
    there = np.zeros((shape[0], shape[1]), dtype=np.int64)
    inside_y = (rows >= 0) & (rows < labels.shape[0])
    inside_x = (columns >= 0) & (columns < labels.shape[1])
    there[np.ix_(inside_y, inside_x)] = labels[np.ix_(rows[inside_y], columns[inside_x])]
    table = np.vstack([[[0, 0, 0, 0]], np.column_stack([colors, np.full(len(colors), 255)])])
    return np.asarray(table[there], dtype=np.float64)


def _cells_under(pixels: int, size_um: float, scale_um: float, first_um: float) -> NDArray[np.int64]:
    """Index of the grid cell under each pixel of a thumbnail along one axis."""
    place_um = (np.arange(pixels) + 0.5) * size_um / pixels
    return np.floor((place_um - first_um) / scale_um + 0.5).astype(np.int64)


def blend(picture: Pixels, overlay: NDArray[np.float64], strength: float = OVERLAY_STRENGTH) -> Pixels:
    """A picture (h, w, 3) with an overlay (h, w, 4) on it."""
    alpha = strength * overlay[..., 3:] / 255.0
    return np.asarray(picture * (1 - alpha) + overlay[..., :3] * alpha + 0.5, dtype=np.uint8)


def _truth_picture(
    truth: SyntheticSlide, shape: tuple[int, ...], names: tuple[str, ...], colors: Pixels
) -> NDArray[np.float64]:
    from pathotune.slides.synthetic import CLASSES

    x = (np.arange(shape[1]) + 0.5) * truth.width_px0 / shape[1]
    y = (np.arange(shape[0]) + 0.5) * truth.height_px0 / shape[0]
    found = truth.classes_at(x[None, :], y[:, None])
    table = np.zeros((len(CLASSES), 4))
    for index, tissue in enumerate(CLASSES):
        if tissue.name in names:
            table[index] = [*colors[names.index(tissue.name)], 255]
    return np.asarray(table[found], dtype=np.float64)


def _attention_picture(store: Any, thumbnail: Pixels, size_um: tuple[float, float]) -> Pixels:
    """Attention of the class token over the slide: bright where it looks, the tissue faint beneath."""
    if store.attention is None:
        return thumbnail
    values = np.asarray(store.attention[0], dtype=np.float64)
    known = values > 0
    low, high = np.percentile(values[known], (5, 99)) if known.any() else (0.0, 1.0)
    heat = np.clip((values - low) / max(high - low, 1e-9), 0, 1) * known
    (scale_y, scale_x), (first_y, first_x) = store.placement_um("attention")
    rows = _cells_under(thumbnail.shape[0], size_um[1], scale_y, first_y).clip(0, heat.shape[0] - 1)
    columns = _cells_under(thumbnail.shape[1], size_um[0], scale_x, first_x).clip(0, heat.shape[1] - 1)
    full = heat[np.ix_(rows, columns)]
    grey = thumbnail.mean(axis=2, keepdims=True) * 0.35
    warm = np.stack([full, full**2 * 0.75, full**6 * 0.4], axis=-1)
    return np.asarray(np.clip(grey + warm * 255, 0, 255), dtype=np.uint8)


def _save(path: Path, picture: Pixels, um_per_px: float) -> Path:
    """Save with a scale bar and the notice that belongs on every picture that leaves the program."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=14)
    # Millimetres, because the font that Pillow carries has no micro sign.
    length_um = next(um for um in (1000, 500, 200, 100, 50) if um / um_per_px < image.width / 3 or um == 50)
    length = round(length_um / um_per_px)
    bottom = image.height - 16
    draw.rectangle((12, bottom - 24, 24 + length, bottom + 8), fill=(255, 255, 255))
    draw.rectangle((18, bottom, 18 + length, bottom + 4), fill=(0, 0, 0))
    draw.text((18, bottom - 20), f"{length_um / 1000:g} mm", fill=(0, 0, 0), font=font)
    notice = "research use only"
    width = draw.textlength(notice, font=font)
    draw.rectangle((image.width - width - 16, bottom - 10, image.width - 4, bottom + 10), fill=(255, 255, 255))
    draw.text((image.width - width - 10, bottom - 8), notice, fill=(0, 0, 0), font=font)
    image.save(path)
    return path


def _page(config: DemoConfig, legend: list[tuple[str, Any]], result: dict[str, Any]) -> str:
    from pathotune.resources import resource

    ours, colour = result["evaluation"], result["evaluation_colour"]
    tuned, predicted = result["tuned"], result["predicted"]
    template = string.Template(resource("demo", "report.html").read_text(encoding="utf-8"))
    return template.substitute(
        method=html.escape(config.method),
        backbone=html.escape(config.backbone),
        tuned_tiles=sum(tuned["tiles_per_class"].values()),
        tune_stain=html.escape(config.tune_stain),
        judge_stain=html.escape(config.judge_stain),
        ours=f"{ours['balanced_accuracy']:.3f}",
        colour=f"{colour['balanced_accuracy']:.3f}",
        tiles=result["tiles_judged"],
        swatches=" ".join(SWATCH.format(tuple(int(v) for v in color), html.escape(name)) for name, color in legend),
        figures="\n".join(FIGURE.format(name, text) for name, text in CAPTIONS.items()),
        rows="\n".join(
            ROW.format(html.escape(name), _percent(ours, name), _percent(colour, name)) for name, _ in legend
        ),
        parameters=f"{tuned['trainable_parameters']:,}",
        tuning_seconds=f"{tuned['seconds']:.0f}",
        predicted_tiles=predicted["tiles"],
        prediction_seconds=f"{predicted['seconds']:.0f}",
    )


def _percent(report: dict[str, Any], name: str) -> str:
    recall = report["per_class"].get(name, {}).get("recall")
    return "–" if recall is None else f"{100 * recall:.0f} %"
