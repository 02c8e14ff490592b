"""A prediction once more from what its store says of itself, and how far the second result is from the first."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pathotune.errors import FileMissing, PathotuneError, StoreUnreadable, UsageError
from pathotune.events import Event, Finished, up_to_the_end
from pathotune.execution.job import BackboneCache, Job, run_job, tuning_backbone
from pathotune.inference.locations import store_path
from pathotune.inference.plan import ROLLOUT, Kind, is_token
from pathotune.inference.predictions import PredictionStore
from pathotune.inference.provenance import versions

if TYPE_CHECKING:
    from pathotune.methods.checkpoint import Tuning

TUNING_SUFFIX = ".pathotune.safetensors"


@dataclass(frozen=True)
class Sources:
    """Where the files of a replay are, in place of where the store says they were.

    slide, tuning : their paths; found by the store's word, then beside the store, without.
    backbone, weights : as in `pathotune predict`.
    """

    slide: Path | None = None
    tuning: Path | None = None
    backbone: str | None = None
    weights: Path | None = None


def replay(
    path: Path,
    out: Path,
    sources: Sources | None = None,
    *,
    device: str = "auto",
    cancel: Callable[[], bool] | None = None,
    backbones: BackboneCache | None = None,
) -> Iterator[Event]:
    """Predict again what a store holds, the same way, and compare.

    The result: "store", "replayed" (the new store), "same" (whether slide, tuning and backbone are the same, by their
    fingerprints), "versions" (of libraries that are others now: [then, now]), "difference" (largest of each array),
    "classes_changed" (share of the cells), "only_then", "only_now" (cells), "tolerance", "byte_equal", "agrees",
    "sentence".

    Raises
    ------
    StoreUnreadable : the store does not say how it was made.
    FileMissing : slide or tuning are not where it says; name them.
    UsageError : the new store would be the old one.
    PathotuneError : whatever predicting raises.
    """
    from pathotune.methods.checkpoint import Tuning as TuningFile

    store, sources = PredictionStore.open(path), sources or Sources()
    jobs = [job for job in [*store.attrs.get("earlier_jobs", []), store.attrs.get("job")] if job]
    if not jobs or not all(isinstance(job.get("arguments"), dict) for job in jobs):
        raise StoreUnreadable(f"{path.name} does not say how it was made, so it cannot be made again.")
    slide = sources.slide or _found(store, jobs[-1]["arguments"].get("slide"), "slide")
    tuning_file = sources.tuning or _found(store, jobs[-1]["arguments"].get("tuning"), "tuning")
    tuning = TuningFile.load(tuning_file)
    if store_path(slide, tuning.name, out).absolute() == path.absolute():
        raise UsageError(f"{str(out)!r} is where {path.name} lies; choose another folder for the second result.")
    cache: BackboneCache = {} if backbones is None else backbones
    result: dict[str, Any] = {}
    for job in jobs:
        result = yield from up_to_the_end(
            _again(store, job["arguments"], slide, tuning, tuning_file, out, sources, device, cancel, cache)
        )
        if result.get("status") == "cancelled":
            yield Finished(result)
            return
    if not result.get("store"):
        yield Finished({"store": str(path), "replayed": None, "agrees": False, "sentence": "No tissue was found."})
        return
    yield from _compared(store, PredictionStore.open(result["store"]), tuning)


def _found(store: PredictionStore, stated: str | None, what: str) -> Path:
    """Slide or tuning where the store says it was, or beside the store."""
    name = Path(stated).name if stated else ""
    candidates = [Path(stated), store.path.parent / name] if stated else []
    if what == "tuning" and not stated:
        candidates.append(store.path.parent / f"{store.attrs.get('tuning', {}).get('name', '')}{TUNING_SUFFIX}")
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise FileMissing(stated or f"of {store.path.name}", f"{what} (name it with --{what})")


def _again(
    store: PredictionStore,
    arguments: dict[str, Any],
    slide_path: Path,
    tuning: Tuning,
    tuning_file: Path,
    out: Path,
    sources: Sources,
    device: str,
    cancel: Callable[[], bool] | None,
    cache: BackboneCache,
) -> Generator[Event, None, None]:
    """One job of the store once more."""
    import shapely

    from pathotune.inference.predict import predict_slide
    from pathotune.methods import stage_of
    from pathotune.slides import open_slide

    facts, identity = store.attrs.get("slide", {}), store.attrs["identity"]
    stated = facts.get("mpp") if facts.get("mpp_source") == "stated" else None
    if stage_of(tuning.method, "predictor") is not None:
        document: dict[str, Any] = {"slide": str(slide_path), "tuning": str(tuning_file), "out": str(out)}
        document |= {"device": device, "slide_mpp": stated and stated[0], "backbone": sources.backbone}
        yield from run_job(Job("predict", document), cancel=cancel, backbones=cache)
        return
    weights = None if sources.weights is None else str(sources.weights)
    backbone = tuning_backbone(tuning, sources.backbone, weights, cache)
    polygon, box = arguments.get("polygon_px0"), arguments.get("box_px0")
    with open_slide(slide_path, mpp=stated and (stated[0], stated[1]), icc=tuning.reading.icc) as slide:
        yield from predict_slide(
            slide,
            tuning,
            out,
            backbone=backbone,
            device=device,
            precision=identity.get("precision") or "auto",
            deterministic=bool(arguments.get("deterministic")),
            stride_px=arguments.get("stride_px"),
            box_px0=None if box is None else (box[0], box[1], box[2], box[3]),
            polygon=None if polygon is None else shapely.from_wkt(polygon),
            batch_size=arguments.get("batch_size"),
            attention=bool(store.sources),
            attention_kind="rollout" if any(name.endswith(ROLLOUT) for name in store.sources) else "last",
            attention_tokens=any(is_token(name) for name in store.sources),
            reliability=bool(store.reliability_names),
            features=bool(store.attrs.get("features")),
            cancel=cancel,
        )


def _compared(then: PredictionStore, now: PredictionStore, tuning: Tuning) -> Iterator[Event]:
    """How far the second result is from the first."""
    same = {name: then.attrs["identity"].get(name) == now.attrs["identity"].get(name) for name in _FINGERPRINTS}
    before, after = then.attrs.get("versions", {}), versions()
    others = {name: [before.get(name), after.get(name)] for name in after if before.get(name) != after.get(name)}
    result: dict[str, Any] = {"store": str(then.path), "replayed": str(now.path), "same": same, "versions": others}
    if then.grid.to_dict() != now.grid.to_dict() or then.class_names != now.class_names:
        text = "The two cannot be compared: their tile grids or classes differ."
        yield Finished({**result, "agrees": False, "byte_equal": False, "sentence": f"{_of(same)} {text}"})
        return
    labels = np.asarray(then.labels[:]), np.asarray(now.labels[:])
    both = (labels[0] > 0) & (labels[1] > 0)
    equal = all(bool(np.array_equal(a[:], b[:])) for kind in then.kinds for a, b in _pairs(then, now, kind))
    tolerance = _tolerance(tuning)
    difference = {kind: _difference(then, now, kind) for kind in then.kinds if kind != "classes" and kind in now.kinds}
    result |= {
        "difference": difference,
        "classes_changed": float((labels[0] != labels[1])[both].mean()) if both.any() else 0.0,
        "only_then": int(((labels[0] > 0) & ~both).sum()),
        "only_now": int(((labels[1] > 0) & ~both).sum()),
        "score": [then.attrs.get("score"), now.attrs.get("score")],
        "tolerance": tolerance,
        "byte_equal": equal,
    }
    agrees = difference["probabilities"] <= tolerance and not result["only_then"] and not result["only_now"]
    result["agrees"] = bool(agrees and all(same.values()))
    yield Finished({**result, "sentence": f"{_of(same)} {_how_far(result)}"})


_FINGERPRINTS = ("slide", "tuning", "backbone")


def _pairs(then: PredictionStore, now: PredictionStore, kind: Kind) -> list[tuple[Any, Any]]:
    return (
        list(zip(then.pyramid(kind), now.pyramid(kind), strict=True))
        if kind in now.kinds
        else [(np.zeros(1), np.ones(1))]
    )


def _difference(then: PredictionStore, now: PredictionStore, kind: Kind) -> float:
    """The largest absolute difference where both have a value, work unit by work unit of memory."""
    largest, one, other = 0.0, then.array(kind), now.array(kind)
    rows = max(1, 2**22 // max(1, one.shape[-1] * one.shape[0]))
    for start in range(0, one.shape[1], rows):
        a, b = (np.asarray(array[:, start : start + rows], np.float32) for array in (one, other))
        there = a.any(axis=0) & b.any(axis=0)
        largest = max(largest, float(np.abs(a - b)[:, there].max(initial=0.0)))
    return largest


def _tolerance(tuning: Tuning) -> float:
    from pathotune.backbones import backbone_card
    from pathotune.device import DEFAULT_TOLERANCE

    try:
        return float(backbone_card(str(tuning.backbone["name"])).tolerance)
    except PathotuneError:
        return DEFAULT_TOLERANCE


def _of(same: dict[str, bool]) -> str:
    others = [name for name, is_same in same.items() if not is_same]
    if not others:
        return "Slide, tuning and backbone are the same."
    return f"Not the same as then: {', '.join(others)}."


def _how_far(result: dict[str, Any]) -> str:
    if result["byte_equal"]:
        return "The result is the same to the byte."
    text = (
        f"Probabilities differ by at most {result['difference']['probabilities']:.2g} (allowed {result['tolerance']:g})"
    )
    text += f", classes in {100 * result['classes_changed']:.2g} % of the tiles."
    apart = result["only_then"] + result["only_now"]
    return f"{text} {apart} tiles are in one of the two only." if apart else text
