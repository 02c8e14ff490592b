"""Cancer against immune spots on real breast tissue: tuned on section C2, judged on section C3 of the same patient.

    python benchmarks/her2st.py --data DIR [--seeds 5] [--out DIR]

DIR holds the her2st sections (Andersson et al. 2021, CC BY 4.0): `wsi/her2st_C2_breast_9274x9911.ome.tif`,
`st/her2st/images/C3.jpg` and the spots of both as GeoJSON under `annotations/`. The labels come from expression
clusters, not from a pathologist. Every method sees the same regions, the same split by region and the same seeds.
How the linear probe chooses its penalty was settled on C2 and C3 among others; independent figures are those of
method_tables.py, on C4.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from pathotune.events import result_of

C3_MPP = 0.669
CLASSES = ("cancer", "immune")
METHODS = ("linear_probe", "pathotune")


def make_slide(jpeg: Path, slide: Path) -> Path:
    """The section's picture as a tiled pyramid, without a pixel size, as its JPEG has none worth the name (72 dpi)."""
    import tifffile
    from PIL import Image

    if slide.exists():
        return slide
    slide.parent.mkdir(parents=True, exist_ok=True)
    Image.MAX_IMAGE_PIXELS = None
    picture = Image.open(jpeg).convert("RGB")
    partial = slide.with_suffix(".part")
    with tifffile.TiffWriter(partial) as tiff:
        for level in range(5):
            pixels = np.asarray(picture.reduce(2**level) if level else picture)
            tiff.write(
                pixels,
                tile=(256, 256),
                compression="jpeg",
                photometric="rgb",
                subfiletype=int(level > 0),
                metadata=None,
            )
    partial.replace(slide)
    return slide


def colour_alone(train: Any, test: Any, reading: Any, training: Any) -> float:
    """AUC of a logistic regression on colour statistics of the same tiles."""
    from sklearn.metrics import roc_auc_score

    from pathotune.evaluation.colour import colour_baseline
    from pathotune.training.examples import gather

    def drained(source: Any) -> Any:
        stream = gather([source], reading, training, None, CLASSES, None)
        while True:
            try:
                next(stream)
            except StopIteration as end:
                return end.value

    one, two = drained(train), drained(test)
    probabilities = colour_baseline(np.asarray(one.images), one.labels, np.asarray(two.images), 2)
    auc = float(roc_auc_score(two.labels, probabilities[:, 1]))
    one.close()
    two.close()
    return auc


def main() -> None:
    """Print the table and write it as JSON."""
    from pathotune.backbones import backbone_card
    from pathotune.evaluation.evaluate import evaluate
    from pathotune.methods.checkpoint import Tuning
    from pathotune.training.examples import TuneSource
    from pathotune.training.loop import tune
    from pathotune.training.schedule import TrainingConfig

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("out/her2st"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--backbone", default="pathotune-tiny")
    options = parser.parse_args()
    notes = options.data / "annotations"
    c3 = make_slide(options.data / "st/her2st/images/C3.jpg", options.out / "her2st_C3.tiff")
    train = TuneSource(options.data / "wsi/her2st_C2_breast_9274x9911.ome.tif", notes / "her2st_C2_spots.geojson")
    test = TuneSource(c3, notes / "her2st_C3_spots.geojson", slide_mpp=C3_MPP)
    colour = colour_alone(train, test, backbone_card(options.backbone).reading(), TrainingConfig())
    rows = []
    for method in METHODS:
        for seed in range(options.seeds):
            started = time.monotonic()
            out = options.out / f"{method}-{seed}.pathotune.safetensors"
            tuned = result_of(
                tune([train], method, None, options.backbone, TrainingConfig(seed=seed), None, out, class_names=CLASSES)
            )
            judged = result_of(evaluate(Tuning.load(tuned["out"]), [test]))
            rows.append(
                {
                    "method": method,
                    "seed": seed,
                    "n": judged["n"],
                    "auc": judged["auc"],
                    "balanced_accuracy": judged["balanced_accuracy"],
                    "val_auc_c2": tuned["val"]["auc"],
                    "trainable_parameters": tuned["trainable_parameters"],
                    "seconds": time.monotonic() - started,
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    print(f"\n{options.backbone}, tuned on C2, judged on {rows[0]['n']} spots of C3, {options.seeds} seeds")
    print("| method | AUC on C3: median (min to max) | balanced accuracy: median | trained numbers |")
    print("| --- | --- | --- | --- |")
    print(f"| colour statistics + logistic regression | {colour:.3f} | | |")
    for method in METHODS:
        own = [row for row in rows if row["method"] == method]
        aucs = [row["auc"] for row in own]
        accuracy = statistics.median(row["balanced_accuracy"] for row in own)
        spread = f"{statistics.median(aucs):.3f} ({min(aucs):.3f} to {max(aucs):.3f})"
        print(f"| {method} | {spread} | {accuracy:.3f} | {own[0]['trainable_parameters']:,} |")
    (options.out / "her2st.json").write_text(json.dumps({"colour_auc": colour, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
