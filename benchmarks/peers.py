"""Features of a slide's tissue tiles by pathotune, LazySlide and TIAToolbox: tiles per second, in turns.

    python benchmarks/peers.py --peers PYTHON

PYTHON is the interpreter of an environment in which `pip install lazyslide tiatoolbox` was done; they need other
versions of shared libraries than pathotune. All three run the same network (ViT-S/16 of random weights, from timm) on
the same generated slide, 224-pixel tiles at 0.5 µm per pixel, each in a process of its own and as it comes: its own
number format, batch size, reading and writing. What is timed is the extraction alone, from the opened slide with its
tiles laid to the features on disk (or in the table the tool keeps), after one pass over a small slide; imports and the
tissue search are not. Ratios are medians of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

OURS = """
import json, sys, time
from pathlib import Path
from pathotune.backbones import load_backbone
from pathotune.events import result_of
from pathotune.inference.allocator import keep_memory
from pathotune.inference.extracting import extract
from pathotune.slides import open_slide
keep_memory()
backbone = load_backbone("vit-small-in21k-ft-in1k", random_seed=0)
warm, slide, out = map(Path, sys.argv[1:4])
options = {"precision": sys.argv[4]} if len(sys.argv) > 4 else {}
result_of(extract(warm, backbone, out / "warm", **options))
with open_slide(slide) as opened:
    started = time.perf_counter()
    done = result_of(extract(opened, backbone, out, resume=False, **options))
    seconds = time.perf_counter() - started
print(json.dumps({"tiles": done["tiles"], "seconds": seconds}))
"""

LAZYSLIDE = """
import json, sys, time
import timm, torch
import lazyslide as zs
from wsidata import open_wsi
model = timm.create_model("vit_small_patch16_224", num_classes=0).eval()
def extract(path):
    wsi = open_wsi(path, store=None)
    zs.pp.find_tissues(wsi)
    zs.pp.tile_tissues(wsi, 224, mpp=0.5)
    tiles = len(wsi.shapes["tiles"])
    started = time.perf_counter()
    zs.tl.feature_extraction(wsi, model=model, model_name="vit", device="cpu", pbar=False)
    return {"tiles": tiles, "seconds": time.perf_counter() - started}
extract(sys.argv[1])
print(json.dumps(extract(sys.argv[2])))
"""

TIATOOLBOX = """
import json, sys, time
from pathlib import Path
import numpy as np, timm, torch, zarr
from tiatoolbox.models.engine.deep_feature_extractor import DeepFeatureExtractor
from tiatoolbox.models.engine.io_config import IOPatchPredictorConfig
from tiatoolbox.models.models_abc import ModelABC
class Network(ModelABC):
    def __init__(self):
        super().__init__()
        self.network = timm.create_model("vit_small_patch16_224", num_classes=0)
    def forward(self, images):
        return self.network(images)
    @staticmethod
    def infer_batch(model, batch, *, device):
        images = batch.to(device).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            return [model.eval()(images).cpu().numpy()]
units = {"units": "mpp", "resolution": 0.5}
config = IOPatchPredictorConfig(input_resolutions=[units], output_resolutions=[units], patch_input_shape=(224, 224),
                                stride_shape=(224, 224))
def extract(path, out):
    engine = DeepFeatureExtractor(model=Network(), device="cpu", verbose=False)
    started = time.perf_counter()
    found = engine.run([Path(path)], ioconfig=config, patch_mode=False, save_dir=Path(out), output_type="zarr",
                       auto_get_mask=True, overwrite=True)
    seconds = time.perf_counter() - started
    store = zarr.open(next(iter(found.values())), mode="r")
    count = len(store["coordinates"])
    return {"tiles": int(count), "seconds": seconds}
extract(sys.argv[1], sys.argv[3] + "/warm")
print(json.dumps(extract(sys.argv[2], sys.argv[3] + "/run")))
"""


def measured(python: str, script: str, *arguments: str) -> dict[str, float]:
    """Run a script in a process of its own; what it prints last."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    if python != sys.executable:
        environment.pop("PYTHONPATH", None)
    done = subprocess.run([python, "-c", script, *arguments], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"It did not run:\n{done.stderr[-3000:]}")
    row: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return row


def main() -> None:
    """Take turns and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", required=True, help="the Python that has lazyslide and tiatoolbox")
    parser.add_argument("--side", type=int, default=5600, help="of the slide in pixels of 0.5 µm")
    parser.add_argument("--rounds", type=int, default=3)
    wanted = parser.parse_args()
    from pathotune.slides.synthetic import SyntheticSlide

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = {"warm": 900, "slide": wanted.side}
        warm, slide = (
            str(SyntheticSlide(side, side, mpp=0.5, seed=1, margin=0.0, pen=False).write(folder / f"{called}.tiff"))
            for called, side in sizes.items()
        )
        turns = {
            "pathotune": (sys.executable, OURS, warm, slide, str(folder / "ours")),
            "pathotune, float32": (sys.executable, OURS, warm, slide, str(folder / "ours32"), "float32"),
            "LazySlide": (wanted.peers, LAZYSLIDE, warm, slide, str(folder / "lazyslide")),
            "TIAToolbox": (wanted.peers, TIATOOLBOX, warm, slide, str(folder / "tiatoolbox")),
        }
        rounds: list[dict[str, float]] = []
        for number in range(wanted.rounds):
            order = [*turns][number % len(turns) :] + [*turns][: number % len(turns)]
            found = {called: measured(*turns[called]) for called in order}
            rounds.append({called: row["tiles"] / row["seconds"] for called, row in found.items()})
            print({called: (row["tiles"], round(row["seconds"], 1)) for called, row in found.items()}, flush=True)
    print("| tool | tiles/s | pathotune is so many times faster |")
    print("|---|---|---|")
    for called in turns:
        rate = statistics.median(one[called] for one in rounds)
        times = statistics.median(one["pathotune"] / one[called] for one in rounds)
        print(f"| {called} | {rate:.1f} | {times:.1f} |")


if __name__ == "__main__":
    main()
