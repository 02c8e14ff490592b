"""`pathotune predict`."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pathotune.cli.slides_view import BAD, follow_slides, in_words, say_result
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
from pathotune.errors import UsageError

if TYPE_CHECKING:
    from pathotune.execution.batch import Batch

PREDICT_EXAMPLE = "Example: pathotune predict a.svs b.svs --tuning tumour.pathotune.safetensors --out results --json"

OutOption = Annotated[Path, typer.Option("--out", help="Folder for the prediction stores.")]
SlidesArgument = Annotated[list[Path] | None, typer.Argument(metavar="[SLIDE…]", help="Slides, or folders of slides.")]
TableOption = Annotated[
    Path | None, typer.Option("--slides", help="A CSV table of slides: column slide, optionally mpp.")
]
PartOption = Annotated[str | None, typer.Option("--part", help="Only part I of N of the slides, written I/N.")]
RecursiveOption = Annotated[bool, typer.Option("--recursive", help="Look into subfolders; --out mirrors them.")]
RegionOption = Annotated[
    str | None, typer.Option("--region", help="Only this box, x,y,width,height in level-0 pixels.")
]
StrideOption = Annotated[
    int | None, typer.Option("--stride", help="From tile to tile in pixels of the tuning's resolution.")
]
BackboneOption = Annotated[
    str | None, typer.Option("--backbone", help="A card (YAML) or name to load the tuning's backbone by.")
]
PrecisionOption = Annotated[
    str, typer.Option("--precision", help="auto (bfloat16 where it is faster and agrees), float32 or bfloat16.")
]
DeterministicOption = Annotated[
    bool, typer.Option("--deterministic", help="The same bytes every time on like hardware; a little slower.")
]
BatchSizeOption = Annotated[
    int | None, typer.Option("--batch-size", min=1, help="Tiles per pass; halves itself when memory runs out.")
]
AttentionOption = Annotated[bool, typer.Option("--attention/--no-attention", help="Keep the attention maps.")]
AttentionKindOption = Annotated[
    str, typer.Option("--attention-kind", help="last: attention of the last block. rollout: what all blocks come to.")
]
TokensOption = Annotated[
    bool,
    typer.Option("--attention-tokens", help="Also the attention of every single prompt token, beside its group's."),
]
ReliabilityOption = Annotated[
    bool, typer.Option("--keep-reliability", help="Keep how sure each tile is, and how unlike the training tiles.")
]
FeaturesOption = Annotated[bool, typer.Option("--keep-features", help="Keep each tile's features.")]
FolderOption = Annotated[
    Path | None,
    typer.Option("--features", help="A folder of tile features that are there already (tunings of whole slides)."),
]
ExpressionOption = Annotated[
    Path | None, typer.Option("--expression", help="Gene expression of the slides, for tunings that learned with it.")
]
ClinicalOption = Annotated[
    Path | None, typer.Option("--clinical", help="Clinical columns of the slides, for tunings that learned with them.")
]
ResumeOption = Annotated[
    bool, typer.Option("--resume/--restart", help="Go on with stores that are there, or replace them.")
]
MismatchOption = Annotated[
    str,
    typer.Option(
        "--on-mismatch",
        help="Where a store was made otherwise (another stride, number format, …): refuse, restart (replace it) or "
        "beside (keep both).",
    ),
]
PreflightOption = Annotated[
    bool,
    typer.Option(
        "--preflight",
        "--dry-run",
        help="Only look: which slides open, their pixel size and tissue, and what time and room the run needs.",
    ),
]
ClusterOption = Annotated[
    str | None,
    typer.Option("--cluster", metavar="ADDRESS", help="Predict on a running dask cluster: its scheduler's address."),
]
PseudonymsOption = Annotated[
    bool,
    typer.Option("--pseudonymise", help="No file name of a slide in stores, tables and pages; made from its pixels."),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("predict", epilog=PREDICT_EXAMPLE)(predict)


def predict(
    tuning: TuningOption,
    out: OutOption,
    slides: SlidesArgument = None,
    table: TableOption = None,
    part: PartOption = None,
    recursive: RecursiveOption = False,
    region: RegionOption = None,
    stride: StrideOption = None,
    backbone: BackboneOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    deterministic: DeterministicOption = False,
    batch_size: BatchSizeOption = None,
    attention: AttentionOption = True,
    attention_kind: AttentionKindOption = "last",
    attention_tokens: TokensOption = False,
    reliability: ReliabilityOption = False,
    features: FeaturesOption = False,
    features_folder: FolderOption = None,
    expression: ExpressionOption = None,
    clinical: ClinicalOption = None,
    resume: ResumeOption = True,
    on_mismatch: MismatchOption = "refuse",
    pseudonyms: PseudonymsOption = False,
    preflight: PreflightOption = False,
    cluster: ClusterOption = None,
    slide_mpp: SlideMppOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Predict classes and attention of one or many slides.

    Several processes may share one --out, on one computer or many: each slide is done once. Run again to go on.
    """
    from pathotune.execution.batch import Batch
    from pathotune.inference.inputs import collect_slides, part_slice, plan_stores, pseudonymised
    from pathotune.methods.checkpoint import Tuning

    set_loudness(verbose, quiet)
    loaded = Tuning.load(tuning)
    found = collect_slides(slides or [], table=table, recursive=recursive, mpp=slide_mpp)
    if pseudonyms:
        found = pseudonymised(found)
    everything = plan_stores(found, loaded.name, out)
    planned = dict(list(everything.items())[part_slice(part)])
    options = {
        "backbone": backbone,
        "weights": None if weights is None else str(weights),
        "device": device,
        "precision": precision,
        "deterministic": deterministic,
        "stride_px": stride,
        "box_px0": _box(region),
        "batch_size": batch_size,
        "attention": attention,
        "attention_kind": attention_kind,
        "attention_tokens": attention_tokens,
        "reliability": reliability,
        "features": features,
        "resume": resume,
        "on_mismatch": on_mismatch,
    }
    batch = Batch(planned, loaded, tuning, out, options, everything, part)
    if preflight:
        look(batch, json, quiet)
        return
    several = len(planned) > 1 or table is not None or part is not None
    results = _run(batch, several, cluster, json, quiet)
    if json:
        print_json(results if several else results[0])
    code = exit_code([result["status"] for result in results])
    if code:
        raise typer.Exit(code)


def exit_code(statuses: list[str]) -> int:
    """The contract's exit code for what became of the slides."""
    if "cancelled" in statuses:
        return 130
    bad = sum(status in BAD for status in statuses)
    return 0 if not bad else 1 if bad == len(statuses) else 3


def _run(batch: Batch, several: bool, cluster: str | None, json: bool, quiet: bool) -> list[dict[str, Any]]:
    """One slide, or one after the other; a slide that fails does not stop the next."""
    from pathotune.execution.batch import predict_many, predict_one

    with cancel_on_interrupt() as cancelled:
        if not several and cluster is None:
            result = follow(predict_one(batch, cancel=cancelled), quiet)
            for document in result["slides"]:
                say_result(document, quiet)
        else:
            stream = predict_many(batch, cancel=cancelled)
            if cluster is not None:
                from pathotune.execution.cluster import predict_on_cluster

                stream = predict_on_cluster(batch, cluster, cancel=cancelled)
            result = follow_slides(stream, live=not json, quiet=quiet)
            if result.get("table"):
                say(f"What became of each: {result['table']} and {Path(result['page']).name}", quiet)
    slides: list[dict[str, Any]] = result["slides"]
    return slides


def look(batch: Batch, json: bool, quiet: bool) -> None:
    """Print what a run would meet; exits 1 where no slide can be predicted, 3 where some cannot."""
    from pathotune.execution.preflight import preflight

    with cancel_on_interrupt() as cancelled:
        result = follow(preflight(batch, cancel=cancelled), quiet)
    if json:
        print_json(result)
    statuses = [row["status"] for row in result["slides"]]
    for row in result["slides"]:
        name = Path(row["slide"]).name
        if row["status"] in BAD:
            say(f"{name}: {row['status']}. {row['error']}")
        elif row["status"] != "done":
            need = "" if row["seconds"] is None else f", about {in_words(row['seconds'])}, {row['megabytes']:.1f} MB"
            facts = f"{row['mpp']:.3g} µm per pixel, {row['tissue_mm2']:.3g} mm² of tissue"
            say(f"{name}: {row['status']}, {facts}, {row['tiles']} tiles{need}", quiet)
    counts = ", ".join(f"{count} {status}" for status, count in Counter(statuses).items())
    need = ""
    if result["seconds"] is not None:
        need = f": about {in_words(result['seconds'])} and {result['megabytes']:.0f} MB with one process here"
    say(f"{len(statuses)} slides ({counts}), {result['tiles']} tiles to predict{need}.", quiet)
    if result["problem"]:
        say(result["problem"])
    code = exit_code(statuses)
    if code:
        raise typer.Exit(code)


@contextlib.contextmanager
def cancel_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Inside, the first Ctrl-C asks the work to stop after what it is at; the second stops it at once."""
    pressed = threading.Event()

    def on_interrupt(number: int, frame: Any) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()
        say("pathotune: stopping; what is done is kept. Press Ctrl-C again to stop at once.")

    try:
        before = signal.signal(signal.SIGINT, on_interrupt)
    except ValueError:  # not in the main thread, which alone gets signals
        yield pressed.is_set
        return
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def _box(text: str | None) -> list[float] | None:
    """A box from x,y,width,height."""
    if text is None:
        return None
    try:
        values = [float(value) for value in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 4 or not (values[2] > 0 and values[3] > 0):
        raise UsageError(f"--region {text!r} is not x,y,width,height in level-0 pixels, for example 1000,2000,512,512.")
    return values
