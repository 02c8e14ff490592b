"""Sets of genes (pathways) from GMT files and CSV matrices."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pathotune.datasets.genes import gene_likeness, harmonised, named
from pathotune.errors import FileMissing, TableUnreadable


def read_pathways(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Read pathways and their genes, in the file's order.

    Parameters
    ----------
    path : GMT (name, description, genes, separated by tabs); or CSV/TSV, either a matrix of 0 and 1 (genes × pathways
        or pathways × genes, told apart by the names), or two columns pathway and gene.

    Raises
    ------
    FileMissing : no such file.
    TableUnreadable : it is none of these; the sentence names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileMissing(path, "pathway table")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise TableUnreadable(f"{path.name} is not a text file; give a GMT or CSV table of pathways.") from None
    pathways = _from_gmt(path, text) if path.suffix.lower() == ".gmt" else _from_table(path, text)
    if not any(pathways.values()):
        raise TableUnreadable(f"{path.name} names no gene of any pathway.")
    return pathways


def pathways_sha256(pathways: Mapping[str, Sequence[str]]) -> str:
    """A fingerprint of the pathways and their genes, whatever file they came from."""
    lines = "\n".join(f"{name}\t" + "\t".join(genes) for name, genes in pathways.items())
    return hashlib.sha256(lines.encode("utf-8")).hexdigest()


@dataclass(frozen=True)
class PathwayMatrix:
    """Which gene belongs to which pathway.

    Parameters
    ----------
    names : the pathways that have at least one gene of the table.
    member : (pathways, genes) float32 of 0 and 1.
    genes_without : genes of the table that are in no pathway.
    genes_unknown : genes of the pathways that the table lacks.
    pathways_without : pathways of which the table has too few genes.
    among : what the genes of the table are called in sentences.
    """

    names: tuple[str, ...]
    member: NDArray[np.float32]
    genes_without: int
    genes_unknown: int
    pathways_without: tuple[str, ...]
    among: str = "genes of the expression table"

    @property
    def notes(self) -> tuple[str, ...]:
        """What does not line up, in sentences with counts; empty where everything does."""
        said = []
        if self.genes_without:
            said.append(f"{self.genes_without} of {self.member.shape[1]} {self.among} are in no pathway.")
        if self.genes_unknown:
            said.append(f"{self.genes_unknown} genes of the pathways are none of the {self.among}.")
        if self.pathways_without:
            said.append(
                f"{len(self.pathways_without)} pathways hold too few {self.among} and were left out: "
                f"{named(self.pathways_without)}."
            )
        return tuple(said)

    def scores(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """(samples, pathways) mean z-score of each pathway's genes, of (samples, genes); missing ones passed over."""
        known = np.isfinite(values)
        sums = np.where(known, values, 0.0) @ self.member.T
        counts = known.astype(np.float32) @ self.member.T
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(counts > 0, sums / counts, np.nan), dtype=np.float32)


def pathway_matrix(
    pathways: Mapping[str, Sequence[str]],
    genes: Sequence[str],
    least_genes: int = 1,
    among: str = "genes of the expression table",
) -> PathwayMatrix:
    """Match pathways with the genes of a table.

    Parameters
    ----------
    pathways : as `read_pathways` gives them.
    genes : the table's genes, in its order; Ensembl versions do not matter.
    least_genes : pathways with fewer genes in the table are left out, by name.
    among : what the genes of the table are called in sentences.

    Raises
    ------
    TableUnreadable : no pathway has a gene of the table.
    """
    column = {harmonised(name): index for index, name in enumerate(genes)}
    member = np.zeros((len(pathways), len(genes)), dtype=np.float32)
    unknown = set()
    for row, members in enumerate(pathways.values()):
        for gene in members:
            index = column.get(harmonised(gene))
            if index is None:
                unknown.add(harmonised(gene))
            else:
                member[row, index] = 1.0
    enough = member.sum(axis=1) >= max(least_genes, 1)
    if not enough.any():
        first = next((gene for members in pathways.values() for gene in members), "none")
        fewest = f"{least_genes} of the" if least_genes > 1 else "one of the"
        raise TableUnreadable(
            f"No pathway holds {fewest} {len(genes)} {among} (for example {named(genes, 2)}; the pathways name "
            f"{first!r}). Name both alike: ids become symbols with pathotune cohort --gene-map TABLE, or where an h5ad "
            "file has a column of symbols."
        )
    names = list(pathways)
    return PathwayMatrix(
        tuple(name for name, keep in zip(names, enough, strict=True) if keep),
        member[enough],
        int((member.sum(axis=0) == 0).sum()),
        len(unknown),
        tuple(name for name, keep in zip(names, enough, strict=True) if not keep),
        among,
    )


def _from_gmt(path: Path, text: str) -> dict[str, tuple[str, ...]]:
    pathways: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) < 3:
            raise TableUnreadable(
                f"{path.name}, line {number}: a GMT line is a name, a description and genes, separated by tabs."
            )
        if cells[0] in pathways:
            raise TableUnreadable(f"{path.name}, line {number}: the pathway {cells[0]!r} comes twice; keep one.")
        pathways[cells[0]] = tuple(dict.fromkeys(harmonised(cell) for cell in cells[2:] if cell))
    return pathways


def _from_table(path: Path, text: str) -> dict[str, tuple[str, ...]]:
    head = text.splitlines()[0] if text.strip() else ""
    delimiter = max("\t,;", key=head.count)
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if any(cell.strip() for cell in row)]
    if len(rows) < 2 or len(rows[0]) < 2:
        raise TableUnreadable(f"{path.name} is no table of pathways; give GMT, a matrix of 0 and 1, or pathway,gene.")
    if {cell.strip().casefold() for cell in rows[0]} >= {"pathway", "gene"}:
        return _from_pairs(rows)
    names = rows[0] if len(rows[0]) == len(rows[1]) else ["", *rows[0]]
    columns = [name.strip() for name in names[1:]]
    lines = [row[0].strip() for row in rows[1:]]
    try:
        matrix = np.asarray([[float(cell or 0) for cell in row[1:]] for row in rows[1:]], dtype=np.float32)
    except ValueError:
        raise TableUnreadable(
            f"{path.name} is no matrix of 0 and 1: every cell behind the first column must be a number."
        ) from None
    if matrix.shape != (len(lines), len(columns)) or not np.isin(matrix, (0.0, 1.0)).all():
        raise TableUnreadable(
            f"{path.name} is no matrix of 0 and 1; a pathway table says 1 where a gene belongs to it."
        )
    if gene_likeness(columns) > gene_likeness(lines):
        lines, columns, matrix = columns, lines, matrix.T
    genes = [harmonised(name) for name in lines]
    return {
        name: tuple(gene for gene, belongs in zip(genes, matrix[:, column], strict=True) if belongs)
        for column, name in enumerate(columns)
    }


def _from_pairs(rows: list[list[str]]) -> dict[str, tuple[str, ...]]:
    names = [cell.strip().casefold() for cell in rows[0]]
    pathway, gene = names.index("pathway"), names.index("gene")
    found: dict[str, dict[str, None]] = {}
    for row in rows[1:]:
        if len(row) > max(pathway, gene) and row[gene].strip():
            found.setdefault(row[pathway].strip(), {})[harmonised(row[gene])] = None
    return {name: tuple(members) for name, members in found.items()}
