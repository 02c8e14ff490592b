"""A job as data: what the viewer, the command line and a YAML file share, and how it is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathotune import events
from pathotune.errors import FileMissing, OutputRefused, TableUnreadable, UnknownName, UsageError

if TYPE_CHECKING:
    from pathotune.backbones.surface import Backbone

# What `predict_slide` takes as it stands in a job.
_PREDICT_OPTIONS = (
    *("device", "precision", "deterministic", "stride_px", "box_px0", "batch_size", "resume", "on_mismatch"),
    *("attention", "attention_kind", "attention_tokens", "reliability", "features"),
)

_OF_COHORT = ("cohort", "features", "expression", "pathways", "clinical", "folds", "slide_mpp")

# What a job file may say; a word misspelt would otherwise be passed over in silence.
_SOURCES = ("sources", "tiles", "map_classes")
KNOWN_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "predict": (
        *("slide", "name", "tuning", "out", "slide_mpp", "backbone", "weights", "polygon_px0", "start_point_px0"),
        *("features_folder", "expression", "clinical"),
        *_PREDICT_OPTIONS,
    ),
    "tune": (
        *("method", "config", "backbone", "weights", "training", "task", "out", "continue_from"),
        *_SOURCES,
        *_OF_COHORT,
    ),
    "evaluate": ("tuning", "backbone", "weights", "device", "precision", "colour_by", *_SOURCES, *_OF_COHORT),
    "probe": ("method", "config", "backbone", "weights", "training"),
    "features": (
        *("slide", "out", "backbone", "tuning", "weights", "slide_mpp", "device", "precision"),
        *("stride_px", "batch_size", "resume", "file_name"),
    ),
}

BackboneCache = MutableMapping[str, Any]
Runner = Callable[[dict[str, Any], BackboneCache, Callable[[], bool]], Iterator[events.Event]]


@dataclass
class Job:
    """One piece of work: a command and its arguments, JSON-ready throughout (paths are strings).

    Arguments of "predict": `slide`, `tuning`, `out` and, optionally, `slide_mpp`, `backbone`, `weights`, `device`,
    `precision`, `deterministic`, `stride_px`, `box_px0` (x, y, width, height), `polygon_px0` (list of [x, y] or a
    GeoJSON geometry), `start_point_px0`, `batch_size`, `resume`, `on_mismatch` ("refuse", "restart" or "beside"),
    `attention`, `attention_kind` ("last" or "rollout"), `attention_tokens`, `reliability`, `features`; for tunings of
    whole slides also `features_folder` (tile features that are there already), `expression`, `clinical`.

    Arguments of "tune": `sources` (list of {slide, regions (a path or a GeoJSON FeatureCollection), origin, slide_mpp,
    patient}) or `tiles` (a table), `map_classes`, `method`, `config` (fields of the method's config), `training`
    (fields of TrainingConfig), `backbone`, `weights`, `task`, `out`, `continue_from` (a saved tuning: its method,
    config and backbone then count). In place of `sources`, for methods that learn from whole slides: `cohort` (a
    table) with, where wanted, `features` (a folder), `expression`, `pathways`, `clinical` (tables), `folds`,
    `slide_mpp`.

    Arguments of "probe", which times a few tiles and ends with the fields of `training.preflight.Costs`: `method`,
    `config`, `training`, `backbone`, `weights`.

    Arguments of "features": `slide`, `out`, `backbone` or `tuning` (then that one's backbone) and, optionally,
    `slide_mpp`, `weights`, `device`, `precision`, `stride_px`, `batch_size`, `resume`, `file_name`.

    Arguments of "evaluate": `tuning`, `sources`, `tiles` or `cohort` with what belongs to it, `device`, `backbone`,
    `weights`.
    """

    command: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"command": self.command, "arguments": self.arguments}

    @classmethod
    def from_dict(cls, data: Any) -> Job:
        """Make it again; raises TableUnreadable where the document is no job."""
        if not isinstance(data, dict) or not isinstance(data.get("command"), str):
            raise TableUnreadable("A job needs the key `command`, for example `command: predict`.")
        arguments = data.get("arguments") or {}
        if not isinstance(arguments, dict):
            raise TableUnreadable("The `arguments` of a job are a mapping of names to values.")
        return cls(data["command"], arguments)

    def to_yaml(self, path: str | Path) -> Path:
        """Write it as a YAML file.

        Raises
        ------
        OutputRefused : the place cannot be written.
        """
        import yaml

        path = Path(path)
        try:
            path.write_text(yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True), encoding="utf-8")
        except OSError as error:
            raise OutputRefused(f"The job cannot be written to {str(path)!r} ({error.strerror or error}).") from error
        return path

    @classmethod
    def from_yaml(cls, path: str | Path) -> Job:
        """Read it from a YAML file.

        Raises
        ------
        FileMissing : there is no such file.
        TableUnreadable : it is not YAML, or no job.
        UnknownName : an argument that its command does not know.
        """
        import yaml

        path = Path(path)
        if not path.is_file():
            raise FileMissing(path, "job file")
        try:
            job = cls.from_dict(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise TableUnreadable(f"{path.name} is not a YAML file that can be read: {error}.") from error
        known = KNOWN_ARGUMENTS.get(job.command, tuple(job.arguments))
        for name in job.arguments:
            if name not in known:
                raise UnknownName(f"argument of a {job.command} job", name, known)
        return job


def run_job(
    job: Job, *, cancel: Callable[[], bool] | None = None, backbones: BackboneCache | None = None
) -> Iterator[events.Event]:
    """Run a job in this process, as a generator of its events.

    Parameters
    ----------
    job : the work.
    cancel : asked often; true ends the work soon, keeping what was done.
    backbones : loaded backbones of earlier jobs, used and filled.

    Raises
    ------
    UnknownName : there is no such command.
    PathotuneError : whatever the work raises.
    """
    if job.command not in RUNNERS:
        raise UnknownName("job", job.command, RUNNERS)
    yield from RUNNERS[job.command](dict(job.arguments), {} if backbones is None else backbones, cancel or _never)


def _never() -> bool:
    return False


def needed(arguments: dict[str, Any], name: str, command: str) -> Any:
    """An argument that a job cannot do without; raises UsageError where it is not given."""
    if arguments.get(name) in (None, ""):
        raise UsageError(f"A {command} job needs `{name}`.")
    return arguments[name]


def warm_backbone(name: str, weights: str | None, sha256: str | None, cache: BackboneCache) -> Backbone:
    """The backbone of this name, loaded once per cache for whatever is tuned or predicted with it.

    Parameters
    ----------
    weights : a file of the person's own; None looks where weights lie.
    sha256 : of the content that is needed. Where the kept one has another, what lies on the disk may have been changed
        since: it is loaded again.
    """
    from pathotune.backbones import load_backbone

    key = f"{name}|{weights or ''}"
    kept = getattr(cache.get(key), "weights_sha256", None)
    if key not in cache or (sha256 and kept and kept != sha256):
        cache.clear()  # one at a time: a large one fills the memory alone
        cache[key] = load_backbone(name, weights=Path(weights) if weights else None)
    backbone: Backbone = cache[key]
    return backbone


def _predict(arguments: dict[str, Any], cache: BackboneCache, cancel: Callable[[], bool]) -> Iterator[events.Event]:
    from pathotune.inference.predict import predict_slide
    from pathotune.methods.checkpoint import Tuning
    from pathotune.slides import open_slide

    slide_path, out = needed(arguments, "slide", "predict"), needed(arguments, "out", "predict")
    tuning = Tuning.load(Path(needed(arguments, "tuning", "predict")))
    predictor = _stage(tuning.method, "predictor")
    if predictor is not None:
        from pathotune.execution.cohorts import predict_whole

        yield from predict_whole(predictor, tuning, arguments, cache, cancel)
        return
    for name in ("features_folder", "expression", "clinical"):
        if arguments.get(name):
            raise UsageError(
                f"{tuning.name} is a tuning of tiles and reads the slide itself: leave --{name.partition('_')[0]} out."
            )
    backbone = tuning_backbone(tuning, arguments.get("backbone"), arguments.get("weights"), cache)
    options = {name: arguments[name] for name in _PREDICT_OPTIONS if arguments.get(name) is not None}
    if arguments.get("name"):
        options["name"] = str(arguments["name"])
    if arguments.get("polygon_px0") is not None:
        options["polygon"] = _polygon(arguments["polygon_px0"])
    if arguments.get("start_point_px0") is not None:
        options["start_point_px0"] = tuple(arguments["start_point_px0"])
    with open_slide(slide_path, mpp=arguments.get("slide_mpp"), icc=tuning.reading.icc) as slide:
        yield from predict_slide(slide, tuning, Path(out), backbone=backbone, cancel=cancel, **options)


def _stage(method: str, stage: str) -> Any:
    """What trains, judges or predicts a method of whole slides; None for those that go tile by tile."""
    from pathotune.methods import stage_of

    return stage_of(method, stage)


def tuning_backbone(tuning: Any, backbone: str | None, weights: str | None, cache: BackboneCache) -> Backbone:
    """The backbone a tuning was made for, or another source of the same one that the person names."""
    from pathotune.methods.fitting import backbone_to_load

    return warm_backbone(backbone_to_load(tuning, backbone), weights, tuning.backbone.get("sha256"), cache)


def _polygon(value: Any) -> Any:
    """A shapely geometry from a list of [x, y] or a GeoJSON geometry."""
    import shapely
    from shapely.geometry import Polygon, shape

    polygon = shape(value) if isinstance(value, dict) else Polygon(value)
    return polygon if polygon.is_valid else shapely.make_valid(polygon)


def _sources(arguments: dict[str, Any], command: str) -> Any:
    """What a tuning or evaluation learns from: a table of tiles, or slides with regions."""
    if arguments.get("tiles"):
        from pathotune.datasets.tiles import read_tile_table

        return read_tile_table(Path(arguments["tiles"]))
    from pathotune.training.examples import TuneSource

    return [
        TuneSource(
            slide_path=row["slide"],
            regions_path=row["regions"] if isinstance(row.get("regions"), str) else None,
            regions=_regions(row["regions"]) if isinstance(row.get("regions"), dict) else None,
            slide_mpp=row.get("slide_mpp"),
            origin=str(row.get("origin") or "auto"),
            patient=row.get("patient"),
        )
        for row in needed(arguments, "sources", command)
    ]


def _regions(document: dict[str, Any]) -> Any:
    """Regions from a GeoJSON document inside a job, in level-0 pixels."""
    from pathotune.regions import Regions
    from pathotune.regions.geojson import parse_geojson

    regions, _, warnings = parse_geojson(document, "the job")
    return Regions(regions, "the job", warnings=warnings)


def _tune(arguments: dict[str, Any], cache: BackboneCache, cancel: Callable[[], bool]) -> Iterator[events.Event]:
    from pathotune.methods import load_config, needs_no_tiles
    from pathotune.methods.options import with_settings
    from pathotune.training.loop import tune
    from pathotune.training.schedule import TrainingConfig

    method = arguments.get("method") or ("mil" if arguments.get("cohort") else "pathotune")
    trainer = _stage(method, "trainer")
    if trainer is not None or arguments.get("cohort"):
        from pathotune.execution.cohorts import tune_on_cohort

        yield from tune_on_cohort(trainer, method, arguments, cache, cancel)
        return
    continue_from = arguments.get("continue_from") or None
    backbone = _tune_backbone(arguments, continue_from, cache)
    if needs_no_tiles(method) and not (arguments.get("sources") or arguments.get("tiles")):
        from pathotune.training.wording import tune_by_wording

        task, out = needed(arguments, "task", "tune"), needed(arguments, "out", "tune")
        training = with_settings(TrainingConfig(), arguments.get("training") or {})
        yield from tune_by_wording(task, backbone, out, arguments.get("config") or {}, training=training)
        return
    yield from tune(
        _sources(arguments, "tune"),
        method,
        load_config(method, arguments.get("config") or {}),
        backbone,
        with_settings(TrainingConfig(), arguments.get("training") or {}),
        arguments.get("task") or None,
        needed(arguments, "out", "tune"),
        map_classes=arguments.get("map_classes") or {},
        continue_from=continue_from,
        cancel=cancel,
    )


def _tune_backbone(arguments: dict[str, Any], continue_from: str | None, cache: BackboneCache) -> Backbone:
    """The backbone to tune on: the one named, or that of the tuning to go on from."""
    if continue_from is None:
        return warm_backbone(needed(arguments, "backbone", "tune"), arguments.get("weights"), None, cache)
    from pathotune.methods.checkpoint import Tuning

    return tuning_backbone(Tuning.load(Path(continue_from)), None, arguments.get("weights"), cache)


def _probe(arguments: dict[str, Any], cache: BackboneCache, cancel: Callable[[], bool]) -> Iterator[events.Event]:
    from pathotune.methods import load_config
    from pathotune.methods.options import with_settings
    from pathotune.training.probe import measure
    from pathotune.training.schedule import TrainingConfig

    method = arguments.get("method") or "pathotune"
    backbone = warm_backbone(needed(arguments, "backbone", "probe"), arguments.get("weights"), None, cache)
    training = with_settings(TrainingConfig(), arguments.get("training") or {})
    costs = measure(backbone, method, load_config(method, arguments.get("config") or {}), training)
    yield events.Finished(costs.to_dict())


def _evaluate(arguments: dict[str, Any], cache: BackboneCache, cancel: Callable[[], bool]) -> Iterator[events.Event]:
    from pathotune.evaluation.evaluate import evaluate
    from pathotune.methods.checkpoint import Tuning

    tuning = Tuning.load(Path(needed(arguments, "tuning", "evaluate")))
    names = ("device", "precision", "map_classes")
    options = {name: arguments[name] for name in names if arguments.get(name) is not None}
    evaluator = _stage(tuning.method, "evaluator")
    if evaluator is not None or arguments.get("cohort"):
        from pathotune.execution.cohorts import evaluate_on_cohort

        yield from evaluate_on_cohort(evaluator, tuning, arguments, cache, cancel)
        return
    backbone = tuning_backbone(tuning, arguments.get("backbone"), arguments.get("weights"), cache)
    stream = evaluate(tuning, _sources(arguments, "evaluate"), backbone=backbone, **options)
    yield from _until_cancelled(stream, cancel)


def _until_cancelled(stream: Iterator[events.Event], cancel: Callable[[], bool]) -> Iterator[events.Event]:
    """Pass events on; a cancel closes the stream, of which nothing is kept."""
    for event in stream:
        yield event
        if cancel() and not isinstance(event, events.Finished):
            close = getattr(stream, "close", None)
            if close is not None:
                close()
            yield events.Failed("Cancelled", "The evaluation was cancelled.", 130)
            return


def _features(arguments: dict[str, Any], cache: BackboneCache, cancel: Callable[[], bool]) -> Iterator[events.Event]:
    from pathotune.execution.extraction import features

    yield from features(arguments, cache, cancel)


RUNNERS: dict[str, Runner] = {
    "predict": _predict,
    "tune": _tune,
    "probe": _probe,
    "evaluate": _evaluate,
    "features": _features,
}
