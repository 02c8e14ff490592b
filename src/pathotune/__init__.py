"""The core of pathotune: from whole-slide images to tuned predictions, without a viewer."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathotune.backbones import backbone_card, backbone_names, load_backbone
    from pathotune.evaluation.evaluate import evaluate
    from pathotune.inference.predict import predict_slide
    from pathotune.inference.predictions import PredictionStore
    from pathotune.methods.checkpoint import Tuning
    from pathotune.regions import read_regions, write_regions
    from pathotune.slides import open_slide
    from pathotune.tasks import load_task
    from pathotune.training.loop import tune

# Imported on first use, so that `import pathotune` costs nothing.
_WHERE = {
    "PredictionStore": "pathotune.inference.predictions",
    "Tuning": "pathotune.methods.checkpoint",
    "backbone_card": "pathotune.backbones",
    "backbone_names": "pathotune.backbones",
    "evaluate": "pathotune.evaluation.evaluate",
    "load_backbone": "pathotune.backbones",
    "load_task": "pathotune.tasks",
    "open_slide": "pathotune.slides",
    "predict_slide": "pathotune.inference.predict",
    "read_regions": "pathotune.regions",
    "tune": "pathotune.training.loop",
    "write_regions": "pathotune.regions",
}

__all__ = [
    "PredictionStore",
    "Tuning",
    "backbone_card",
    "backbone_names",
    "evaluate",
    "load_backbone",
    "load_task",
    "open_slide",
    "predict_slide",
    "read_regions",
    "tune",
    "write_regions",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'pathotune' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
