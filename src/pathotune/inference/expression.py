"""Expression of genes predicted on a slide, from the image alone, into its prediction store."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathotune.backbones.licences import stated
from pathotune.device import peak_memory_mb, pick_device
from pathotune.errors import OutputRefused, TuningMismatch
from pathotune.events import Event, Finished, Note, Step, up_to_the_end
from pathotune.features import FeatureSet
from pathotune.inference.expression_layer import NAME, UNITS, ExpressionLayer, write_expression
from pathotune.inference.leases import leased
from pathotune.inference.locations import read_attributes, set_aside
from pathotune.inference.predictions import PredictionStore, store_path
from pathotune.inference.provenance import device_name, now, tuning_called, versions
from pathotune.inference.pyramids import write_pyramid
from pathotune.inference.slide_score import grid_of, slide_features
from pathotune.inference.work import OnMismatch, Place, Work, drop_replaced, find_place
from pathotune.methods.fitting import check_slide

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.datasets.cohort import CohortInputs
    from pathotune.methods.checkpoint import Tuning
    from pathotune.slides.slide import Slide

# The store's one class: where genes are predicted at all.
TISSUE = {"name": "Tissue", "color": [150, 150, 150]}
BATCH = 1024


def predict_slide(
    slide: Slide | str | Path,
    tuning: Tuning,
    out: str | Path,
    *,
    backbone: Backbone | None = None,
    inputs: CohortInputs | None = None,
    cancel: Callable[[], bool] | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    resume: bool = True,
    on_mismatch: OnMismatch = "refuse",
) -> Iterator[Event]:
    """Predict every gene of a tuning on every tissue tile of a slide.

    The store holds `expression/` (gene, y, x) beside the usual arrays, whose one class says where tissue is. Values are
    on the scale of the training table (attribute `expression`: unit). With a tuning of whole patients a tile's value is
    what the patient would have if all tiles were like it, and `slide_expression` is the slide's own.

    Parameters
    ----------
    inputs : says where features are; without a folder they are extracted into NAME.features under `out`.
    backbone : the tuning's, where it is loaded already.
    device, precision, batch_size, resume, on_mismatch, cancel : as in `inference.predict.predict_slide`.

    Yields
    ------
    Note, Step, and Finished with the contract's document of one slide, and `genes`, how many are predicted.

    Raises
    ------
    TuningMismatch : the tuning predicts no genes.
    FeaturesMismatch : features of another backbone or slide.
    """
    started = time.monotonic()
    if tuning.genes is None:
        raise TuningMismatch(f"The tuning {tuning.name} was made without expression, so it predicts no genes.")
    with contextlib.ExitStack() as stack:
        if isinstance(slide, str | Path):
            from pathotune.slides import open_slide

            mpp = None if inputs is None else (inputs.cohort.slide_mpp(0) or inputs.slide_mpp)
            slide = stack.enter_context(open_slide(slide, mpp=mpp, icc=tuning.reading.icc))
        check_slide(tuning, slide)
        options = {"device": device, "precision": precision, "batch_size": batch_size, "cancel": cancel}
        folder = None if inputs is None else inputs.features
        found = yield from _features(slide, tuning, folder, Path(out) / f"{tuning.name}.features", backbone, options)
        if found is None or not len(found):
            status = "cancelled" if cancel is not None and cancel() else "empty"
            yield Finished(_result(slide, None, status, started, 0, {}))
            return
        yield from _predicted(stack, slide, tuning, found, Path(out), device, resume, on_mismatch, started)


def _predicted(
    stack: contextlib.ExitStack,
    slide: Slide,
    tuning: Tuning,
    found: FeatureSet,
    out: Path,
    device: str,
    resume: bool,
    on_mismatch: OnMismatch,
    started: float,
) -> Iterator[Event]:
    """The store, found or made, from the features of its tiles."""
    genes = tuning.genes or {}
    grid, row, column = grid_of(found, slide)
    work = Work(
        grid=grid,
        classes=(TISSUE["name"],),  # type: ignore[arg-type]
        sources=(),
        slide=slide.fingerprint,
        tuning=tuning.fingerprint,
        backbone=str(tuning.backbone.get("sha256") or ""),
        reading=tuning.reading.to_dict(),
        precision="float32",
    )
    target = store_path(slide.alias or slide.path, tuning.name, out)
    stack.enter_context(leased(target))
    place = find_place(target, work, resume=resume, on_mismatch=on_mismatch)
    store, status = place.store, "resumed"
    facts: dict[str, Any] = {"genes": len(genes["names"])}
    if store is None or not store.is_complete or ExpressionLayer.of(store) is None:
        yield Step("expression", 0, len(found))
        values, whole = expression_of(tuning, found, pick_device(device))
        store, status = _stored(place, work, slide, tuning, values, row, column, device), "done"
        if whole is not None:
            names = genes["names"]
            store.attrs["slide_expression"] = dict(zip(names, np.round(whole, 5).tolist(), strict=True))
        yield Step("expression", len(found), len(found))
    store.finish("complete", seconds=round(time.monotonic() - started, 3), finished=now())
    for text in drop_replaced(store):
        yield Note(text)
    facts["classes"] = {TISSUE["name"]: round(sum(store.summary().values()), 6)}
    yield Finished(_result(slide, store.path, status, started, len(found), facts))


def _features(
    slide: Slide, tuning: Tuning, given: Path | None, folder: Path, backbone: Backbone | None, options: dict[str, Any]
) -> Generator[Event, None, FeatureSet | None]:
    """Features of the tuning's own backbone: the plain one's, or of a copy whose weights the tuning changed."""
    if not any(name.startswith("encoder.") for name in tuning.trained):
        return (yield from slide_features(slide, tuning, given, folder, backbone, options))
    from pathotune.backbones import load_backbone
    from pathotune.backbones.weights import content_sha256
    from pathotune.inference.extracting import extract
    from pathotune.methods import check_backbone
    from pathotune.methods.transcriptomics.method import tuned_backbone

    loaded = backbone if backbone is not None else load_backbone(str(tuning.backbone["name"]))
    check_backbone(tuning, loaded)
    network = tuned_backbone(tuning, loaded)
    network.weights_sha256 = content_sha256(network)
    result = yield from up_to_the_end(extract(slide, network, folder, **options))
    return FeatureSet.load(result["out"]) if result.get("out") else None


def expression_of(
    tuning: Tuning, features: FeatureSet, device: str = "cpu"
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """(n, genes) of every tile on the table's scale, and (genes,) of the whole slide with a tuning of patients."""
    import torch

    from pathotune.methods.transcriptomics.method import restored

    model, scaler = restored(tuning, device)
    if scaler is None:
        raise TuningMismatch(f"The tuning {tuning.name} predicts no genes.")
    parts = []
    with torch.inference_mode():
        for start in range(0, len(features), BATCH):
            tiles = torch.from_numpy(features.features[start : start + BATCH]).to(device)
            parts.append(scaler.undo(model.of_tiles(tiles).float().cpu().numpy()))
        whole = None
        if model.pools:
            everything = torch.from_numpy(features.features).to(device)
            whole = scaler.undo(model.pooled_genes([everything])[0].float().cpu().numpy())
    return np.concatenate(parts), whole


def _stored(
    place: Place,
    work: Work,
    slide: Slide,
    tuning: Tuning,
    values: NDArray[np.float32],
    row: NDArray[np.intp],
    column: NDArray[np.intp],
    device: str,
) -> PredictionStore:
    """The values in a store, new or begun."""
    from pathotune.inference.cells import UnitValues

    store = place.store
    if store is None:
        aside = set_aside(place.path) if place.is_taken else None
        replaced = [] if aside is None else [{"name": aside.name, "created": read_attributes(aside).get("created")}]
        try:
            store = PredictionStore.create(
                place.path,
                grid=work.grid,
                classes=[TISSUE],
                identity=work.identity(),
                facts=_facts(slide, tuning, pick_device(device)) | {"replaces": replaced},
            )
        except OutputRefused:
            if aside is not None:
                aside.rename(place.path)
            raise
    write_expression(store, values, row, column, layer_facts(tuning))
    unit_of = work.grid.unit_of(row.astype(np.int32), column.astype(np.int32))
    for index in np.unique(unit_of).tolist():
        unit = work.grid.unit(index)
        members = np.flatnonzero(unit_of == index)
        there = np.zeros((1, unit.rows, unit.columns), np.float32)
        there[0, row[members] - unit.row, column[members] - unit.column] = 1
        store.write_unit(unit, there, state="done", tiles=len(members), planned=len(members))
        write_pyramid(store, unit, UnitValues(there))
    return store


def layer_facts(tuning: Tuning) -> dict[str, Any]:
    """What a store says of the genes a tuning predicts."""
    genes = tuning.genes or {}
    unit = UNITS[genes.get("scale", "log")].format(total=float(genes.get("total", 1.0)))
    return {
        "genes": list(genes["names"]),
        "r": list(genes.get("r") or [None] * len(genes["names"])),
        "r_of": str(genes.get("r_of", "")),
        "r_samples": int(genes.get("r_samples", 0)),
        "unit": unit,
        "scale": genes.get("scale", "log"),
        "total": float(genes.get("total", 1.0)),
        "pathways": genes.get("pathways") or {},
        "pathways_r": list(genes.get("pathways_r") or ()),
        "mean": tuning.tensors["genes.mean"].tolist(),
        "sd": tuning.tensors["genes.sd"].tolist(),
        "level": tuning.task.get("level"),
    }


def _facts(slide: Slide, tuning: Tuning, device: str) -> dict[str, Any]:
    mpp = slide.require_mpp()
    return {
        "level": NAME,
        "slide": {
            "name": slide.alias or slide.name,
            "width_px0": slide.width_px0,
            "height_px0": slide.height_px0,
            "origin_px0": list(slide.bounds_px0[:2]),
            "mpp": [mpp.x, mpp.y],
            "mpp_source": mpp.source,
        },
        "tuning": {"name": tuning.name, "method": tuning.method},
        "backbone": {
            "name": tuning.backbone["name"],
            "source": tuning.backbone.get("source"),
            **stated(tuning.backbone),
        },
        "job": {
            "command": "predict",
            "arguments": {"slide": slide.alias or str(slide.path), "tuning": tuning_called(tuning, slide.alias)},
        },
        "device": device,
        "device_name": device_name(device),
        "versions": versions(),
        "created": now(),
    }


def _result(
    slide: Slide, store: Path | None, status: str, started: float, tiles: int, facts: dict[str, Any]
) -> dict[str, Any]:
    seconds = time.monotonic() - started
    return {
        "slide": slide.alias or str(slide.path),
        "store": None if store is None else str(store),
        "tiles": tiles,
        "classes": {},
        "score": None,
        "seconds": round(seconds, 3),
        "tiles_per_second": round(tiles / max(seconds, 1e-9), 3),
        "model_busy": None,
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "status": status,
        "error": None,
        **facts,
    }
