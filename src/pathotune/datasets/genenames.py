"""Symbols for gene ids and for older names, from tables a person has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pathotune.datasets.delimited import Table, read_rows
from pathotune.datasets.genes import ENSEMBL, harmonised
from pathotune.errors import TableUnreadable

# Columns of Xena's probe maps, of GENCODE and BioMart tables, and of HGNC.
_IDS = ("id", "#id", "gene_id", "ensembl_id", "ensembl_gene_id", "gene stable id", "ensembl", "probe")
_SYMBOLS = (
    "gene",
    "gene_name",
    "symbol",
    "gene_symbol",
    "hgnc_symbol",
    "gene name",
    "approved symbol",
    "approved_symbol",
)
_OTHERS = (
    *("synonym", "alias", "alias symbol", "alias_symbol", "alias symbols", "previous symbol", "prev_symbol"),
    "previous symbols",
)


@dataclass
class GeneNames:
    """What genes are called.

    Parameters
    ----------
    symbols : Ensembl id without its version → symbol.
    synonyms : older or other name → symbol.
    renamed, without_symbol : how many of the names last asked for got another name, and how many ids got none.
    """

    symbols: Mapping[str, str] = field(default_factory=dict)
    synonyms: Mapping[str, str] = field(default_factory=dict)
    renamed: int = 0
    without_symbol: int = 0

    def of(self, genes: Sequence[str]) -> list[str]:
        """One name for each gene."""
        names = [self.symbols.get(harmonised(gene), gene) for gene in genes]
        names = [self.synonyms.get(name, name) for name in names]
        self.renamed = sum(name != gene for name, gene in zip(names, genes, strict=True))
        self.without_symbol = sum(ENSEMBL.match(name) is not None for name in names)
        return names


def read_gene_names(gene_map: Path | None = None, synonyms: Path | None = None) -> GeneNames:
    """Read tables of gene names.

    Parameters
    ----------
    gene_map : a table with a column of Ensembl ids (with version or without) and one of symbols, as Xena's probe maps
        or BioMart give it.
    synonyms : a table with a column of other names (several in a cell with commas or bars) and one of symbols, as HGNC
        gives it.

    Raises
    ------
    FileMissing, TableUnreadable : no such file, or no such columns.
    """
    symbols: dict[str, str] = {}
    if gene_map is not None:
        table = read_rows(gene_map, "table of gene names")
        ids, names = _column(gene_map, table, _IDS, "ids"), _column(gene_map, table, _SYMBOLS, "symbols")
        for row in table.rows:
            if row.cells.get(ids) and row.cells.get(names):
                symbols.setdefault(harmonised(row.cells[ids]), row.cells[names])
    others: dict[str, str] = {}
    if synonyms is not None:
        table = read_rows(synonyms, "table of synonyms")
        names = _column(synonyms, table, _SYMBOLS, "symbols")
        columns = [name for name in table.columns if name in _OTHERS] or [
            _column(synonyms, table, _OTHERS, "other names")
        ]
        known = {row.cells.get(names, "") for row in table.rows}
        for row in table.rows:
            for other in (
                part.strip() for name in columns for part in row.cells.get(name, "").replace("|", ",").split(",")
            ):
                # What is the symbol of another gene, or of two genes, says nothing.
                if other and other not in known and row.cells.get(names):
                    others[other] = "" if others.get(other, row.cells[names]) != row.cells[names] else row.cells[names]
    return GeneNames(symbols, {other: name for other, name in others.items() if name})


def _column(path: Path, table: Table, known: Sequence[str], what: str) -> str:
    found = next((name for name in known if name in table.columns), None)
    if found is None:
        raise TableUnreadable(
            f"{path.name} has no column of {what} (its columns: {', '.join(table.columns[:12])}); call it {known[0]!r}."
        )
    return found
