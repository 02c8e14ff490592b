"""Whether a store holds all that is asked for already, told from its metadata and the sizes of its files alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathotune.errors import PathotuneError
from pathotune.inference.locations import file_sizes
from pathotune.inference.plan import ROLLOUT, is_token
from pathotune.inference.predictions import PredictionStore

if TYPE_CHECKING:
    from pathotune.methods.checkpoint import Tuning


def finished_store(
    path: Path, slide_fingerprint: str, tuning: Tuning, options: Mapping[str, Any]
) -> PredictionStore | None:
    """The store, where a run with these options would find nothing to do; None where that has to be looked at.

    Of thousands of slides most are done when a run goes on. Neither the tissue nor the model is needed to know so.

    Parameters
    ----------
    path : where the slide's store is by its name.
    slide_fingerprint : identity of the slide.
    options : of `predict_slide`: precision, stride_px, box_px0, polygon, attention, reliability, features.
    """
    if options.get("polygon") is not None:
        return None
    try:
        store = PredictionStore.open(path)
        attributes = store.attrs
        asked = {"stride_px": options.get("stride_px"), "box_px0": _listed(options.get("box_px0"))}
        done = attributes["job"]["arguments"]
        wanted, identity = options.get("precision") or "auto", attributes["identity"]
        agrees = (
            store.is_complete
            and identity["slide"] == slide_fingerprint
            and identity["tuning"] == tuning.fingerprint
            and identity["backbone"] == tuning.backbone.get("sha256")
            and identity["reading"] == tuning.reading.to_dict()
            and wanted in ("auto", identity["precision"])
            and all(_listed(done.get(name)) == value for name, value in asked.items())
            and done.get("polygon_px0") is None
            and (not options.get("attention", True) or _has_attention(store, options))
            and attributes["files"]
            and file_sizes(path) == attributes["files"]
        )
    except (PathotuneError, OSError, KeyError, TypeError):
        return None
    return store if agrees else None


def _has_attention(store: PredictionStore, options: Mapping[str, Any]) -> bool:
    is_rollout = (options.get("attention_kind") or "last") == "rollout"
    has_tokens = any(is_token(name) for name in store.sources)
    return any(name.endswith(ROLLOUT) == is_rollout for name in store.sources) and (
        has_tokens == bool(options.get("attention_tokens"))
    )


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def document_of(store: PredictionStore, slide: str, status: str) -> dict[str, Any]:
    """The document `pathotune predict` prints of a slide whose store was there already.

    Parameters
    ----------
    slide : its path, or its pseudonym.
    status : "resumed" of one that an earlier run made, "done" of one another process made meanwhile.
    """
    return {
        "slide": slide,
        "store": str(store.path),
        "tiles": int(store.attrs.get("tiles_done", 0)),
        "classes": store.summary(),
        "score": store.attrs.get("score"),
        "seconds": 0.0,
        "tiles_per_second": 0.0,
        "model_busy": None,
        "peak_memory_mb": None,
        "status": status,
        "error": None,
    }
