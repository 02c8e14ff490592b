"""What a prediction needs before its first batch: slide and tuning opened, the model, its number format."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathotune.device import Precision, choose_precision
from pathotune.inference.batches import Run
from pathotune.inference.plan import Grid
from pathotune.inference.predictions import PredictionStore
from pathotune.inference.tilemodel import Kept, reliability_of
from pathotune.inference.work import Work
from pathotune.tiles.reader import TileReader
from pathotune.tiles.tileset import TileSet

if TYPE_CHECKING:
    import torch

    from pathotune.backbones.surface import Backbone
    from pathotune.methods.checkpoint import Tuning
    from pathotune.slides.slide import Slide

_PROBE_TILES = 8


def opened(slide: Slide | str | Path, tuning: Tuning | str | Path, stack: contextlib.ExitStack) -> tuple[Slide, Tuning]:
    """Slide and tuning as objects; a slide opened here is closed with the stack."""
    if isinstance(tuning, str | Path):
        from pathotune.methods.checkpoint import Tuning as TuningFile

        tuning = TuningFile.load(Path(tuning))
    if isinstance(slide, str | Path):
        from pathotune.slides import open_slide

        slide = stack.enter_context(open_slide(slide, icc=tuning.reading.icc))
    return slide, tuning


def load_model(tuning: Tuning, backbone: Backbone | None, device: str) -> tuple[Any, Backbone]:
    """The tuned model and its backbone, both on the device."""
    from pathotune.methods import build_model

    if backbone is None:
        from pathotune.backbones import load_backbone
        from pathotune.methods.fitting import backbone_to_load

        backbone = load_backbone(backbone_to_load(tuning))
    backbone.to(device)
    return build_model(tuning, backbone), backbone


def work_of(
    slide: Slide, tuning: Tuning, backbone: Backbone, tiles: TileSet, sources: tuple[str, ...], precision: str
) -> Work:
    """What is to be predicted, as a store has to agree with it."""
    mpp = slide.require_mpp()
    return Work(
        grid=Grid.from_tiles(tiles, (mpp.x, mpp.y), _patches(backbone, tuning) if sources else (0, 0)),
        classes=tuple(tuning.class_names),
        sources=sources,
        slide=slide.fingerprint,
        tuning=tuning.fingerprint,
        backbone=backbone.weights_sha256,
        reading=tuning.reading.to_dict(),
        precision=None if precision == "auto" else precision,
    )


def _patches(backbone: Backbone, tuning: Tuning) -> tuple[int, int]:
    """Patch rows and columns of one tile."""
    side, patch = tuning.reading.image_px, backbone.card.patch_size
    if patch and side != backbone.card.image_size:
        return side // patch, side // patch
    return backbone.grid


def probe_tiles(run: Run, reader: TileReader, count: int = _PROBE_TILES) -> torch.Tensor:
    """(n, h, w, 3) uint8: some of the tiles that will be predicted, from all over the slide."""
    import torch

    picked = run.tiles.take(run.order[:: max(1, len(run.order) // count)][:count])
    return torch.from_numpy(reader.read_at(picked.x_px0, picked.y_px0))


def pick_precision(
    run: Run, store: PredictionStore | None, reader: TileReader, model: Any, backbone: Backbone, wanted: str
) -> Precision:
    """The number format of the whole job: that of the store that is resumed, or what a probe of real tiles says."""
    if wanted == "auto" and store is not None:
        return Precision(store.attrs["identity"].get("precision", "float32"), reason="the store was begun with it.")
    if wanted == "auto" and run.deterministic:
        return Precision("float32", reason="for byte-equal results.")

    def forward(images: torch.Tensor) -> torch.Tensor:
        probabilities: torch.Tensor = model(backbone.normalise(images)).logits.float().softmax(dim=1)
        return probabilities

    return choose_precision(
        forward, probe_tiles(run, reader), run.device, wanted, backbone.card.tolerance, what=backbone.speed_name
    )


def kept_of(
    run: Run,
    store: PredictionStore | None,
    reader: TileReader,
    model: Any,
    backbone: Backbone,
    sources: tuple[str, ...],
    reliability: bool,
    features: bool,
) -> Kept:
    """What is kept of each tile: what the store was begun with, or what is wanted of a new one."""
    if store is not None:
        return Kept(tuple(store.sources), tuple(store.reliability_names), int(store.attrs.get("features", 0)))
    width = 0
    if features:
        import torch

        with torch.inference_mode():
            tile = probe_tiles(run, reader, 1).to(run.device)
            width = int(model(backbone.normalise(tile)).features.shape[1])
    return Kept(sources, reliability_of(run.tuning) if reliability else (), width)


@contextlib.contextmanager
def determinism(wanted: bool) -> Iterator[None]:
    """Inside, only kernels that give the same bytes every time, where that is wanted."""
    import torch

    before = torch.are_deterministic_algorithms_enabled()
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        if wanted:
            torch.use_deterministic_algorithms(before)
