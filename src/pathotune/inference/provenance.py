"""Where a prediction comes from: what its store says of slide, tuning, backbone, device and versions."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from pathotune.backbones.licences import stated
from pathotune.device import Precision
from pathotune.errors import OutputRefused
from pathotune.inference.batches import Run
from pathotune.inference.locations import read_attributes, set_aside
from pathotune.inference.predictions import PredictionStore
from pathotune.inference.tilemodel import Kept
from pathotune.inference.work import Place, Work

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.methods.checkpoint import Tuning


def begin_store(
    place: Place,
    work: Work,
    run: Run,
    backbone: Backbone,
    kept: Kept,
    precision: Precision,
    part: Mapping[str, Any],
) -> PredictionStore:
    """The store to go on with, or a new one; what was in its place is moved aside, and back where that fails.

    `part` says what of the slide is predicted: stride_px, box_px0, polygon.

    Raises
    ------
    OutputRefused : a new one cannot be written.
    """
    arguments = {
        "slide": run.name or str(run.slide.path),
        "tuning": tuning_called(run.tuning, run.name),
        "batch_size": run.batch_size,
        "deterministic": run.deterministic,
        "stride_px": part["stride_px"],
        "box_px0": part["box_px0"],
        "polygon_px0": part["polygon"] and part["polygon"].wkt,
    }
    job = {"command": "predict", "arguments": arguments}
    if place.store is not None:
        attributes = place.store.attrs
        attributes.setdefault("earlier_jobs", []).append(attributes.get("job"))
        attributes["job"] = job
        return place.store
    aside = set_aside(place.path) if place.is_taken else None
    replaced = [] if aside is None else [{"name": aside.name, "created": read_attributes(aside).get("created")}]
    facts = {
        **_facts(run, backbone, precision),
        "job": job,
        "replaces": replaced,
    }
    try:
        return PredictionStore.create(
            place.path,
            grid=work.grid,
            classes=run.tuning.classes,
            sources=kept.sources,
            reliability=kept.reliability,
            features=kept.features,
            identity={**work.identity(), "precision": precision.name},
            facts=facts,
        )
    except OutputRefused:
        if aside is not None:
            aside.rename(place.path)
        raise


def _facts(run: Run, backbone: Backbone, precision: Precision) -> dict[str, Any]:
    slide, tuning = run.slide, run.tuning
    mpp = slide.require_mpp()
    return {
        "slide": {
            "name": run.name or slide.name,
            "width_px0": slide.width_px0,
            "height_px0": slide.height_px0,
            "origin_px0": list(slide.bounds_px0[:2]),
            "mpp": [mpp.x, mpp.y],
            "mpp_source": mpp.source,
            "reader": slide.reader,
            "icc": "converted to sRGB" if tuning.reading.icc else "as stored",
            "icc_profile": slide.icc_profile,
        },
        "tuning": {"name": tuning.name, "method": tuning.method},
        "backbone": {"name": backbone.card.name, "source": backbone.weights_source, **stated(tuning.backbone)},
        "device": run.device,
        "device_name": device_name(run.device),
        "precision_difference": precision.difference,
        "attention_unit": "share of the tile's attention times its number of patches",
        "versions": versions(),
        "created": now(),
    }


def provenance_of(store: PredictionStore) -> dict[str, Any]:
    """What an exported file says of where it comes from: what the store says, without the folders of this computer."""
    names = ("backbone", "device_name", "versions", "created")
    return {
        "store": store.path.name,
        "slide": {**store.attrs.get("slide", {}), "fingerprint": store.slide_fingerprint},
        "tuning": {**store.attrs.get("tuning", {}), "fingerprint": store.attrs.get("identity", {}).get("tuning")},
        **{name: store.attrs[name] for name in names if name in store.attrs},
        "use": "research use only, not for diagnosis",
    }


def tuning_called(tuning: Tuning, alias: str | None) -> str | None:
    """Where the tuning lies; its file's name alone where the slide has a pseudonym, for folders carry names, too."""
    if tuning.path is None:
        return None
    return tuning.path.name if alias else str(tuning.path)


def device_name(device: str) -> str:
    """What the device is called."""
    if device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name(device))
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {}
    for package in ("pathotune", "torch", "timm", "zarr", "tiffslide"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
