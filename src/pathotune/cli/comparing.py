"""`pathotune compare`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pathotune.cli.terminal import (
    DeviceOption,
    JsonOption,
    QuietOption,
    VerboseOption,
    follow,
    print_json,
    say,
    set_loudness,
)
from pathotune.errors import UsageError

if TYPE_CHECKING:
    from pathotune.events import Event

EXAMPLE = (
    "Example: pathotune compare --tiles tiles.csv --methods linear_probe,cite,pathotune --shots 4,16,all --out compared"
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compare", epilog=EXAMPLE)(compare)


def compare(
    out: Annotated[Path, typer.Option("--out", help="Folder for the table, the page and what is done so far.")],
    tiles: Annotated[
        Path | None,
        typer.Option(
            "--tiles", help="A table of tiles; rows whose column split is test are judged, the others learned."
        ),
    ] = None,
    cohort: Annotated[
        Path | None,
        typer.Option("--cohort", help="A table of whole slides in place of tiles; compares what learns from slides."),
    ] = None,
    features: Annotated[
        Path | None, typer.Option("--features", help="Tile features of the cohort that are there already.")
    ] = None,
    expression: Annotated[
        Path | None, typer.Option("--expression", help="Gene expression of the cohort's patients, for modaltune.")
    ] = None,
    pathways: Annotated[
        Path | None, typer.Option("--pathways", help="Which gene is in which pathway (GMT or CSV), for modaltune.")
    ] = None,
    clinical: Annotated[
        Path | None, typer.Option("--clinical", help="A table with site, stage … of each patient, for modaltune.")
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods",
            help="Names, separated by commas; settings in brackets: 'pathotune[ivp=off,ttp=off]', 'cite[text=random]' "
            "(text=random and text=permuted take the sentences away); 'pathotune[*]' is every combination of "
            "prompts. Of slides: 'mil[aggregator=clam_sb],mil[aggregator=mean]'; with modaltune among them all are "
            "judged by patients.",
        ),
    ] = None,
    backbones: Annotated[
        str,
        typer.Option("--backbones", help="Names, separated by commas; NAME@random has random weights."),
    ] = "pathotune-tiny",
    shots: Annotated[str, typer.Option("--shots", help="How many of each class: 1,4,16,all.")] = "all",
    shot_unit: Annotated[
        str, typer.Option("--shot-unit", help="What is counted: tile, slide, or largest-slide (most tiles first).")
    ] = "tile",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Draws of each.")] = 5,
    task: Annotated[
        str | None,
        typer.Option(
            "--task", help="A task card with the table's classes, for their sentences; see `pathotune tasks`."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="An option of the training, the same for all, as key=value; repeat it."),
    ] = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Train and judge methods and backbones under one protocol: the same draws, epochs and early stopping."""
    from pathotune.evaluation.shots import parse_shots
    from pathotune.evaluation.variants import names_of
    from pathotune.methods.options import parse_settings, with_settings
    from pathotune.training.schedule import TrainingConfig

    set_loudness(verbose, quiet)
    if (tiles is None) == (cohort is None):
        raise UsageError("Give --tiles, a table of tiles, or --cohort, a table of whole slides.")
    training = with_settings(TrainingConfig(), parse_settings(set_ or []))
    common = (names_of([backbones]), parse_shots(shots))
    events: Iterator[Event]
    tables = {"expression": expression, "pathways": pathways, "clinical": clinical}
    if cohort is not None:
        events = _of_cohort(cohort, features, tables, methods, (*common, "slide", seeds, training, task), out, device)
    else:
        _refuse(tables, "--tiles")
        from pathotune.datasets.tiles import read_tile_table
        from pathotune.evaluation.compare import CompareConfig
        from pathotune.evaluation.compare import compare as run

        of_tiles = names_of([methods or "linear_probe,pathotune"])
        config = CompareConfig(of_tiles, *common, shot_unit, seeds, training, task)
        events = run(read_tile_table(tiles), config, out, device)  # type: ignore[arg-type]
    result = follow(events, quiet)
    if json:
        print_json(result)
        return
    _say(result, quiet)


def _of_cohort(
    cohort: Path,
    features: Path | None,
    tables: dict[str, Path | None],
    methods: str | None,
    options: tuple[Any, ...],
    out: Path,
    device: str,
) -> Iterator[Event]:
    """The comparison of what learns from slides, or, with ModalTune among it, from patients."""
    from pathotune.datasets.cohort import CohortInputs, read_cohort
    from pathotune.evaluation.compare_slides import SlideCompareConfig, compare_slides
    from pathotune.evaluation.variants import names_of
    from pathotune.execution.compare_patients import PatientCompareConfig, compare_patients, is_of_patients

    words = names_of([methods or "mil[aggregator=mean],mil"])
    inputs = CohortInputs(read_cohort(cohort), features, tables["expression"], tables["pathways"], tables["clinical"])
    if is_of_patients(words):
        return compare_patients(inputs, PatientCompareConfig(words, *options), out, device)
    _refuse(tables, f"{', '.join(words)} alone")
    return compare_slides(inputs, SlideCompareConfig(words, *options), out, device)


def _refuse(tables: dict[str, Path | None], what: str) -> None:
    """Tables that nothing would read are a mistake, not a wish."""
    given = next((name for name, path in tables.items() if path is not None), None)
    if given:
        raise UsageError(f"--{given} is for modaltune on a --cohort; {what} does not read it.")


def _say(result: dict[str, Any], quiet: bool) -> None:
    """The means, and what the text is worth, in lines for people."""
    for entry in result["summary"]:
        against = f", {100 * entry['difference']:+.1f} points on the probe" if "difference" in entry else ""
        say(
            f"{entry['method']} · {entry['backbone']} · {entry['shots']}: balanced accuracy "
            f"{entry['balanced_accuracy']:.3f}{against}",
            quiet,
        )
    for verdict in result["text"]:
        say(verdict["said"], quiet)
    say(f"Page: {result['html']}", quiet)
