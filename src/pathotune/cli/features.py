"""`pathotune features`: the features of every tissue tile, kept for all that works from them."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pathotune.cli.prediction import (
    BatchSizeOption,
    PartOption,
    RecursiveOption,
    SlidesArgument,
    TableOption,
    cancel_on_interrupt,
    exit_code,
)
from pathotune.cli.terminal import (
    DeviceOption,
    JsonOption,
    QuietOption,
    SlideMppOption,
    VerboseOption,
    WeightsOption,
    follow,
    print_json,
    say,
    set_loudness,
)
from pathotune.errors import (
    FeaturesMismatch,
    FileMissing,
    MissingPixelSize,
    NotFinite,
    OutputRefused,
    PathotuneError,
    SlideUnreadable,
    StoreBusy,
    TooLittleMemory,
    TuningMismatch,
    UsageError,
)
from pathotune.inference.busy import waiting_sentence

if TYPE_CHECKING:
    from pathotune.inference.inputs import SlideInput

EXAMPLE = "Example: pathotune features slides/ --backbone uni2-h --out features/uni2-h --json"
_COLUMNS = (
    *("slide", "status", "tiles", "width", "seconds", "tiles_per_second", "model_busy", "peak_memory_mb"),
    *("out", "error"),
)

# Anything else is wrong with the backbone, the tuning or the options, and so for every slide.
_OF_ONE_SLIDE = (
    *(FeaturesMismatch, FileMissing, MissingPixelSize, NotFinite, OutputRefused, SlideUnreadable, StoreBusy),
    *(TooLittleMemory, TuningMismatch),
)

BackboneOption = Annotated[
    str | None,
    typer.Option("--backbone", help="A backbone's name, or its card (YAML); pathotune backbones lists them."),
]
TuningOption = Annotated[
    Path | None, typer.Option("--tuning", help="A tuned model: what its head sees, in place of the plain features.")
]
OutOption = Annotated[Path, typer.Option("--out", help="Folder for the files; one folder for each way of making them.")]
PrecisionOption = Annotated[
    str, typer.Option("--precision", help="auto (bfloat16 where it is faster and agrees), float32 or bfloat16.")
]
StrideOption = Annotated[
    int | None,
    typer.Option(
        "--stride", min=1, help="From tile to tile in pixels of the backbone's resolution; side by side without."
    ),
]
ResumeOption = Annotated[
    bool,
    typer.Option("--resume/--restart", help="Go on with what is there and keep whole files, or compute all again."),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("features", epilog=EXAMPLE)(features)


def features(
    out: OutOption,
    slides: SlidesArgument = None,
    backbone: BackboneOption = None,
    tuning: TuningOption = None,
    table: TableOption = None,
    part: PartOption = None,
    recursive: RecursiveOption = False,
    stride: StrideOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    batch_size: BatchSizeOption = None,
    resume: ResumeOption = True,
    slide_mpp: SlideMppOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Extract the features of the tissue tiles of one or many slides, one HDF5 file a slide."""
    from pathotune.inference.inputs import collect_slides, part_slice

    set_loudness(verbose, quiet)
    if backbone is None and tuning is None:
        raise UsageError("Name what the features are made with: --backbone NAME, or --tuning FILE for a tuned one.")
    planned = plan_files(collect_slides(slides or [], table=table, recursive=recursive, mpp=slide_mpp), out)
    chosen = planned[part_slice(part)]
    several = len(planned) > 1 or table is not None or part is not None
    options = {
        "backbone": backbone,
        "tuning": None if tuning is None else str(tuning),
        "weights": None if weights is None else str(weights),
        "device": device,
        "precision": precision,
        "stride_px": stride,
        "batch_size": batch_size,
        "resume": resume,
    }
    summary = out / (f"features-{part.replace('/', '-of-')}.csv" if part else "features.csv") if several else None
    results = _extract_all(chosen, options, summary, quiet)
    if as_json:
        print_json(results if several else results[0])
    code = exit_code([result["status"] for result in results])
    if code:
        raise typer.Exit(code)


def plan_files(slides: list[SlideInput], out: Path) -> list[tuple[SlideInput, Path]]:
    """Where each slide's file goes: by its id, or by its whole name where two slides have one id.

    Raises
    ------
    UsageError : two slides would be written into the same file.
    """
    from pathotune.features.folder import feature_path

    def key(path: Path) -> str:
        # Some file systems see no difference between capitals and small letters.
        return os.path.normcase(str(path)).lower()

    by_id = [feature_path(out / slide.folder, slide.path) for slide in slides]
    often = Counter(map(key, by_id))
    planned: list[tuple[SlideInput, Path]] = []
    names: dict[str, Path] = {}
    for slide, path in zip(slides, by_id, strict=True):
        if often[key(path)] > 1:
            path = path.with_name(f"{slide.path.name}.h5")
        other = names.setdefault(key(path), slide.path)
        if other is not slide.path:
            raise UsageError(
                f"{slide.path} and {other} would both be written to {path}. Name one of them, rename one, or put them "
                "into subfolders of one folder and use --recursive."
            )
        planned.append((slide, path))
    return planned


def _extract_all(
    planned: list[tuple[SlideInput, Path]], options: dict[str, Any], summary: Path | None, quiet: bool
) -> list[dict[str, Any]]:
    """One slide after the other; a slide that fails does not stop the next."""
    from pathotune.execution.job import Job, run_job

    results: list[dict[str, Any]] = []
    backbones: dict[str, Any] = {}
    with cancel_on_interrupt() as cancelled:
        for slide, target in planned:
            if cancelled():
                break
            place = {
                "slide": str(slide.path),
                "out": str(target.parent),
                "file_name": target.name,
                "slide_mpp": slide.mpp,
            }
            try:
                result = follow(
                    run_job(Job("features", {**options, **place}), cancel=cancelled, backbones=backbones), quiet
                )
            except _OF_ONE_SLIDE as error:
                if summary is None and not isinstance(error, MissingPixelSize):
                    raise
                say(f"pathotune: {error}")
                result = _failure(slide.path, error)
            results.append(result)
            _say_result(result, quiet)
            if summary is not None:
                _write_table(results, summary)
    return results


def _failure(slide: Path, error: PathotuneError) -> dict[str, Any]:
    """The document of a slide that could not be done."""
    numbers: dict[str, float | None] = {"tiles": 0, "width": 0, "seconds": 0.0, "tiles_per_second": 0.0}
    numbers |= {"model_busy": None, "peak_memory_mb": None}
    status = "needs_mpp" if isinstance(error, MissingPixelSize) else "failed"
    return {"slide": str(slide), "out": None, **numbers, "status": status, "error": str(error)}


def _say_result(result: dict[str, Any], quiet: bool) -> None:
    name, status = Path(result["slide"]).name, result["status"]
    if status == "empty":
        say(f"{name}: no tissue was found, so no file was written.", quiet)
    elif status == "cancelled":
        say(f"{name}: cancelled after {result['tiles']} tiles; the same command goes on.", quiet)
    elif result["out"]:
        rate = f" in {result['seconds']:.1f} s, {result['tiles_per_second']:.1f} tiles/s" if status != "kept" else ""
        say(f"{name}: {status}, {result['tiles']} tiles of {result['width']} features{rate}. {result['out']}", quiet)
        if waited := waiting_sentence(result):
            say(f"  {waited}", quiet)


def _write_table(results: list[dict[str, Any]], path: Path) -> None:
    """What became of each slide, as CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows({name: "" if value is None else value for name, value in result.items()} for result in results)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text.getvalue(), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise OutputRefused(f"{path} cannot be written ({error.strerror or error}). Choose another --out.") from error
