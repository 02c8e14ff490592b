"""Takes the README's pictures of the real napari window: tunes on drawn regions, predicts, and saves what is seen.

On Linux without a screen: xvfb-run -a -s "-screen 0 1400x900x24" python docs/screenshots.py --data DIR
The pictures of the guide, on the generated slide, are taken by guide_pictures.py beside it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PICTURES = Path(__file__).resolve().parent / "pictures"
WINDOW_PX = (1400, 900)
# Outlines drawn by eye on CMU-1-Small-Region.svs, in its level-0 pixels.
SKIN = {
    "Epithelium": [
        [(1190, 800), (1330, 830), (1290, 1050), (1200, 1180), (1130, 1000)],
        [(1120, 1750), (1300, 1870), (1420, 1880), (1330, 2250), (1220, 2300), (1130, 2200), (1100, 1900)],
        [(700, 2560), (800, 2560), (780, 2740), (620, 2780), (640, 2640)],
        [(1640, 2520), (1780, 2400), (1740, 2600), (1640, 2800), (1570, 2750)],
    ],
    "Dermis": [
        [(900, 1420), (1010, 1420), (1000, 1600), (880, 1720)],
        [(900, 2250), (1080, 2250), (1120, 2600), (900, 2700), (830, 2500)],
        [(1500, 1900), (1780, 2000), (1760, 2250), (1500, 2450), (1420, 2300)],
        [(1250, 2550), (1540, 2500), (1520, 2800), (1280, 2850)],
    ],
    "Keratin": [
        [(1330, 1050), (1500, 960), (1590, 980), (1560, 1120), (1300, 1280), (1260, 1240)],
        [(1650, 1400), (1780, 1330), (1790, 1430), (1600, 1600), (1520, 1650)],
        [(1200, 1650), (1330, 1830), (1420, 1780), (1350, 1880), (1200, 1720)],
    ],
    "Background": [
        [(200, 1500), (600, 1500), (600, 1900), (200, 1900)],
        [(1900, 1500), (2150, 1500), (2150, 2000), (1900, 2000)],
        [(1240, 440), (1370, 440), (1370, 560), (1240, 560)],
    ],
}
COLORS = {"Epithelium": (90, 60, 200), "Dermis": (0, 160, 110), "Keratin": (230, 120, 0), "Background": (190, 190, 190)}
CURSOR_UM = {"cmu1": (980.0, 590.0), "camelyon16": (420.0, 380.0)}


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with wsi/ and annotations/")
    parser.add_argument("--out", type=Path, default=PICTURES)
    parser.add_argument("--method", default="pathotune", help="method to tune with")
    parser.add_argument("--backbone", default="pathotune-tiny")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--keep", type=Path, help="a folder for what is computed, so that it is there the next time")
    parser.add_argument("--only", default="", help="'genes' takes the picture of predicted genes alone")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    parent = None if options.keep is None else str(options.keep.resolve())
    with tempfile.TemporaryDirectory() as temporary:
        folder = parent or temporary
        # Nothing of the person's own: her results would show up as layers.
        os.environ["PATHOTUNE_RESULTS"] = str(Path(folder) / "results")
        os.environ["PATHOTUNE_CACHE"] = str(Path(folder) / "cache")
        os.environ["NAPARI_CONFIG"] = str(Path(folder) / "napari.yaml")
        genes(options, Path(folder))
        if options.only == "genes":
            return
        skin = Path(folder) / "skin.geojson"
        slide = options.data / "wsi" / "CMU-1-Small-Region.svs"
        write_outlines(slide, skin)
        take(slide, skin, "cmu1", options, tune_picture=True)
        lymph_node = options.data / "wsi" / "camelyon16_tumor001_mosaic.tiff"
        drawn = options.data / "annotations" / "camelyon16_tumor001_mosaic.geojson"
        take(lymph_node, drawn, "camelyon16", options)


def genes(options: Any, folder: Path) -> None:
    """Genes learned on two sections of HER2ST and predicted on the third, beside what was measured on its spots.

    The sections (Andersson et al. 2021, CC BY 4.0) are neighbours of one patient.
    """
    from pathotune.datasets.cohort import CohortInputs, read_cohort
    from pathotune.events import result_of
    from pathotune.inference.expression import predict_slide
    from pathotune.methods import load_config
    from pathotune.methods.checkpoint import Tuning
    from pathotune.training.schedule import TrainingConfig
    from pathotune.training.transcriptomics import tune as tune_genes

    data = (options.data / "st" / "her2st").resolve()
    slide = (options.data / "wsi" / "her2st_C2_breast_9274x9911.ome.tif").resolve()
    images = {"C3": (data / "images/C3.jpg", 0.669), "C4": (data / "images/C4.jpg", 0.690), "C2": (slide, 0.696)}
    lines = ["slide,split,mpp,spots,expression"]
    for name, (path, mpp) in images.items():
        measured = f"{data}/spots/{name}_selection.tsv,{data}/counts/{name}.tsv.gz"
        lines.append(f"{path},{'test' if name == 'C2' else ''},{mpp},{measured}")
    (folder / "sections.csv").write_text("\n".join(lines))
    pathways = options.data / "genesets" / "h.all.v7.0.symbols.gmt"
    inputs = CohortInputs(read_cohort(folder / "sections.csv"), pathways=pathways)
    config: Any = load_config("transcriptomics", {"genes": 1000})
    training = TrainingConfig(epochs=options.epochs)
    out = folder / "breast-genes.pathotune.safetensors"
    if not out.is_file():
        result_of(tune_genes(inputs, "transcriptomics", config, options.backbone, training, None, out))
    found = result_of(predict_slide(slide, Tuning.load(out), folder / "genes"))
    show_genes(options, slide, Path(found["store"]), data)


def show_genes(options: Any, slide: Path, store: Path, data: Path) -> None:
    """The best predicted gene with the measured spots over it, and the search for another one."""
    from napari_pathotune.window import open_window

    viewer, dock = open_window([slide, store], show=False)
    window = viewer.window._qt_window
    window.resize(*WINDOW_PX)
    window.show()
    run(20.0, lambda: not dock.genes.isHidden())
    run(2.0)
    viewer.reset_view()
    dock.genes.load_measured(data / "spots/C2_selection.tsv", data / "counts/C2.tsv.gz")
    point_at(viewer, dock, (4100.0, 4500.0))
    save(viewer, options.out / "window-genes.png")
    box = dock.genes.name
    box.lineEdit().setText("KRT")
    box.completer().setCompletionPrefix("KRT")
    box.completer().complete()
    run(1.0)
    corner = dock.genes.mapToGlobal(dock.genes.rect().topLeft())
    width, height = dock.genes.width(), dock.genes.height() + box.completer().popup().height()
    window.screen().grabWindow(0, corner.x(), corner.y(), width, height).save(str(options.out / "genes-search.png"))
    box.completer().popup().hide()
    viewer.close()
    run(0.5)


def write_outlines(slide_path: Path, path: Path) -> None:
    """The outlines above as GeoJSON."""
    import shapely

    from pathotune.regions import Regions, write_regions
    from pathotune.regions.region import Region
    from pathotune.slides import open_slide

    drawn = [Region(shapely.Polygon(xy), name, COLORS[name]) for name, outlines in SKIN.items() for xy in outlines]
    with open_slide(slide_path) as slide:
        write_regions(Regions(drawn), path, slide)


def take(slide: Path, regions: Path, name: str, options: Any, tune_picture: bool = False) -> None:
    """Open one slide, tune on its regions, predict it, and save the window."""
    from napari_pathotune.window import open_window

    viewer, dock = open_window([slide], show=False)
    window = viewer.window._qt_window
    window.resize(*WINDOW_PX)
    window.show()
    run(1.0)
    viewer.reset_view()
    dock.tune.regions.open_regions(regions)
    tune(dock, name, options)
    if tune_picture:
        save(viewer, options.out / "window-tune.png")
    dock.tune.go.click()
    wait(dock, f"tuning on {slide.name}")
    dock.tabs.setCurrentIndex(0)
    dock.predict.place.setCurrentIndex(dock.predict.place.findData("slide"))
    dock.predict.form["density"].value = "twice as dense"
    dock.predict.go.click()
    wait(dock, f"predicting {slide.name}")
    run(2.0, lambda: dock.session.result is not None)
    for layer in dock.session.drawing_layers():
        layer.visible = False
    point_at(viewer, dock, CURSOR_UM[name])
    save(viewer, options.out / f"window-{name}.png")
    viewer.close()
    run(0.5)


def tune(dock: Any, name: str, options: Any) -> None:
    """Fill in the Tune form."""
    dock.tabs.setCurrentIndex(1)
    dock.tune.backbone.setCurrentIndex(dock.tune.backbone.findData(options.backbone))
    dock.tune.method.setCurrentIndex(dock.tune.method.findData(options.method))
    dock.tune.training_form["epochs"].value = options.epochs
    dock.tune.name.setText(f"{name}-demo")
    # It is predicted below, twice as dense.
    dock.after_tuning.choice.setCurrentIndex(dock.after_tuning.choice.findData("nothing"))
    run(0.5)


def point_at(viewer: Any, dock: Any, position: tuple[float, float]) -> None:
    """Let the read-out show what lies at a place in micrometres (y, x), as if the mouse were there."""

    class At:
        pass

    event: Any = At()
    event.position = position
    for callback in viewer.mouse_move_callbacks:
        callback(viewer, event)


def wait(dock: Any, what: str, seconds: float = 1800.0) -> None:
    """Wait for the running job; ends the script where it failed."""
    start = time.perf_counter()
    run(seconds, lambda: not dock.session.job.is_active)
    job = dock.session.job
    print(f"{what}: {job.stage} after {time.perf_counter() - start:.0f} s {dock.progress.text.text()}", file=sys.stderr)
    if job.stage != "done":
        raise SystemExit(f"{what} ended as {job.stage}: {job.text}")
    run(2.0)


def save(viewer: Any, path: Path) -> None:
    """Save the window without napari's notifications."""
    run(1.0)
    from napari._qt.dialogs.qt_notification import NapariQtNotification

    for notice in viewer.window._qt_window.findChildren(NapariQtNotification):
        notice.close()
    run(0.5)
    viewer.screenshot(str(path), canvas_only=False)
    print(path, file=sys.stderr)


def run(seconds: float, until: Callable[[], bool] = lambda: False) -> None:
    """Let the window's loop run."""
    from qtpy.QtWidgets import QApplication

    end = time.perf_counter() + seconds
    while time.perf_counter() < end and not until():
        QApplication.processEvents()
        time.sleep(0.01)


if __name__ == "__main__":
    main()
