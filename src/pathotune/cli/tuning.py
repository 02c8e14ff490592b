"""`pathotune tune` and `pathotune evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pathotune.cli.terminal import (
    DeviceOption,
    JsonOption,
    QuietOption,
    SlideMppOption,
    TuningOption,
    VerboseOption,
    WeightsOption,
    follow,
    print_json,
    say,
    set_loudness,
)
from pathotune.errors import FileMissing, UnknownName, UsageError

if TYPE_CHECKING:
    from pathotune.datasets.tiles import TileTable
    from pathotune.training.examples import TuneSource

SlideOption = Annotated[
    list[Path] | None,
    typer.Option("--slide", help="A slide; repeat it with --regions for each pair."),
]
RegionsOption = Annotated[
    list[Path] | None,
    typer.Option("--regions", help="Regions of the slide (GeoJSON, ASAP or ImageScope XML), or a folder of them."),
]
SlidesOption = Annotated[
    Path | None,
    typer.Option("--slides", help="A folder of slides, paired by name with the files of the folder --regions."),
]
TilesOption = Annotated[
    Path | None,
    typer.Option("--tiles", help="A table of tiles (columns path, label, …), or one folder per class."),
]
MapOption = Annotated[
    str,
    typer.Option("--map-classes", help="Other names for classes: 'Tumor=cancer,Other=' (no name leaves it out)."),
]
CohortOption = Annotated[
    Path | None,
    typer.Option("--cohort", help="A table of whole slides: columns slide, label, and patient, split, mpp if wanted."),
]
CohortFeaturesOption = Annotated[
    Path | None,
    typer.Option("--features", help="A folder of tile features of the cohort's slides; without it they are computed."),
]
ExpressionOption = Annotated[
    Path | None, typer.Option("--expression", help="A table of gene expression: rows samples or spots, columns genes.")
]
OriginOption = Annotated[
    str,
    typer.Option(
        "--origin",
        help="From where the regions' coordinates count: auto (as the file or its program has it), canvas (the slide's "
        "first pixel) or bounds (the corner of the scanned area).",
    ),
]
PathwaysOption = Annotated[
    Path | None, typer.Option("--pathways", help="Pathways: a .gmt file, or a table of genes by pathways.")
]
ClinicalOption = Annotated[Path | None, typer.Option("--clinical", help="A table of clinical columns by patient.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("tune", epilog=TUNE_EXAMPLE)(tune)
    app.command("evaluate", epilog=EVALUATE_EXAMPLE)(evaluate)


TUNE_EXAMPLE = (
    "Example: pathotune tune --slide a.svs --regions a.geojson --out tumour --map-classes 'Other=' --set tvp_tokens=5"
)
EVALUATE_EXAMPLE = (
    "Example: pathotune evaluate --tuning tumour.pathotune.safetensors --slide b.svs --regions b.geojson --json"
)


def tune(
    out: Annotated[Path, typer.Option("--out", help="The tuning file to write; its card NAME.md comes beside it.")],
    slide: SlideOption = None,
    regions: RegionsOption = None,
    slides: SlidesOption = None,
    tiles: TilesOption = None,
    cohort: CohortOption = None,
    features: CohortFeaturesOption = None,
    expression: ExpressionOption = None,
    pathways: PathwaysOption = None,
    clinical: ClinicalOption = None,
    folds: Annotated[
        int,
        typer.Option(
            "--folds",
            min=0,
            help="Also train on K parts in turn, and write what each slide is said to be by those that never saw it.",
        ),
    ] = 0,
    method: Annotated[
        str | None,
        typer.Option("--method", help="What to tune; see `pathotune methods`. pathotune without it; mil for a cohort."),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", help="The frozen model; see `pathotune backbones`. pathotune-tiny without it."),
    ] = None,
    weights: WeightsOption = None,
    task: Annotated[
        str | None, typer.Option("--task", help="A task card by name or file; see `pathotune tasks`.")
    ] = None,
    map_classes: MapOption = "",
    epochs: Annotated[int | None, typer.Option("--epochs", help="At most so many epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Tiles per step.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate after the warm-up.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="The same seed gives the same tuning.")] = None,
    split_by: Annotated[
        str | None, typer.Option("--split-by", help="What stays whole when tiles are held out: region, slide, patient.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other option of the method or of the training, as key=value; repeat it."),
    ] = None,
    continue_: Annotated[
        Path | None,
        typer.Option("--continue", help="A saved tuning to go on from, with its method, options and backbone."),
    ] = None,
    device: DeviceOption = "auto",
    slide_mpp: SlideMppOption = None,
    origin: OriginOption = "auto",
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Tune prompts (or another method) on regions, labelled tiles or a cohort of slides, and save the tuning."""
    from pathotune.methods import load_config, needs_no_tiles, stage_of
    from pathotune.methods.checkpoint import Tuning, tuning_path
    from pathotune.methods.options import with_settings
    from pathotune.training.schedule import TrainingConfig

    set_loudness(verbose, quiet)
    method = method or ("mil" if cohort is not None else "pathotune")
    given = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed, "split_by": split_by, "device": device}
    settings, of_training = _settings(method, set_ or [], given)
    if cohort is not None or stage_of(method, "trainer") is not None:
        if slide or slides or tiles:
            raise UsageError("Give either --cohort, or tiles by --slide with --regions, --slides or --tiles.")
        tables = {"features": features, "expression": expression, "pathways": pathways, "clinical": clinical}
        arguments: dict[str, Any] = {"cohort": cohort, **tables, "slide_mpp": slide_mpp, "folds": folds, "out": out}
        arguments |= {"method": method, "backbone": backbone, "weights": weights, "task": task, "config": settings}
        _report_whole(
            _run("tune", arguments | {"training": of_training, "continue_from": continue_}, quiet), json, quiet
        )
        return
    config, training = load_config(method, settings), with_settings(TrainingConfig(), of_training)
    if needs_no_tiles(method) and not (slide or slides or tiles):
        words = {"method": method, "backbone": backbone, "weights": weights, "task": task, "config": settings}
        _report_whole(_run("tune", words | {"training": of_training, "out": out}, quiet), json, quiet)
        return
    sources, mapping = _sources(slide, regions, slides, tiles, slide_mpp, map_classes, origin)

    from pathotune.backbones import load_backbone
    from pathotune.training.loop import tune as run

    own = "pathotune-tiny" if continue_ is None else Tuning.load(continue_).backbone["name"]
    loaded = load_backbone(backbone or own, weights=weights)
    target = tuning_path(out)
    events = run(sources, method, config, loaded, training, task, target, map_classes=mapping, continue_from=continue_)
    result = follow(events, quiet)
    if json:
        print_json(result)
    else:
        _say_scores(result["val"], result["classes"], quiet, "validation")
        say(
            f"Saved {result['out']} ({result['trainable_parameters']:,} trained numbers, {result['seconds']} s).", quiet
        )


def evaluate(
    tuning: TuningOption,
    slide: SlideOption = None,
    regions: RegionsOption = None,
    slides: SlidesOption = None,
    tiles: TilesOption = None,
    cohort: CohortOption = None,
    features: CohortFeaturesOption = None,
    expression: ExpressionOption = None,
    clinical: ClinicalOption = None,
    colour_by: Annotated[
        str | None,
        typer.Option(
            "--colour-by",
            help="Colour the picture of a transcriptomics tuning's samples by this column of the cohort's or the "
            "spots' table.",
        ),
    ] = None,
    weights: WeightsOption = None,
    map_classes: MapOption = "",
    device: DeviceOption = "auto",
    slide_mpp: SlideMppOption = None,
    origin: OriginOption = "auto",
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Judge a tuning on regions, tiles or whole slides whose class is known."""
    from pathotune.methods import stage_of
    from pathotune.methods.checkpoint import Tuning

    set_loudness(verbose, quiet)
    loaded = Tuning.load(tuning)
    if cohort is not None or stage_of(loaded.method, "evaluator") is not None:
        if slide or slides or tiles:
            raise UsageError("Give either --cohort, or tiles by --slide with --regions, --slides or --tiles.")
        arguments: dict[str, Any] = {"tuning": tuning, "cohort": cohort, "features": features, "clinical": clinical}
        arguments |= {"expression": expression, "weights": weights, "device": device, "slide_mpp": slide_mpp}
        arguments["colour_by"] = colour_by
        _report_whole(_run("evaluate", arguments, quiet), json, quiet)
        return
    sources, mapping = _sources(slide, regions, slides, tiles, slide_mpp, map_classes, origin)

    from pathotune.evaluation.evaluate import evaluate as run

    result = follow(run(loaded, sources, weights=weights, map_classes=mapping, device=device), quiet)
    if json:
        print_json(result)
    else:
        _say_scores(result, result["classes"], quiet, "given")


def _settings(method: str, pairs: list[str], given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `--set` and the options of their own say: fields of the method's config, and of the training's."""
    from pathotune.methods import config_class
    from pathotune.methods.options import options_of, parse_settings
    from pathotune.training.schedule import TrainingConfig

    settings: dict[str, Any] = dict(parse_settings(pairs))
    of_method, known = options_of(config_class(method)), options_of(TrainingConfig)
    of_training = {key: settings.pop(key) for key in list(settings) if key in known and key not in of_method}
    for key in settings.keys() - of_method.keys():
        raise UnknownName("setting", key, [*of_method, *known])
    return settings, {**of_training, **{key: value for key, value in given.items() if value is not None}}


def _run(command: str, arguments: dict[str, Any], quiet: bool) -> dict[str, Any]:
    """Run a job on whole slides to its end."""
    from pathotune.execution.job import Job, run_job

    plain = {name: str(value) if isinstance(value, Path) else value for name, value in arguments.items()}
    return follow(run_job(Job(command, {name: value for name, value in plain.items() if value is not None})), quiet)


def _report_whole(result: dict[str, Any], json: bool, quiet: bool) -> None:
    """Print what came of a tuning or an evaluation on whole slides."""
    if json:
        print_json(result)
        return
    for line in result.get("said", ()):
        say(line, quiet)
    if result.get("out"):
        say(
            f"Saved {result['out']} ({result['trainable_parameters']:,} trained numbers, {result['seconds']} s).", quiet
        )


def _sources(
    slide: list[Path] | None,
    regions: list[Path] | None,
    slides: Path | None,
    tiles: Path | None,
    slide_mpp: float | None,
    map_classes: str,
    origin: str,
) -> tuple[list[TuneSource] | TileTable, dict[str, str]]:
    """The slides with their regions, or the table, from the options that name them; and other names for classes."""
    from pathotune.regions import parse_class_map
    from pathotune.regions.origin import check_origin

    check_origin(origin)
    mapping = parse_class_map(map_classes) if map_classes else {}
    ways = [bool(slide), slides is not None, tiles is not None]
    if sum(ways) != 1:
        raise UsageError(
            "Give one of: --slide with --regions (repeat the pair), --slides DIR --regions DIR, --tiles, or --cohort."
        )
    if tiles is not None:
        from pathotune.datasets.tiles import read_tile_table

        table = read_tile_table(tiles)
        if slide_mpp is not None:
            table.mpp[table.mpp != table.mpp] = slide_mpp  # where the table does not say
        return (table.map_classes(mapping) if mapping else table), mapping
    from pathotune.training.examples import TuneSource

    regions = regions or []
    pairs = _pairs_by_name(slides, regions) if slides is not None else _pairs(slide or [], regions)
    return [TuneSource(image, drawn, slide_mpp=slide_mpp, origin=origin) for image, drawn in pairs], mapping


def _pairs(slides: list[Path], regions: list[Path]) -> list[tuple[Path, Path]]:
    if len(slides) != len(regions):
        raise UsageError(
            f"{len(slides)} --slide and {len(regions)} --regions make no pairs: give one --regions for each --slide."
        )
    for path, what in [*((path, "slide") for path in slides), *((path, "regions file") for path in regions)]:
        if not path.exists():
            raise FileMissing(path, what)
    return list(zip(slides, regions, strict=True))


def _pairs_by_name(slides: Path, regions: list[Path]) -> list[tuple[Path, Path]]:
    """Slides and regions files of two folders whose names begin alike (a.svs with a.geojson or a.svs.geojson)."""
    if len(regions) != 1 or not regions[0].is_dir():
        raise UsageError("With --slides DIR, give --regions DIR: the folder with a regions file for each slide.")
    if not slides.is_dir():
        raise FileMissing(slides, "folder of slides")
    drawn: dict[str, Path] = {}
    for path in sorted(regions[0].iterdir()):
        if path.suffix.lower() in {".geojson", ".json", ".xml"}:
            drawn.setdefault(path.stem, path)
    pairs = []
    for path in sorted(slides.iterdir()):
        if path in drawn.values():
            continue
        stem = path.name.removesuffix("".join(path.suffixes[-2:])) if ".ome" in path.name else path.stem
        found = next((drawn[name] for name in (path.name, path.stem, stem) if name in drawn), None)
        if found is not None:
            pairs.append((path, found))
    if not pairs:
        raise UsageError(f"No slide in {slides} has a regions file of the same name in {regions[0]}.")
    return pairs


def _say_scores(report: dict[str, Any], classes: list[str], quiet: bool, which: str) -> None:
    def shown(value: float | None) -> str:
        return "–" if value is None else f"{value:.3f}"

    say(
        f"On {report['n']} {which} tiles of {', '.join(classes)}: balanced accuracy "
        f"{shown(report['balanced_accuracy'])}, AUC {shown(report['auc'])}, calibration error {shown(report['ece'])}.",
        quiet,
    )
