"""Tables of expression: every layout gives the same matrix, and nothing but training rows shapes its scale."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from pathotune.datasets.expression import Expression, GeneScaler, read_expression, renamed, variable_genes
from pathotune.datasets.genes import gene_likeness, harmonised
from pathotune.errors import FileMissing, TableUnreadable, TuningUnreadable

GENES = ("ERBB2", "GAPDH", "KRT19", "CD3E", "FO538757.1")
SAMPLES = tuple(f"TCGA-A{index}-0001-01" for index in range(7))
COUNTS = np.random.default_rng(0).poisson(20, size=(7, 5)).astype(np.float32)


def written(path: Path, values: np.ndarray, rows: tuple[str, ...], columns: tuple[str, ...], sep: str = ",") -> Path:
    lines = [sep.join(["", *columns])]
    lines += [sep.join([name, *(f"{value:g}" for value in row)]) for name, row in zip(rows, values, strict=True)]
    text = "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize(("name", "sep"), [("x.csv", ","), ("x.tsv", "\t"), ("x.csv.gz", ","), ("x.txt", ";")])
@pytest.mark.parametrize("genes_in_rows", [False, True])
def test_every_text_layout_gives_the_same(tmp_path: Path, name: str, sep: str, genes_in_rows: bool) -> None:
    if genes_in_rows:
        path = written(tmp_path / name, COUNTS.T, GENES, SAMPLES, sep)
    else:
        path = written(tmp_path / name, COUNTS, SAMPLES, GENES, sep)
    read = read_expression(path)
    assert read.samples == SAMPLES and read.genes == GENES and not read.warnings
    assert read.values.dtype == np.float32 and (read.values == COUNTS).all() and read.scale == "counts"


def test_known_samples_decide_before_any_guess(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", COUNTS, ("a", "b", "c", "d", "e", "f", "g"), ("p", "q", "r", "s", "t"))
    assert read_expression(path).samples == ("a", "b", "c", "d", "e", "f", "g")
    assert "look like names of genes" in read_expression(path).warnings[0]
    turned = read_expression(path, samples=["q", "t"])
    assert turned.samples == ("p", "q", "r", "s", "t") and (turned.values == COUNTS.T).all() and not turned.warnings


def test_as_r_and_gct_write_it(tmp_path: Path) -> None:
    lines = ["\t".join(SAMPLES[:2]), *("\t".join([gene, "1.5", "NA"]) for gene in GENES)]
    (tmp_path / "r.tsv").write_text("\n".join(lines))
    read = read_expression(tmp_path / "r.tsv")
    assert read.samples == SAMPLES[:2] and read.genes == GENES
    assert (read.values[0] == 1.5).all() and np.isnan(read.values[1]).all()
    lines = ["#1.2", "5\t2", "Name\tDescription\t" + "\t".join(SAMPLES[:2])]
    lines += [f"{gene}\tsome words\t1\t{index}" for index, gene in enumerate(GENES)]
    (tmp_path / "g.txt").write_text("\n".join(lines))
    read = read_expression(tmp_path / "g.txt")
    assert read.samples == SAMPLES[:2] and read.values[1].tolist() == [0, 1, 2, 3, 4]
    assert "'Description'" in read.warnings[0]


def test_names_of_genes() -> None:
    assert harmonised("ENSG00000141736.14") == "ENSG00000141736" and harmonised("ERBB2|2064") == "ERBB2"
    assert harmonised("FO538757.1") == "FO538757.1", "the dot belongs to a symbol"
    assert harmonised("ENSG00000182378.15_PAR_Y") != harmonised("ENSG00000182378.15")
    ensembl = [f"ENSG{index:011d}.3" for index in range(9)]
    assert gene_likeness(ensembl) > gene_likeness(SAMPLES) == 0
    assert gene_likeness(["Erbb2", "Actb"]) > gene_likeness(["10x21", "11x22"]) == 0


def test_genes_of_one_name_are_merged_and_said(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", COUNTS[:, :3], SAMPLES, ("ENSG00000141736.1", "ENSG00000141736.2", "GAPDH"))
    read = read_expression(path)
    assert read.genes == ("ENSG00000141736", "GAPDH") and "1 columns" in read.warnings[0]
    assert np.allclose(read.values[:, 0], COUNTS[:, 0] + COUNTS[:, 1])


def test_h5ad_dense_sparse_and_ensembl(tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    import pandas
    from scipy import sparse

    ids = [f"ENSG{index:011d}" for index in range(5)]
    for index, matrix in enumerate((COUNTS, sparse.csr_matrix(COUNTS), sparse.csc_matrix(COUNTS))):
        var = pandas.DataFrame({"gene_symbols": list(GENES)}, index=ids)
        data = anndata.AnnData(matrix, obs=pandas.DataFrame(index=list(SAMPLES)), var=var)
        data.write_h5ad(tmp_path / f"{index}.h5ad")
        read = read_expression(tmp_path / f"{index}.h5ad")
        assert read.genes == GENES and read.gene_ids == tuple(ids) and read.samples == SAMPLES
        assert (read.columns(range(5)) == COUNTS).all() and np.allclose(read.totals(), COUNTS.sum(axis=1))
        assert read.column_of()[ids[3]] == read.column_of()[GENES[3]] == 3
        assert GeneScaler.fit(read).apply(read).shape == (7, 5)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no rows"),
        (",ERBB2,GAPDH\n", "no rows"),
        (",ERBB2,GAPDH\na,1,2\nb,1\n", "line 3: 2 cells, but the header has 3"),
        ("".join([",ERBB2\n", *(f"s{i},1\n" for i in range(300)), "b,x\n"]), "line 302: 'x' is not a number"),
        (",ERBB2,GAPDH\na,x,y\n", "no column of numbers"),
        (",ERBB2,GAPDH\na,1,2\na,1,3\n", "'a' more than once"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(TableUnreadable, match=says):
        read_expression(tmp_path / "x.csv")


def test_missing_or_foreign_file(tmp_path: Path) -> None:
    with pytest.raises(FileMissing):
        read_expression(tmp_path / "no.csv")
    (tmp_path / "x.h5ad").write_bytes(b"no hdf5")
    with pytest.raises(TableUnreadable, match="cannot be read as h5ad"):
        read_expression(tmp_path / "x.h5ad")


def test_the_scale_comes_from_the_training_rows_alone(tmp_path: Path) -> None:
    table = read_expression(written(tmp_path / "a.csv", COUNTS, SAMPLES, GENES))
    other = COUNTS.copy()
    other[4:] *= 50
    changed = read_expression(written(tmp_path / "b.csv", other, SAMPLES, GENES))
    one, two = GeneScaler.fit(table, range(4)), GeneScaler.fit(changed, range(4))
    assert (one.mean == two.mean).all() and (one.sd == two.sd).all() and one.total == two.total
    assert variable_genes(table, 3, range(4)) == variable_genes(changed, 3, range(4))
    scores = one.apply(table)
    assert np.allclose(scores[:4].mean(axis=0), 0, atol=1e-4) and np.allclose(scores[:4].std(axis=0), 1, atol=1e-4)


def test_depth_of_sequencing_does_not_matter(tmp_path: Path) -> None:
    table = read_expression(written(tmp_path / "a.csv", COUNTS, SAMPLES, GENES))
    deep = read_expression(written(tmp_path / "b.csv", COUNTS * np.arange(1, 8)[:, None], SAMPLES, GENES))
    scaler = GeneScaler.fit(table)
    assert np.allclose(scaler.apply(table), scaler.apply(deep), atol=1e-4)


def test_constant_and_unknown_genes_are_left_out_by_name(tmp_path: Path) -> None:
    values = np.log1p(COUNTS)
    values[:5, 1] = 2.0  # constant in training, not outside
    table = read_expression(written(tmp_path / "a.csv", values, SAMPLES, GENES))
    scaler = GeneScaler.fit(table, range(5), ["ERBB2", "GAPDH", "NOSUCH"])
    assert scaler.genes == ("ERBB2",) and scaler.constant == ("GAPDH",) and scaler.unknown == ("NOSUCH",)
    assert table.scale == "log" and np.allclose(scaler.undo(scaler.apply(table))[:, 0], table.values[:, 0], atol=1e-5)
    with pytest.raises(TableUnreadable, match="None of the 1 genes"):
        GeneScaler.fit(table, range(5), ["GAPDH"])


def test_another_table_is_checked(tmp_path: Path) -> None:
    scaler = GeneScaler.fit(read_expression(written(tmp_path / "a.csv", COUNTS, SAMPLES, GENES)))
    fewer = read_expression(written(tmp_path / "b.csv", COUNTS[:, :3], SAMPLES, GENES[:3]))
    scores = scaler.apply(fewer)
    assert np.isfinite(scores[:, :3]).all() and np.isnan(scores[:, 3:]).all()
    others = read_expression(written(tmp_path / "c.csv", COUNTS[:, :3], SAMPLES, ("ERBB2", "CD4", "TP53")))
    with pytest.raises(TableUnreadable, match="lacks 4 of the 5 genes"):
        scaler.apply(others)
    logs = read_expression(written(tmp_path / "d.csv", np.log2(COUNTS + 1.5), SAMPLES, GENES))
    with pytest.raises(TableUnreadable, match="holds logarithms, but the tuning was made on counts"):
        scaler.apply(logs)


def test_saved_and_back(tmp_path: Path) -> None:
    table = read_expression(written(tmp_path / "a.csv", COUNTS, SAMPLES, GENES))
    scaler = GeneScaler.fit(table, range(5))
    again = GeneScaler.from_dict(scaler.to_dict(), scaler.tensors())
    assert (again.apply(table) == scaler.apply(table)).all()
    with pytest.raises(TuningUnreadable, match="same number"):
        GeneScaler.from_dict({**scaler.to_dict(), "names": ["ERBB2"]}, scaler.tensors())


def test_variable_genes_pass_over_rare_ones(tmp_path: Path) -> None:
    values = np.zeros((20, 3), dtype=np.float32)
    values[:, 0] = np.random.default_rng(1).poisson(30, 20)
    values[:, 1] = 5
    values[3, 2] = 9000  # one spot only
    genes = ("ERBB2", "GAPDH", "CD3E")
    table = read_expression(written(tmp_path / "a.csv", values, tuple(f"{i}x1" for i in range(20)), genes))
    assert "CD3E" not in variable_genes(table, 2)


def test_real_spots(shared_data: Path) -> None:
    path = shared_data / "st" / "her2st" / "counts" / "C2.tsv.gz"
    if not path.is_file():
        pytest.skip("her2st is not on this machine")
    read = read_expression(path)
    assert read.samples[0] == "10x21" and "ERBB2" in read.genes and len(read) == 187 and read.scale == "counts"


@pytest.mark.parametrize("genes_in_columns", [True, False])
def test_only_the_samples_that_are_wanted_are_kept(tmp_path: Path, genes_in_columns: bool) -> None:
    genes, samples = ["TP53", "ERBB2", "ACTB"], [f"TCGA-AA-000{number}-01" for number in range(4)]
    values = np.arange(12).reshape(4, 3) / 2
    rows, columns, table = (samples, genes, values) if genes_in_columns else (genes, samples, values.T)
    text = "\t".join(["name", *columns]) + "\n"
    text += "".join("\t".join([name, *map(str, row)]) + "\n" for name, row in zip(rows, table, strict=True))
    path = tmp_path / "table.tsv"
    path.write_text(text)
    kept = read_expression(path, only=lambda name: name.endswith(("1-01", "3-01")))
    assert kept.samples == (samples[1], samples[3]) and kept.genes == tuple(genes)
    assert np.array_equal(kept.values, values[[1, 3]])
    assert len(read_expression(path, only=lambda name: False)) == 0


def test_genes_get_other_names_and_meet(tmp_path: Path) -> None:
    table = Expression(np.array([[1.0, 2.0, 30.5]], dtype=np.float32), ("s",), ("A", "B", "C"))
    assert renamed(table, ["X", "Y", "Z"]).genes == ("X", "Y", "Z")
    met = renamed(table, ["X", "Y", "X"])
    assert met.genes == ("X", "Y") and met.values[0, 0] in (31.5, 15.75)
    assert any("name of another gene" in text for text in met.warnings)
