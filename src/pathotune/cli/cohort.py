"""`pathotune cohort`: the joined tables of a cohort from what people download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pathotune.cli.terminal import JsonOption, QuietOption, VerboseOption, follow, print_json, say, set_loudness
from pathotune.errors import NoTiles, UsageError

EXAMPLE = (
    "Example: pathotune cohort --slides TCGA-BRCA/ --expression TCGA-BRCA.star_fpkm.tsv.gz --clinical clinical.tsv "
    "--label diagnosis --out cohort/"
)

SlidesOption = Annotated[
    list[Path],
    typer.Option("--slides", help="Folders of slides (subfolders too) or of tile features; repeat for more."),
]
ExpressionOption = Annotated[
    Path | None, typer.Option("--expression", help="A matrix of Xena or cBioPortal, or any table of expression.")
]
ClinicalOption = Annotated[
    list[Path] | None,
    typer.Option("--clinical", help="GDC's clinical.tsv, tables of Xena or cBioPortal; repeat for more of them."),
]
OutOption = Annotated[
    Path, typer.Option("--out", help="Folder for cohort.csv, clinical.csv, expression and the report.")
]
LabelOption = Annotated[str, typer.Option("--label", help="The clinical column that becomes the class; '' for none.")]
MapOption = Annotated[
    list[str] | None,
    typer.Option("--map-class", help="'VALUE=CLASS', or 'VALUE=' to leave it without a class; repeat for each value."),
]
KindsOption = Annotated[str, typer.Option("--slide-kinds", help="Of TCGA slides: diagnostic, frozen or all.")]
TypesOption = Annotated[
    str | None,
    typer.Option("--sample-types", help="TCGA codes of samples that may stand for a patient, the best first: 01,06."),
]
LinkOption = Annotated[
    Path | None,
    typer.Option("--link", help="A table with slide, patient (and sample) for names without a TCGA barcode."),
]
ColumnOption = Annotated[str | None, typer.Option("--patient-column", help="The column of patients in --clinical.")]
EndpointOption = Annotated[
    str, typer.Option("--endpoint", help="Which survival: os, or pfi, dss, dfs where it is given.")
]
GeneMapOption = Annotated[
    Path | None, typer.Option("--gene-map", help="A table of Ensembl ids and symbols, such as Xena's probe maps.")
]
SynonymsOption = Annotated[
    Path | None, typer.Option("--synonyms", help="A table of other names of genes and their symbols, as HGNC has it.")
]
RequireOption = Annotated[
    str, typer.Option("--require", help="Leave out slides without these: expression, clinical, label, survival.")
]
FewOption = Annotated[int, typer.Option("--min-patients", min=1, help="Classes of fewer patients get no label.")]
TestOption = Annotated[
    float, typer.Option("--test-fraction", help="Part of the patients kept for the test; 0 for none.")
]
ValOption = Annotated[float, typer.Option("--val-fraction", help="Part of the rest kept for validation; 0 for none.")]
SeedOption = Annotated[int, typer.Option("--seed", help="The same seed gives the same split.")]
UnitOption = Annotated[
    str, typer.Option("--unit", help="What the expression values are, where the download does not say.")
]
FormatOption = Annotated[str, typer.Option("--expression-format", help="h5ad or csv.gz.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("cohort", epilog=EXAMPLE)(cohort)


def cohort(
    slides: SlidesOption,
    out: OutOption,
    expression: ExpressionOption = None,
    clinical: ClinicalOption = None,
    label: LabelOption = "diagnosis",
    map_class: MapOption = None,
    slide_kinds: KindsOption = "diagnostic",
    sample_types: TypesOption = None,
    link: LinkOption = None,
    patient_column: ColumnOption = None,
    endpoint: EndpointOption = "os",
    gene_map: GeneMapOption = None,
    synonyms: SynonymsOption = None,
    require: RequireOption = "",
    min_patients: FewOption = 3,
    test_fraction: TestOption = 0.2,
    val_fraction: ValOption = 0.15,
    seed: SeedOption = 0,
    unit: UnitOption = "",
    expression_format: FormatOption = "h5ad",
    as_json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Join slides, expression and clinical tables into a cohort with patient-level splits."""
    from pathotune.datasets.joining import JoinOptions, join_cohort

    set_loudness(verbose, quiet)
    if expression is None and not clinical:
        raise UsageError("Name what is to be joined with the slides: --expression TABLE, --clinical TABLE, or both.")
    extra: dict[str, Any] = {"sample_types": tuple(_listed(sample_types))} if sample_types else {}
    options = JoinOptions(
        label=label if clinical else "",
        map_classes=_mapping(map_class or []),
        slide_kinds=slide_kinds,
        link=link,
        patient_column=patient_column,
        endpoint=endpoint,
        gene_map=gene_map,
        synonyms=synonyms,
        require=tuple(_listed(require)),
        min_patients=min_patients,
        test_fraction=test_fraction,
        val_fraction=val_fraction,
        seed=seed,
        unit=unit,
        expression_format=expression_format,
        **extra,
    )
    found, base = slides_in(slides, out)
    stream = join_cohort(found, out, expression=expression, clinical=clinical or (), options=options, base=base)
    report = follow(stream, quiet)
    if as_json:
        print_json(report)
    else:
        _say(report, len(found), quiet)


def slides_in(folders: list[Path], out: Path) -> tuple[list[Path], Path | None]:
    """The slides below these folders, and the folder they are written relative to.

    Where there is none, the files of tile features stand for theirs: then only the slides' names are known.

    Raises
    ------
    FileMissing, NoTiles : no such folder, or nothing in it.
    """
    from pathotune.inference.inputs import collect_slides

    try:
        return [item.path for item in collect_slides(folders, recursive=True)], out
    except NoTiles:
        features = [path for folder in folders for path in sorted(folder.rglob("*.h5"))]
        if not features:
            raise
        return [Path(path.stem) for path in features], None


def _listed(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _mapping(texts: list[str]) -> dict[str, str]:
    """Value → class; the last "=" parts them, as values may hold one."""
    mapping = {}
    for text in texts:
        value, sign, name = text.rpartition("=")
        if not sign or not value:
            raise UsageError(
                f"--map-class {text!r} is not VALUE=CLASS, for example 'Infiltrating duct carcinoma, NOS=ductal'."
            )
        mapping[value.strip()] = name.strip()
    return mapping


def _say(report: dict[str, Any], found: int, quiet: bool) -> None:
    """The report for people."""
    say(
        f"{report['slides']} of {found} slides of {report['patients']} patients: {report['with_expression']} with "
        f"expression, {report['with_clinical']} with clinical facts, {report['with_both']} with both, "
        f"{report['with_survival']} with survival ({report['events']} events).",
        quiet,
    )
    for title in ("classes", "split"):
        counts = ", ".join(f"{name or 'none'} {count}" for name, count in report[title].items())
        say(f"{title} (patients): {counts or 'none'}", quiet)
    for entry in report["unmatched"]:
        say(f"  {entry['count']} × {entry['kind']}: {entry['reason']}", quiet)
    say(f"Names of what did not match: {report['files']['unmatched']}", quiet)
    say(f"Wrote {', '.join(path for name, path in report['files'].items() if name != 'unmatched')}", quiet)
