"""Where a prediction comes from: what its store says of slide, tuning, backbone, device and versions."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathotune.device import Precision
from pathotune.inference.plan import Grid
from pathotune.inference.predictions import PredictionStore

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone
    from pathotune.methods.checkpoint import Tuning
    from pathotune.slides.slide import Slide


def begin_store(
    path: Path,
    slide: Slide,
    tuning: Tuning,
    backbone: Backbone,
    grid: Grid,
    sources: tuple[str, ...],
    precision: Precision,
    device: str,
    arguments: Mapping[str, Any],
) -> PredictionStore:
    """The store to go on with, or a new one.

    Raises
    ------
    StoreMismatch : what is there was made from something else; the difference is named.
    OutputRefused : a new one cannot be written.
    """
    identity = {
        "slide": slide.fingerprint,
        "tuning": tuning.fingerprint,
        "backbone": backbone.weights_sha256,
        "reading": tuning.reading.to_dict(),
        "precision": precision.name,
    }
    job = {"command": "predict", "arguments": dict(arguments)}
    if path.exists():
        store = PredictionStore.open(path)
        store.check_same(grid=grid, classes=tuning.class_names, sources=sources, identity=identity)
        store.attrs.setdefault("earlier_jobs", []).append(store.attrs.get("job"))
        store.attrs["job"] = job
        return store
    mpp = slide.require_mpp()
    facts = {
        "slide": {
            "name": slide.name,
            "width_px0": slide.width_px0,
            "height_px0": slide.height_px0,
            "origin_px0": list(slide.bounds_px0[:2]),
            "mpp": [mpp.x, mpp.y],
            "mpp_source": mpp.source,
        },
        "tuning": {"name": tuning.name, "method": tuning.method},
        "backbone": {"name": backbone.card.name, "source": backbone.weights_source},
        "job": job,
        "device": device,
        "device_name": device_name(device),
        "precision_difference": precision.difference,
        "attention_unit": "share of the tile's attention times its number of patches",
        "versions": versions(),
        "created": now(),
    }
    return PredictionStore.create(
        path, grid=grid, classes=tuning.classes, sources=sources, identity=identity, facts=facts
    )


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
