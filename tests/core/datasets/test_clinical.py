"""Clinical tables laid out as GDC, Xena and cBioPortal give them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pathotune.datasets.barcodes import barcode_of, patient_of
from pathotune.datasets.clinical import read_clinical
from pathotune.errors import TableUnreadable


def write(path: Path, rows: list[list[str]], above: str = "") -> Path:
    path.write_text(above + "".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return path


GDC = [
    [
        *("case_id", "case_submitter_id", "project_id", "age_at_index", "days_to_death", "gender", "vital_status"),
        *("ajcc_pathologic_m", "ajcc_pathologic_n", "ajcc_pathologic_stage", "ajcc_pathologic_t", "primary_diagnosis"),
        *("tissue_or_organ_of_origin", "days_to_last_follow_up", "morphology", "treatment_type", "prior_malignancy"),
    ],
    *[
        [
            *("u1", "TCGA-AA-0001", "TCGA-BRCA", "63", "'--", "female", "Alive"),
            *("M0", "N0 (i-)", "Stage IIA", "T2", "Infiltrating duct carcinoma, NOS", "Breast, NOS", follow_up),
            *("8500/3", treatment, "no"),
        ]
        for treatment, follow_up in (("Radiation", "730.5"), ("Pharmaceutical", "100"))
    ],
    [
        *("u2", "TCGA-AA-0002", "TCGA-BRCA", "'--", "365.25", "male", "Dead"),
        *("MX", "'--", "stage iiic", "t4b", "Lobular carcinoma, NOS", "Breast, NOS", "9999"),
        *("8520/3", "Radiation", "Not Reported"),
    ],
    ["u3", "TCGA-AA-0003", "TCGA-BRCA", "50", "'--", "female", "Dead", *["'--"] * 10],
    ["u4", "TCGA-AA-0004", "TCGA-BRCA", "51", "'--", "female", "Not Reported", *["'--"] * 10],
    ["u5", "TCGA-AA-0005", "TCGA-BRCA", "52", "'--", "female", "Alive", *["'--"] * 6, "-3", *["'--"] * 3],
]


def test_gdcs_table_with_a_row_for_each_treatment_gives_one_row_a_patient(tmp_path: Path) -> None:
    clinical = read_clinical([write(tmp_path / "clinical.tsv", GDC)])
    assert clinical.patients == tuple(f"TCGA-AA-000{number}" for number in range(1, 6))
    first, second = clinical.of("TCGA-AA-0001"), clinical.of("TCGA-AA-0002")
    assert (first["stage"], first["t"], first["n"], first["m"]) == ("Stage IIA", "T2", "N0 (i-)", "M0")
    assert (first["months"], first["event"], first["age"], first["sex"]) == ("24", "0", "63", "female")
    assert (second["stage"], second["t"], second["n"], second["m"]) == ("Stage IIIC", "T4b", "", "MX")
    assert (second["months"], second["event"], second["age"]) == ("12", "1", "")
    assert first["diagnosis"] == "Infiltrating duct carcinoma, NOS" and first["site"] == "Breast, NOS"
    assert clinical.used["stage"] == "ajcc_pathologic_stage" and clinical.conflicts == ()
    assert clinical.columns["morphology"] == ("8500/3", "8520/3", "", "", "")
    assert not {"treatment_type", "case_id"} & set(clinical.columns)
    counts = {"rows": 6, "patients": 5, "without_status": 1, "without_time": 1, "negative_time": 1}
    assert clinical.counts == counts
    assert clinical.of("TCGA-AA-0003")["event"] == "" == clinical.of("TCGA-AA-0005")["months"]
    assert clinical.of("nobody") == {}


def test_gdcs_newer_columns_name_their_section_and_the_primary_diagnosis_counts(tmp_path: Path) -> None:
    columns = [
        *("project.project_id", "cases.case_id", "cases.submitter_id", "demographic.vital_status"),
        *("demographic.days_to_death", "diagnoses.classification_of_tumor", "diagnoses.primary_diagnosis"),
        *("diagnoses.days_to_last_follow_up", "treatments.treatment_id", "diagnoses.age_at_diagnosis"),
    ]
    rows = [
        ["P", "u", "TCGA-BB-0001", "Alive", "'--", "metastasis", "Metastatic carcinoma", "'--", "x", "'--"],
        ["P", "u", "TCGA-BB-0001", "Alive", "'--", "primary", "Adenocarcinoma", "365.25", "y", "21915"],
        ["P", "u", "TCGA-BB-0002", "Alive", "'--", "primary", "Adenocarcinoma", "730.5", "z", "22280"],
    ]
    clinical = read_clinical([write(tmp_path / "clinical.tsv", [columns, *rows])])
    facts = clinical.of("TCGA-BB-0001")
    assert (facts["diagnosis"], facts["months"], facts["age"]) == ("Adenocarcinoma", "12", "60")
    assert clinical.conflicts == (("TCGA-BB-0001", "diagnosis", "Adenocarcinoma | Metastatic carcinoma"),)


def test_xenas_tables_of_samples_are_joined_and_normal_samples_passed_over(tmp_path: Path) -> None:
    phenotype = write(
        tmp_path / "phenotype.tsv",
        [
            ["sample", "_PATIENT", "histological_type", "pathologic_stage", "age_at_initial_pathologic_diagnosis"],
            ["TCGA-CC-0001-01", "TCGA-CC-0001", "Infiltrating Ductal Carcinoma", "Stage I", "40"],
            ["TCGA-CC-0002-01", "TCGA-CC-0002", "[Not Available]", "[Discrepancy]", "41"],
        ],
    )
    survival = write(
        tmp_path / "survival.txt",
        [
            ["sample", "_PATIENT", "OS", "OS.time", "PFI", "PFI.time"],
            ["TCGA-CC-0001-11", "TCGA-CC-0001", "0", "1", "0", "1"],
            ["TCGA-CC-0001-01", "TCGA-CC-0001", "1", "365.25", "1", "182.625"],
            ["TCGA-CC-0002-01", "TCGA-CC-0002", "0", "730.5", "", ""],
        ],
    )
    clinical = read_clinical([phenotype, survival], patient_column="sample")
    assert clinical.patients == ("TCGA-CC-0001", "TCGA-CC-0002")
    assert clinical.of("TCGA-CC-0001")["months"] == "12" and clinical.of("TCGA-CC-0001")["event"] == "1"
    assert clinical.of("TCGA-CC-0002")["diagnosis"] == "" == clinical.of("TCGA-CC-0002")["stage"]
    other = read_clinical([phenotype, survival], patient_column="sample", endpoint="PFI")
    assert other.columns["months"] == ("6", "") and other.columns["event"] == ("1", "")


def test_xenas_table_of_gdc_names_the_section_behind(tmp_path: Path) -> None:
    columns = [
        *("sample", "submitter_id", "primary_site", "vital_status.demographic", "days_to_death.demographic"),
        *("primary_diagnosis.diagnoses", "ajcc_pathologic_stage.diagnoses", "treatment_type.treatments.diagnoses"),
    ]
    rows = [
        [
            f"TCGA-DD-000{number}-{kind}",
            f"TCGA-DD-000{number}",
            "Breast",
            "Dead",
            "365.25",
            "Lobular",
            "Stage IV",
            "['x']",
        ]
        for number, kind in ((1, "01A"), (1, "11A"), (2, "01A"))
    ]
    clinical = read_clinical([write(tmp_path / "TCGA-BRCA.clinical.tsv", [columns, *rows])])
    facts = clinical.of("TCGA-DD-0001")
    assert (facts["diagnosis"], facts["stage"], facts["months"], facts["event"]) == ("Lobular", "Stage IV", "12", "1")
    assert len(clinical) == 2 and clinical.conflicts == () and facts["site"] == "Breast"


def test_cbioportals_head_lines_and_statuses_are_read(tmp_path: Path) -> None:
    above = "#Patient Identifier\tOS Status\tOS Months\n#text\ttext\ttext\n#STRING\tSTRING\tNUMBER\n#1\t1\t1\n"
    patients = write(
        tmp_path / "data_clinical_patient.txt",
        [["PATIENT_ID", "OS_STATUS", "OS_MONTHS", "PATH_T_STAGE", "AGE"], ["P-1", "1:DECEASED", "10.5", "T1C", "70"]],
        above,
    )
    samples = write(
        tmp_path / "data_clinical_sample.txt",
        [
            ["PATIENT_ID", "SAMPLE_ID", "CANCER_TYPE_DETAILED"],
            ["P-1", "P-1-T1", "Lobular"],
            ["P-2", "P-2-T1", "Ductal"],
        ],
        above,
    )
    clinical = read_clinical([patients, samples])
    assert clinical.patients == ("P-1", "P-2")
    facts = clinical.of("P-1")
    assert (facts["months"], facts["event"], facts["t"], facts["diagnosis"]) == ("10.5", "1", "T1c", "Lobular")
    assert clinical.of("P-2")["event"] == ""


def test_what_we_write_is_read_again(tmp_path: Path) -> None:
    text = "patient,site,stage,months,event,age\nP1,Lung,Stage I,3.5,1,60\nP2,Lung,Stage IV,7,0,61\n"
    (tmp_path / "clinical.csv").write_text(text)
    clinical = read_clinical([tmp_path / "clinical.csv"])
    assert clinical.columns["months"] == ("3.5", "7") and clinical.columns["event"] == ("1", "0")
    assert clinical.columns["site"] == ("Lung", "Lung")


def test_a_table_without_patients_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", [["name", "stage"], ["a", "Stage I"]])
    with pytest.raises(TableUnreadable, match="--patient-column"):
        read_clinical([path])
    with pytest.raises(TableUnreadable, match="no column 'who'"):
        read_clinical([path], patient_column="who")
    assert read_clinical([path], patient_column="name").patients == ("a",)
    with pytest.raises(TableUnreadable, match="names no patient"):
        read_clinical([write(path, [["patient"], ["'--"]])])


def test_barcodes() -> None:
    slide = barcode_of("slides/TCGA-A7-A0CE-01Z-00-DX1.0F3E8A4B-11.svs")
    assert slide == ("TCGA-A7-A0CE", "01", "Z", "DX1") and not slide.is_frozen
    frozen = barcode_of("TCGA-A7-A0CE-01A-02-TSB.aaaa.svs")
    assert frozen is not None and frozen.is_frozen and frozen.slide == "TSB"
    normal = barcode_of("TCGA-A7-A0CE-11A-33R-A089-07")
    assert normal is not None and normal.is_normal
    assert barcode_of("tcga.a7.a0ce.01") == ("TCGA-A7-A0CE", "01", "", "")
    assert barcode_of("TCGA-A7-A0CE") == ("TCGA-A7-A0CE", "", "", "")
    assert barcode_of("TCGA-A7-A0CEX") is None and barcode_of("P1") is None
    assert patient_of("TCGA-A7-A0CE-01A") == "TCGA-A7-A0CE" and patient_of("P1") == "P1"
