"""Pathways from GMT and CSV, and what does not line up with a table of expression."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pathotune.datasets.pathways import pathway_matrix, pathways_sha256, read_pathways
from pathotune.errors import FileMissing, TableUnreadable

EXPECTED = {"HYPOXIA": ("PGK1", "ENO2"), "IMMUNE": ("CD3E", "CD4", "PGK1")}


def test_every_layout_gives_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.gmt").write_text("HYPOXIA\tabout\tPGK1\tENO2\n\nIMMUNE\t\tCD3E\tCD4\tPGK1\t\n")
    (tmp_path / "b.csv").write_text("pathway,gene\nHYPOXIA,PGK1\nHYPOXIA,ENO2\nIMMUNE,CD3E\nIMMUNE,CD4\nIMMUNE,PGK1\n")
    (tmp_path / "c.csv").write_text(",HYPOXIA,IMMUNE\nPGK1,1,1\nENO2,1,0\nCD3E,0,1\nCD4,0,1\n")
    (tmp_path / "d.tsv").write_text("\tPGK1\tENO2\tCD3E\tCD4\nHYPOXIA\t1\t1\t0\t0\nIMMUNE\t1\t0\t1\t1\n")
    for name in ("a.gmt", "b.csv", "c.csv", "d.tsv"):
        read = read_pathways(tmp_path / name)
        assert {key: set(value) for key, value in read.items()} == {k: set(v) for k, v in EXPECTED.items()}, name
    assert pathways_sha256(EXPECTED) != pathways_sha256({**EXPECTED, "IMMUNE": ("CD3E",)})


def test_what_does_not_line_up_is_counted() -> None:
    pathways = {**EXPECTED, "OTHER": ("NOSUCH1", "NOSUCH2")}
    matrix = pathway_matrix(pathways, ("CD3E", "PGK1", "ERBB2", "GAPDH"))
    assert matrix.names == ("HYPOXIA", "IMMUNE")
    assert matrix.member.tolist() == [[0, 1, 0, 0], [1, 1, 0, 0]]
    assert matrix.genes_without == 2 and matrix.genes_unknown == 4 and matrix.pathways_without == ("OTHER",)
    assert [note.split()[0] for note in matrix.notes] == ["2", "4", "1"]
    scores = matrix.scores(np.asarray([[1, 3, 9, 9], [np.nan, np.nan, 0, 0]], dtype=np.float32))
    assert scores[0].tolist() == [3.0, 2.0] and np.isnan(scores[1]).all()
    assert not pathway_matrix(EXPECTED, ("CD3E", "CD4", "PGK1", "ENO2")).notes


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.gmt", "HYPOXIA\tPGK1\n", "line 1: a GMT line"),
        ("a.gmt", "A\tx\tPGK1\nA\tx\tENO2\n", "line 2: the pathway 'A' comes twice"),
        ("a.gmt", "A\tx\t\n", "names no gene"),
        ("a.csv", "", "no table of pathways"),
        ("a.csv", ",A,B\nPGK1,2,0\n", "no matrix of 0 and 1"),
        ("a.csv", ",A,B\nPGK1,yes,0\n", "every cell"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(TableUnreadable, match=says):
        read_pathways(tmp_path / name)


def test_nothing_in_common_or_no_file(tmp_path: Path) -> None:
    with pytest.raises(TableUnreadable, match="No pathway holds one of the 1 genes of the expression table"):
        pathway_matrix(EXPECTED, ("ENSG00000000001",))
    with pytest.raises(FileMissing):
        read_pathways(tmp_path / "no.gmt")


def test_real_hallmark(shared_data: Path) -> None:
    path = shared_data / "genesets" / "h.all.v7.0.symbols.gmt"
    if not path.is_file():
        pytest.skip("the gene sets are not on this machine")
    assert len(read_pathways(path)) == 50
