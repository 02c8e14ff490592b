"""A cohort patient by patient: tables of many namings, samples of patients, tiles of several slides."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from pathotune.datasets.cohort import CohortInputs, read_cohort
from pathotune.datasets.expression import Expression, GeneScaler
from pathotune.errors import TableUnreadable
from pathotune.features import FeatureSet
from pathotune.training.bags import Bags
from pathotune.training.modaltune import GAP_PX, PatientData
from pathotune.training.patients import member_matrix, membership, ordinal, patient_table, samples_of, with_genes

COHORT = """slide,patient,label,time,event,project
a1.svs,A,ductal,12,1,TCGA-BRCA
a2.svs,A,ductal,12,1,TCGA-BRCA
TCGA-AB-1234-01Z-00-DX1.F0.svs,B,lobular,30,0,TCGA-BRCA
c.svs,C,,,,
"""
CLINICAL = """case_id,primary_diagnosis,ajcc_pathologic_stage,ajcc_pathologic_t,age_at_index
A,Infiltrating duct carcinoma,Stage IIA,T2,61
B,Lobular carcinoma,Not Reported,TX,
Z,other,Stage I,T1,50
"""


@pytest.fixture
def inputs(tmp_path):
    (tmp_path / "cohort.csv").write_text(COHORT)
    (tmp_path / "clinical.csv").write_text(CLINICAL)
    return CohortInputs(read_cohort(tmp_path / "cohort.csv"), clinical=tmp_path / "clinical.csv")


def expression_of(samples, genes=("G1", "G2", "G3")):
    values = np.arange(len(samples) * len(genes), dtype=np.float32).reshape(len(samples), len(genes)) - 0.5
    return Expression(values, tuple(samples), tuple(genes))


def test_tables_of_many_namings_are_one(inputs):
    table = patient_table(inputs.cohort, inputs, inputs.cohort.classes)
    assert table.names == ("A", "B", "C") and table.rows == ((0, 1), (2,), (3,))
    assert table.labels.tolist() == [0, 1, -1]
    first, second, third = table.facts
    assert (first.site, first.diagnosis, first.stage, first.t) == (
        "TCGA-BRCA",
        "Infiltrating duct carcinoma",
        "Stage IIA",
        "T2",
    )
    assert second.stage == "" and (second.time, second.event) == (30.0, 0)
    assert third.site == third.diagnosis == "" and third.event == -1 and math.isnan(third.time)
    assert table.notes == ("1 of 3 patients are not in clinical.csv.",)
    numbers, known = table.clinical(oldest=122.0)
    assert known.tolist() == [True, False, False]
    assert numbers[0].tolist() == [0.5, 0.5, 0.5, 0, 0] and not numbers[1:].any()
    assert table.of_rows([1, 3]).tolist() == [0, 2]


def test_what_cannot_be_one_patient_is_said(inputs, tmp_path):
    (tmp_path / "other.csv").write_text("case_id,stage\nZ,I\n")
    with pytest.raises(TableUnreadable, match=r"None of the 3 patients .* other\.csv"):
        patient_table(inputs.cohort, CohortInputs(inputs.cohort, clinical=tmp_path / "other.csv"), ())
    (tmp_path / "other.csv").write_text("who,stage\nA,I\n")
    with pytest.raises(TableUnreadable, match="no column that names the patient"):
        patient_table(inputs.cohort, CohortInputs(inputs.cohort, clinical=tmp_path / "other.csv"), ())
    (tmp_path / "two.csv").write_text("slide,patient,label\na,A,x\nb,A,y\n")
    two = read_cohort(tmp_path / "two.csv")
    with pytest.raises(TableUnreadable, match="'A' have the labels x, y"):
        patient_table(two, CohortInputs(two), two.classes)


@pytest.mark.parametrize(
    ("text", "number"),
    [("Stage IIIA", 3), ("T2b", 2), ("N0", 0), ("Stage IV", 4), ("M1", 1), ("2", 2), ("MX", None), ("", None)],
)
def test_stages_as_numbers(text, number):
    assert math.isnan(ordinal(text)) if number is None else ordinal(text) == number


def test_samples_are_found_by_patient_slide_or_barcode(inputs):
    table = patient_table(inputs.cohort, inputs, inputs.cohort.classes)
    found = samples_of(table, inputs.cohort, expression_of(["c", "A-2", "A-1", "TCGA-AB-1234-11", "TCGA-AB-1234-01"]))
    assert found.tolist() == [2, 4, 0]
    assert samples_of(table, inputs.cohort, expression_of(["TCGA-AB-9999-01", "AA-1", "X"])).tolist() == [-1, -1, -1]


def test_the_scaler_knows_the_training_patients_alone(inputs):
    table = patient_table(inputs.cohort, inputs, inputs.cohort.classes)
    expression = expression_of(["A", "B", "C"])
    expression.values[2] = [-900, 900, np.nan]
    scaler = GeneScaler.fit(expression, [0, 1])
    full = with_genes(table, np.array([0, 1, -1]), expression, scaler)
    assert np.allclose(full.genes[:2], [[-1, -1, -1], [1, 1, 1]]) and not full.genes[2].any()
    assert full.has_genes.tolist() == [True, True, False] and "1 of 3 patients have no expression" in full.notes[-1]
    assert not full.without_genes().has_genes.any()
    missing = with_genes(table, np.array([0, 1, 2]), expression, scaler)
    assert missing.genes[2, 2] == 0 and missing.has_genes.all()  # a value that is missing is the training mean


def test_pathways_travel_as_numbers():
    member = (np.random.default_rng(0).random((6, 40)) < 0.3).astype(np.float32)
    member[:, 3] = 1
    assert np.array_equal(member_matrix(membership(member), 40), member)
    assert member_matrix({}, 40) is None


def slide_file(folder, name, tiles, first=0.0, tile_px0=448.0):
    """Tiles one below the other, the feature of each its number."""
    places = np.stack([np.zeros(tiles), first + np.arange(tiles) * tile_px0], axis=1)
    features = np.arange(tiles, dtype=np.float32)[:, None] + np.zeros((1, 3), np.float32)
    return FeatureSet(
        features=features,
        coords_px0=places,
        backbone="b",
        mpp=0.5,
        tile_px=224,
        image_px=224,
        tile_px0=(tile_px0, tile_px0),
        slide=name,
        slide_fingerprint=name,
    ).save(folder / f"{name}.h5")


def test_slides_of_a_patient_never_lie_on_each_other(tmp_path):
    """The published code shifts a slide by the height of the last one, so that a third may lie on the second."""
    heights = (2, 9, 3)
    paths = [slide_file(tmp_path, f"s{number}", tiles) for number, tiles in enumerate(heights)]
    paths[2] = slide_file(tmp_path, "s2", 3, tile_px0=224.0)  # another scanner: twice the pixel size
    data = PatientData(SimpleNamespace(genes=None), Bags(paths), ((0, 1, 2),), None, most_tiles=100)
    features, places = data.tiles(0, 0)
    assert features[:, 0].tolist() == [0, 1, *range(9), 0, 1, 2]  # as the tables have them
    ends = np.cumsum(heights)
    spans = [places[start:end, 1] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    assert all(np.allclose(np.diff(span), 224) for span in spans)  # in pixels of the size tiles are read at
    assert spans[1].min() == pytest.approx(spans[0].max() + GAP_PX)
    assert spans[2].min() == pytest.approx(spans[1].max() + GAP_PX)
    assert spans[2].min() > max(span.max() for span in spans[:2])


def test_of_too_many_tiles_a_part_is_drawn_in_its_order(tmp_path):
    data = PatientData(SimpleNamespace(genes=None), Bags([slide_file(tmp_path, "s", 50)]), ((0,),), None, most_tiles=20)
    drawn = [data.tiles(0, seed)[0][:, 0] for seed in (1, 1, 2)]
    assert len(drawn[0]) == 20 and (np.diff(drawn[0]) > 0).all()
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])
