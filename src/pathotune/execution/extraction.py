"""The job "features": which backbone or tuning, loaded once for many slides, and the extraction of one slide."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathotune import events
from pathotune.errors import UsageError
from pathotune.execution.job import BackboneCache, needed, tuning_backbone, warm_backbone

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone

_OPTIONS = ("file_name", "device", "precision", "stride_px", "batch_size", "resume")


def features(arguments: dict[str, Any], cache: BackboneCache, cancel: Callable[[], bool]) -> Iterator[events.Event]:
    """Extract the features of one slide, as the job's arguments say.

    Raises
    ------
    UsageError : neither a backbone nor a tuning is named.
    PathotuneError : what `inference.extracting.extract` raises.
    """
    from pathotune.backbones import backbone_card
    from pathotune.backbones.remembered import remembered_sha256
    from pathotune.inference.extracting import extract
    from pathotune.methods.checkpoint import Tuning
    from pathotune.slides import open_slide

    slide_path, out = needed(arguments, "slide", "features"), needed(arguments, "out", "features")
    name, weights = arguments.get("backbone"), arguments.get("weights")
    tuning = Tuning.load(Path(arguments["tuning"])) if arguments.get("tuning") else None
    if tuning is None and not name:
        raise UsageError("Name what the features are made with: --backbone, or --tuning for a tuned one.")
    card = backbone_card(name or tuning.backbone["name"])  # type: ignore[union-attr]

    def load() -> Backbone:
        if tuning is None:
            return warm_backbone(str(name), weights, None, cache)
        return tuning_backbone(tuning, name, weights, cache)

    options = {key: arguments[key] for key in _OPTIONS if arguments.get(key) is not None}
    known = "" if weights else remembered_sha256(card)
    icc = (card.reading() if tuning is None else tuning.reading).icc
    with open_slide(slide_path, mpp=arguments.get("slide_mpp"), icc=icc) as slide:
        yield from extract(slide, card, Path(out), tuning=tuning, load=load, sha256=known, cancel=cancel, **options)
