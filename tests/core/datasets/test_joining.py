"""Joined cohorts from downloads laid out as those of Xena, GDC and cBioPortal; what does not match is counted."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pathotune.cli import app
from pathotune.datasets.cohort import read_cohort
from pathotune.datasets.expression import read_expression
from pathotune.datasets.genenames import read_gene_names
from pathotune.datasets.joining import JoinOptions, join_cohort
from pathotune.errors import NoTiles, TableUnreadable, UsageError
from pathotune.events import result_of
from pathotune.features import find_features

GENES = ("TP53", "ERBB2", "ESR1", "ACTB", "KRT5")
PATIENTS = tuple(f"TCGA-AA-{number:04d}" for number in range(30))


def value_of(sample: str, gene: str) -> float:
    """What the generated tables hold, so that a mix-up shows."""
    return round((sum(map(ord, sample)) * 7 + GENES.index(gene) * 13) % 97 / 8 + (sample[-1] == "6"), 4)


def samples() -> list[str]:
    """Primary tumours of all but the last three patients, and some others."""
    primary = [f"{patient}-01" for patient in PATIENTS[:27]]
    return [*primary, f"{PATIENTS[0]}-11", f"{PATIENTS[1]}-06", "TCGA-ZZ-9999-01"]


def xena(path: Path, genes: tuple[str, ...] = GENES, columns: list[str] | None = None) -> Path:
    """Genes × samples, gzipped, as Xena has it."""
    names = samples() if columns is None else columns
    lines = ["\t".join(["sample", *names])]
    lines += [
        "\t".join([gene, *(str(value_of(name, own)) for name in names)]) for gene, own in zip(genes, GENES, strict=True)
    ]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


def gdc(path: Path) -> Path:
    """Two rows a patient, as GDC has it; the last patient is missing, one has no slide, one class is rare."""
    columns = [
        *("case_id", "case_submitter_id", "vital_status", "days_to_death", "days_to_last_follow_up"),
        *("primary_diagnosis", "ajcc_pathologic_stage", "treatment_type"),
    ]
    rows = []
    for number, patient in enumerate((*PATIENTS[:29], "TCGA-YY-0001")):
        dead = number % 3 == 0
        diagnosis = "Rare" if number == 5 else ("Ductal, NOS", "Lobular, NOS")[number % 2]
        days = (str(100 + number), "'--") if dead else ("'--", str(1000 + number))
        for treatment in ("Radiation", "Pharmaceutical"):
            rows.append([f"u{number}", patient, "Dead" if dead else "Alive", *days, diagnosis, "Stage II", treatment])
    path.write_text("\n".join("\t".join(row) for row in [columns, *rows]) + "\n")
    return path


def slide_files(folder: Path) -> list[Path]:
    """A diagnostic slide a patient (the second has two), frozen and normal ones, and one that is nobody's."""
    names = [f"{patient}-01Z-00-DX1.0F3E-{number:02d}.svs" for number, patient in enumerate(PATIENTS)]
    names += [
        f"{PATIENTS[1]}-06Z-00-DX2.AAAA.svs",
        f"{PATIENTS[2]}-01A-01-TSA.BBBB.svs",
        f"{PATIENTS[3]}-11A-01-BS1.C.svs",
    ]
    paths = [folder / f"uuid{number}" / name for number, name in enumerate([*names, "unknown.svs"])]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.touch()
    return paths


@pytest.fixture
def download(tmp_path: Path) -> dict[str, Any]:
    return {
        "slides": slide_files(tmp_path / "slides"),
        "expression": xena(tmp_path / "TCGA-BRCA.star_fpkm.tsv.gz"),
        "clinical": [gdc(tmp_path / "clinical.tsv")],
        "out": tmp_path / "out",
    }


def unmatched(report: dict[str, Any]) -> dict[tuple[str, str], int]:
    return {(entry["kind"], entry["reason"].split(" (")[0]): entry["count"] for entry in report["unmatched"]}


def test_everything_of_a_patient_comes_together(download: dict[str, Any], tmp_path: Path) -> None:
    report = result_of(join_cohort(**download, options=JoinOptions(min_patients=2), base=tmp_path / "out"))
    cohort = read_cohort(report["files"]["cohort"])
    assert len(cohort) == 31 and set(cohort.patients) == set(PATIENTS)
    table = read_expression(report["files"]["expression"])
    known = table.row_of()
    for row, patient in enumerate(cohort.patients):
        sample = cohort.clinical["sample"][row]
        assert cohort.slide_path(row).resolve() in download["slides"]
        if not sample:
            assert patient in PATIENTS[27:]
            continue
        assert sample == f"{patient}-{'06' if 'DX2' in cohort.slides[row] else '01'}"
        expected = [value_of(sample, gene) for gene in table.genes]
        assert np.allclose(table.values[known[sample]], expected, atol=1e-6)
    number = cohort.patients.index(PATIENTS[6])
    assert cohort.labels[number] == "Ductal, NOS" and cohort.clinical["stage"][number] == "Stage II"
    assert cohort.event[number] == 1 and cohort.time[number] == pytest.approx(106 / 30.4375, abs=1e-3)
    assert cohort.labels[cohort.patients.index(PATIENTS[29])] is None


def test_what_does_not_match_is_counted_and_named(download: dict[str, Any]) -> None:
    report = result_of(join_cohort(**download, options=JoinOptions(min_patients=2)))
    assert unmatched(report) == {
        ("slide", "no TCGA barcode in its name, and not in the link table"): 1,
        ("slide", "frozen section"): 1,
        ("slide", "of normal tissue"): 1,
        ("sample", "its patient has no slide"): 1,
        ("sample", "of normal tissue"): 1,
        ("clinical patient", "has no slide"): 1,
        ("patient", "has no expression"): 3,
        ("patient", "is not in the clinical tables"): 1,
        ("label", "class 'Rare' has fewer than 2 patients"): 1,
    }
    with Path(report["files"]["unmatched"]).open() as file:
        rows = list(csv.DictReader(file))
    assert sum(entry["count"] for entry in report["unmatched"]) == len(rows)
    assert ("sample", "TCGA-ZZ-9999-01") in {(row["kind"], row["name"]) for row in rows}
    assert (report["slides"], report["patients"], report["with_expression"], report["with_clinical"]) == (
        31,
        30,
        27,
        29,
    )
    assert report["with_both"] == 27 and report["events"] == 10
    assert json.loads(Path(report["files"]["report"]).read_text())["slides"] == 31
    assert report["expression"]["unit"] == "log2(fpkm+1)" and report["expression"]["genes"] == 5
    assert report["clinical"]["rows"] == 60 and report["clinical"]["columns_used"]["diagnosis"] == "primary_diagnosis"
    assert not list(Path(report["files"]["cohort"]).parent.glob(".*"))


def test_splits_part_no_patient_and_rare_classes_are_learned_from_at_most(download: dict[str, Any]) -> None:
    report = result_of(join_cohort(**download, options=JoinOptions(min_patients=2)))
    cohort = read_cohort(report["files"]["cohort"])  # refuses a split that parts a patient
    count = Counter(cohort.split)
    assert set(count) == {"train", "val", "test"} and 4 <= count["test"] <= 9 and 2 <= count["val"] <= 8
    for name in count:
        rows = [row for row, split in enumerate(cohort.split) if split == name]
        assert {"Ductal, NOS", "Lobular, NOS"} <= set(cohort.take(rows).labels)
    assert cohort.split[cohort.patients.index(PATIENTS[5])] == "train"
    again = read_cohort(result_of(join_cohort(**download, options=JoinOptions(min_patients=2)))["files"]["cohort"])
    assert again.split == cohort.split
    other = read_cohort(result_of(join_cohort(**download, options=JoinOptions(seed=1)))["files"]["cohort"])
    assert other.split != cohort.split


@pytest.mark.parametrize("layout", ["samples in rows", "R's points", "cBioPortal", "csv.gz"])
def test_other_layouts_of_expression_give_the_same(layout: str, download: dict[str, Any], tmp_path: Path) -> None:
    names, path = samples(), tmp_path / "other.tsv"
    options = JoinOptions(expression_format="csv.gz" if layout == "csv.gz" else "h5ad")
    if layout == "samples in rows":
        rows = [["sample", *GENES], *([name, *(str(value_of(name, gene)) for gene in GENES)] for name in names)]
    elif layout == "cBioPortal":
        rows = [["Hugo_Symbol", "Entrez_Gene_Id", *names]]
        rows += [
            [gene, str(7000 + row), *(str(value_of(name, gene)) for name in names)] for row, gene in enumerate(GENES)
        ]
    else:
        shown = [name.replace("-", ".") for name in names] if layout == "R's points" else names
        rows = [["gene", *shown]]
        rows += [[gene, *(str(value_of(name, gene)) for name in names)] for gene in GENES]
    path.write_text("\n".join("\t".join(row) for row in rows) + "\n")
    report = result_of(join_cohort(**{**download, "expression": path}, options=options))
    cohort, table = read_cohort(report["files"]["cohort"]), read_expression(report["files"]["expression"])
    known = table.row_of()
    assert len(table) == 28 and report["expression"]["unit"] == "unknown"
    for row, patient in enumerate(cohort.patients[:27]):
        values = table.values[known[cohort.clinical["sample"][row]]]
        assert np.allclose(values, [value_of(f"{patient}-01", gene) for gene in table.genes], atol=1e-6)


def test_names_that_are_no_barcodes_are_matched_by_a_table(tmp_path: Path) -> None:
    slides = [tmp_path / name for name in ("one.svs", "two.ome.tif", "three.svs")]
    link = tmp_path / "link.csv"
    link.write_text("slide,patient,sample\none.svs,P1,RNA-7\ntwo,P2,RNA-8\n")
    matrix = tmp_path / "matrix.csv"
    matrix.write_text("gene,RNA-7,RNA-8,RNA-9\nTP53,1.5,2.5,3.5\nERBB2,0.25,-1,2\n")
    (tmp_path / "clinical.csv").write_text("patient,diagnosis\nP1,a\nP2,b\nP3,a\n")
    options = JoinOptions(link=link, test_fraction=0, val_fraction=0, min_patients=1, unit="log2 ratio")
    report = result_of(
        join_cohort(slides, tmp_path / "o", expression=matrix, clinical=[tmp_path / "clinical.csv"], options=options)
    )
    cohort = read_cohort(report["files"]["cohort"])
    assert cohort.patients == ("P1", "P2") and cohort.labels == ("a", "b")
    assert cohort.clinical["sample"] == ("RNA-7", "RNA-8")
    assert report["expression"]["unit"] == "log2 ratio"
    assert unmatched(report)["slide", "no TCGA barcode in its name, and not in the link table"] == 1
    assert unmatched(report)["clinical patient", "has no slide"] == 1


def test_gene_ids_become_symbols_and_those_without_are_counted(download: dict[str, Any], tmp_path: Path) -> None:
    ids = ("ENSG00000141510.18", "ENSG00000141736.13", "ENSG00000091831.24", "ENSG00000075624.17", "ENSG00000186081.12")
    probes = tmp_path / "gencode.v36.annotation.gtf.gene.probemap"
    probes.write_text(
        "id\tgene\tchrom\n" + "".join(f"{i}\t{g}\tchr1\n" for i, g in zip(ids[:4], GENES[:4], strict=True))
    )
    download["expression"] = xena(tmp_path / "ids.tsv.gz", ids)
    plain = result_of(join_cohort(**download))
    assert read_expression(plain["files"]["expression"]).genes[0] == "ENSG00000141510"
    assert plain["expression"]["genes_without_symbol"] == 5
    report = result_of(join_cohort(**download, options=JoinOptions(gene_map=probes)))
    assert read_expression(report["files"]["expression"]).genes == (*GENES[:4], "ENSG00000186081")
    assert (report["expression"]["genes_renamed"], report["expression"]["genes_without_symbol"]) == (4, 1)


def test_synonyms_are_replaced_unless_they_are_genes_themselves(tmp_path: Path) -> None:
    path = tmp_path / "hgnc.tsv"
    path.write_text(
        "Approved symbol\tAlias symbols\tPrevious symbols\nKMT2D\tALR, AAD10\tMLL2\nKMT2B\tTRX2\tMLL2, KMT2D\n"
    )
    names = read_gene_names(synonyms=path)
    assert names.of(["ALR", "KMT2D", "MLL2", "TRX2", "OTHER"]) == ["KMT2D", "KMT2D", "MLL2", "KMT2B", "OTHER"]
    assert names.renamed == 2
    with pytest.raises(TableUnreadable, match="no column of symbols"):
        path.write_text("a\tb\n1\t2\n")
        read_gene_names(synonyms=path)


def test_the_units_description_beside_the_matrix_is_believed(download: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "TCGA-BRCA.star_fpkm.tsv.gz.json").write_text('{"unit": "log2(fpkm-uq+1)"}')
    report = result_of(join_cohort(**download))
    assert report["expression"]["unit"] == "log2(fpkm-uq+1)" and "json" in report["expression"]["says"]


def test_classes_are_renamed_and_slides_without_what_is_required_left_out(download: dict[str, Any]) -> None:
    options = JoinOptions(
        map_classes={"Ductal, NOS": "ductal", "Lobular, NOS": "lobular", "Rare": ""}, require=("expression", "label")
    )
    report = result_of(join_cohort(**download, options=options))
    assert report["classes"] == {"ductal": 14, "lobular": 12} and report["patients"] == 26
    assert unmatched(report)["slide", "left out: its patient has no expression"] == 2
    assert unmatched(report)["slide", "left out: its patient has no label"] == 1
    assert unmatched(report)["slide", "left out: its patient has no expression and no label"] == 1


def test_frozen_slides_only_when_they_are_asked_for(download: dict[str, Any]) -> None:
    frozen = result_of(join_cohort(**download, options=JoinOptions(slide_kinds="frozen", label="")))
    assert frozen["slides"] == 1 and "No split" in frozen["notes"][0]
    both = result_of(join_cohort(**download, options=JoinOptions(slide_kinds="all")))
    assert both["slides"] == 32


def test_a_cohort_without_expression_or_without_clinical_facts(download: dict[str, Any]) -> None:
    only = result_of(join_cohort(download["slides"], download["out"], clinical=download["clinical"]))
    assert "expression" not in only["files"] and only["with_expression"] == 0
    other = result_of(
        join_cohort(
            download["slides"], download["out"], expression=download["expression"], options=JoinOptions(label="")
        )
    )
    assert "clinical" not in other["files"] and other["split"]["test"] >= 4
    assert not any(entry["kind"] == "clinical patient" for entry in other["unmatched"])


def test_nothing_in_common_is_refused_with_examples(download: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(TableUnreadable, match=r"no TCGA barcode.*--link.*unknown.svs"):
        result_of(join_cohort([tmp_path / "unknown.svs"], tmp_path / "o", clinical=download["clinical"]))
    strange = xena(tmp_path / "strange.tsv.gz", columns=["TCGA-QQ-0001-01", "TCGA-QQ-0002-01"])
    with pytest.raises(TableUnreadable, match=r"no sample of the 30 patients.*TCGA-QQ-0001-01"):
        result_of(join_cohort(**{**download, "expression": strange}))
    with pytest.raises(TableUnreadable, match="no column 'subtype' for the class"):
        result_of(join_cohort(**download, options=JoinOptions(label="subtype")))
    for wrong in ({"slide_kinds": "x"}, {"require": ("luck",)}, {"expression_format": "xlsx"}, {"test_fraction": 1.5}):
        with pytest.raises(UsageError):
            JoinOptions(**wrong)  # type: ignore[arg-type]


def test_the_command(download: dict[str, Any], tmp_path: Path) -> None:
    arguments = ["--slides", tmp_path / "slides", "--expression", download["expression"], "--out", tmp_path / "o"]
    arguments += ["--clinical", download["clinical"][0], "--map-class", "Ductal, NOS=ductal", "--json"]
    result = CliRunner().invoke(app, ["cohort", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    cohort = read_cohort(report["files"]["cohort"])
    assert "ductal" in cohort.classes and cohort.slide_path(0).is_file()
    people = CliRunner().invoke(app, ["cohort", *map(str, arguments[:-1])])
    assert "31 of 34 slides of 30 patients" in people.stderr and people.stdout == ""


def test_features_stand_for_slides_that_are_elsewhere(download: dict[str, Any], tmp_path: Path) -> None:
    for path in download["slides"]:
        features = tmp_path / "features" / f"{path.stem}.h5"
        features.parent.mkdir(exist_ok=True)
        features.touch()
    arguments = ["--slides", tmp_path / "features", "--clinical", download["clinical"][0], "--out", tmp_path / "o"]
    result = CliRunner().invoke(app, ["cohort", *map(str, arguments), "--json"])
    report = json.loads(result.stdout)
    cohort = read_cohort(report["files"]["cohort"])
    assert len(cohort) == 31 and all(find_features(tmp_path / "features", slide) for slide in cohort.slides)
    assert not any("/" in slide or slide.endswith(".h5") for slide in cohort.slides)
    assert isinstance(
        CliRunner().invoke(app, ["cohort", "--slides", str(tmp_path), "--out", "o"]).exception, UsageError
    )
    (tmp_path / "empty").mkdir()
    empty = [
        "cohort",
        "--slides",
        str(tmp_path / "empty"),
        "--clinical",
        str(arguments[3]),
        "--out",
        str(tmp_path / "o"),
    ]
    assert isinstance(CliRunner().invoke(app, empty).exception, NoTiles)
