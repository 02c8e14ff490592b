"""Spots of every layout lie where they were measured, and what does not line up is counted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import io, sparse

from pathotune.datasets.expression import Expression
from pathotune.datasets.spots import (
    check_pitch,
    cohort_of_spots,
    match_tiles,
    read_spots,
    section_expression,
    slides_of,
)
from pathotune.errors import FileMissing, NoTiles, TableUnreadable

MPP = 0.5
BARCODES = tuple(f"{'ACGT' * 4}{letter * 2}-1".replace("AC", two, 1) for two in ("AA", "CC", "GG") for letter in "ACGT")
GENES = ("ERBB2", "GAPDH", "CD3E", "CD3E")
IDS = ("ENSG00000141736", "ENSG00000111640", "ENSG00000198851", "ENSG00000999999")
COUNTS = np.random.default_rng(0).poisson(3, size=(12, 5)).astype(np.float32)


def centres(pitch_um: float = 100.0) -> np.ndarray:
    """Twelve centres on a hexagonal lattice, as Visium has them; (x, y)."""
    places = [
        ((column + 0.5 * (row % 2)) * pitch_um, row * pitch_um * 0.8660254) for row in range(3) for column in range(4)
    ]
    return 300 + np.asarray(places) / MPP


def visium(folder: Path, *, header: bool = True, as_mtx: bool = False, pitch_um: float = 100.0) -> Path:
    """A folder as Space Ranger leaves it; the last barcode is off the tissue and not in the matrix."""
    spatial = folder / "spatial"
    spatial.mkdir(parents=True)
    lines = ["barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres"] if header else []
    for index, (barcode, (x, y)) in enumerate(zip(BARCODES, centres(pitch_um), strict=True)):
        lines.append(f"{barcode},{int(index < 11)},{index // 4},{index % 4},{y},{x}")
    name = "tissue_positions.csv" if header else "tissue_positions_list.csv"
    (spatial / name).write_text("\n".join(lines) + "\n")
    (spatial / "scalefactors_json.json").write_text(json.dumps({"spot_diameter_fullres": 110.0}))
    kinds = ["Gene Expression"] * 4 + ["Antibody Capture"]
    names, ids = [*GENES, "CD3"], [*IDS, "CD3_antibody"]
    matrix = sparse.csc_matrix(COUNTS[:11].T)
    if as_mtx:
        inner = folder / "filtered_feature_bc_matrix"
        inner.mkdir()
        with gzip.open(inner / "matrix.mtx.gz", "wb") as file:
            io.mmwrite(file, matrix)
        with gzip.open(inner / "barcodes.tsv.gz", "wt") as file:
            file.write("\n".join(BARCODES[:11]) + "\n")
        with gzip.open(inner / "features.tsv.gz", "wt") as file:
            file.write("\n".join("\t".join(line) for line in zip(ids, names, kinds, strict=True)) + "\n")
        return folder
    import h5py

    with h5py.File(folder / "filtered_feature_bc_matrix.h5", "w") as file:
        group = file.create_group("matrix")
        group["shape"] = matrix.shape
        group["data"], group["indices"], group["indptr"] = matrix.data, matrix.indices, matrix.indptr
        group["barcodes"] = np.asarray(BARCODES[:11], dtype="S")
        features = group.create_group("features")
        features["id"], features["name"] = np.asarray(ids, dtype="S"), np.asarray(names, dtype="S")
        features["feature_type"] = np.asarray(kinds, dtype="S")
    return folder


@pytest.mark.parametrize(("header", "as_mtx"), [(True, False), (False, False), (True, True)])
def test_visium_folders(tmp_path: Path, header: bool, as_mtx: bool) -> None:
    spots = read_spots(visium(tmp_path / "v", header=header, as_mtx=as_mtx))
    assert spots.names == BARCODES[:11] and spots.platform == "visium" and spots.diameter_px0 == 110
    assert np.allclose(np.stack([spots.x_px0, spots.y_px0], axis=1), centres()[:11]), "columns are x, rows are y"
    assert spots.expression is not None and spots.expression.samples == spots.names
    assert spots.expression.genes == ("ERBB2", "GAPDH", *IDS[2:]), "symbols that come twice are told apart"
    assert (spots.expression.columns(range(4)) == COUNTS[:11, :4]).all()
    assert any("1 of 12 spots" in said for said in spots.warnings)
    assert not check_pitch(spots, (MPP, MPP))


def test_outs_folder_and_what_is_missing(tmp_path: Path) -> None:
    visium(tmp_path / "run" / "outs")
    assert len(read_spots(tmp_path / "run")) == 11
    (tmp_path / "empty").mkdir()
    with pytest.raises(TableUnreadable, match="no Visium folder"):
        read_spots(tmp_path / "empty")
    with pytest.raises(FileMissing):
        read_spots(tmp_path / "none.csv")
    (tmp_path / "run" / "outs" / "filtered_feature_bc_matrix.h5").write_bytes(b"x")
    with pytest.raises(TableUnreadable, match="no matrix as 10x writes it"):
        read_spots(tmp_path / "run")


def test_an_implausible_pitch_is_refused_a_doubtful_one_said(tmp_path: Path) -> None:
    spots = read_spots(visium(tmp_path / "v"))
    with pytest.raises(TableUnreadable, match=r"50 µm apart at 0.25 µm per pixel.*it would be 0.5"):
        check_pitch(spots, (0.25, 0.25))
    assert "may be 0.5 rather than 0.57" in check_pitch(spots, (0.57, 0.57))[0]
    from dataclasses import replace

    unknown = replace(spots, platform="")
    assert not check_pitch(unknown, (1.0, 1.0)), "200 µm is ST's pitch"
    assert "none of the usual" in check_pitch(unknown, (0.75, 0.75))[0]


def test_tables_of_spots(tmp_path: Path) -> None:
    text = "x\ty\tpixel_x\tpixel_y\tselected\n10\t12\t100.5\t200\t1\n11\t12\t300\t200.25\t1\n12\t12\t500\t200\t0\n"
    (tmp_path / "st.tsv").write_text(text)
    spots = read_spots(tmp_path / "st.tsv")
    assert spots.names == ("10x12", "11x12") and spots.platform == "st" and spots.x_px0.tolist() == [100.5, 300]
    assert "1 of 3 spots" in spots.warnings[0]
    text = "slide,spot,x_px0,y_px0\na.svs,1x1,5,6\nb.svs,1x1,7,8\nb.svs,1x2,9,10\n"
    (tmp_path / "both.csv").write_text(text)
    assert slides_of(tmp_path / "both.csv") == ("a.svs", "b.svs")
    assert read_spots(tmp_path / "both.csv", slide="b.svs").names == ("1x1", "1x2")
    with pytest.raises(TableUnreadable, match="'1x1' more than once"):
        read_spots(tmp_path / "both.csv")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("spot,a,b\ns,1,2\n", "no centres of spots"),
        ("spot,x_px0,y_px0\ns,1,\n", "'row 2' need a number in 'y_px0'"),
        ("x_px0,y_px0\n1,2\n", "have no name"),
        ("spot,x_px0,y_px0,in_tissue\ns,1,2,0\n", "has no spots"),
    ],
)
def test_bad_tables_are_named(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(TableUnreadable, match=says):
        read_spots(tmp_path / "s.csv")


def test_spots_and_expression_are_joined_by_name_with_counts(tmp_path: Path) -> None:
    (tmp_path / "C2.csv").write_text("spot,x_px0,y_px0\n1x1,0,0\n1x2,10,0\n1x3,20,0\n")
    spots = read_spots(tmp_path / "C2.csv")
    values = np.asarray([[1], [2], [3]], dtype=np.float32)
    table = Expression(values, ("1x3", "1x1", "9x9"), ("ERBB2",), source="e.tsv")
    joined = section_expression(spots, table)
    assert joined.names == ("1x1", "1x3") and joined.expression is not None
    assert joined.expression.values[:, 0].tolist() == [2, 1]
    assert "1 of 3 spots of C2.csv have no expression" in joined.warnings[0]
    assert "1 rows of e.tsv belong to no spot" in joined.warnings[1]
    prefixed = Expression(values, ("C2_1x3", "C2_1x1", "C3_1x1"), ("ERBB2",), source="e.tsv")
    assert section_expression(spots, prefixed).names == ("C2_1x1", "C2_1x3")
    with pytest.raises(TableUnreadable, match="None of the 3 spots"):
        section_expression(spots, Expression(values, ("a", "b", "c"), ("ERBB2",), source="e.tsv"))
    with pytest.raises(TableUnreadable, match="no expression of its own"):
        section_expression(spots, None)


def test_a_table_of_spots_is_a_cohort_of_sections(tmp_path: Path) -> None:
    lines = ["slide,spot,x_px0,y_px0,split,mpp", "a.svs,1x1,5,6,,0.5", "b.svs,1x1,7,8,Test,", "b.svs,1x2,9,10,test,"]
    (tmp_path / "spots.csv").write_text("\n".join(lines))
    cohort = cohort_of_spots(tmp_path / "spots.csv")
    assert cohort is not None and cohort.slides == ("a.svs", "b.svs") and cohort.split == ("", "test")
    assert cohort.clinical["spots"] == ("spots.csv", "spots.csv") and cohort.slide_mpp(0) == 0.5
    assert read_spots(tmp_path / "spots.csv", slide="b.svs").names == ("1x1", "1x2")
    (tmp_path / "cohort.csv").write_text("slide,spots\na.svs,spots.csv\n")
    assert cohort_of_spots(tmp_path / "cohort.csv") is None


def test_spots_are_matched_with_the_tile_they_lie_in(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("spot,x_px0,y_px0\na,50,50\nb,149,50\nc,250,50\nd,900,900\n")
    spots = read_spots(tmp_path / "s.csv")
    corners = np.asarray([[100.0, 0.0], [0.0, 0.0], [400.0, 0.0]])
    match = match_tiles(spots, corners, (100.0, 100.0))
    assert match.spots.tolist() == [0, 1] and match.tiles.tolist() == [1, 0]
    assert match.spots_without == 2 and match.tiles_without == 1 and "2 spots have no tile" in match.notes[0]
    own = match_tiles(spots, spots.corners_px0((80.0, 80.0)), (80.0, 80.0))
    assert own.tiles.tolist() == [0, 1, 2, 3] and not own.notes
    with pytest.raises(NoTiles, match="None of the 4 spots lies in a tile"):
        match_tiles(spots, corners + 5000, (100.0, 100.0))


@pytest.mark.parametrize(("section", "mpp"), [("C2", 0.696), ("C3", 0.669), ("C4", 0.690)])
def test_real_section(shared_data: Path, section: str, mpp: float) -> None:
    path = shared_data / "st" / "her2st" / "spots" / f"{section}_selection.tsv"
    if not path.is_file():
        pytest.skip("her2st is not on this machine")
    spots = read_spots(path)
    assert spots.platform == "st" and not check_pitch(spots, (mpp, mpp))
    with pytest.raises(TableUnreadable, match="pixel size is wrong"):
        check_pitch(spots, (0.25, 0.25))
